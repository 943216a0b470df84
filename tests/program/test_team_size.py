"""How many threads small passes take: the faster way nearly always, and it follows a machine that changes."""
from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("c++") or shutil.which("g++")


@pytest.fixture(scope="module")
def passes_alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    if COMPILER is None:
        pytest.skip("needs a C++ compiler")
    program = tmp_path_factory.mktemp("team") / "team_size"
    subprocess.run([COMPILER, "-std=c++20", "-O1", f"-I{ROOT / 'csrc'}", "-o", program, Path(__file__).with_name("team_size.cpp")], check=True)

    def simulate(team: float, alone: float, first: int, last: int, later: float = 0, change: int = 1 << 30) -> int:
        return int(subprocess.run([str(program), *map(str, (team, alone, later, change, first, last))], capture_output=True, text=True, check=True).stdout)

    return simulate


def test_a_large_model_runs_as_a_team(passes_alone: Callable[..., int]) -> None:
    assert passes_alone(5, 9, 0, 4) == 0                        # from the first pass
    assert passes_alone(5, 9, 0, 30) <= 2 and passes_alone(5, 9, 0, 1000) <= 1000 / 20


def test_a_tiny_model_runs_alone(passes_alone: Callable[..., int]) -> None:
    assert passes_alone(0.3, 0.2, 10, 1000) >= 0.9 * 990
    assert passes_alone(0.21, 0.2, 20, 1000) >= 0.85 * 980      # close


def test_it_follows_the_machine(passes_alone: Callable[..., int]) -> None:
    assert passes_alone(5, 9, 700, 1000, later=50, change=500) >= 0.9 * 300         # a neighbour came
    assert passes_alone(50, 9, 2000, 3000, later=5, change=500) <= 0.1 * 1000       # and went
