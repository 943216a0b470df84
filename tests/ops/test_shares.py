"""Work that early members of a team take over from late ones: every part once, and the same bits."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from blocks import random_blocks

from skipstone import _native

ROOT = Path(__file__).resolve().parents[2]


def test_every_unit_is_given_once(tmp_path: Path) -> None:
    compiler = next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)
    if compiler is None:
        pytest.skip("no C++ compiler (c++, g++, clang++ or $CXX) is here to build the program with")
    program = tmp_path / "shares"
    subprocess.run([compiler, "-std=c++20", "-O1", f"-I{ROOT / 'csrc'}", str(Path(__file__).with_name("shares.cpp")), "-pthread", "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    said = re.fullmatch(r"(\d+) times in pieces\n", done.stdout)
    assert done.returncode == 0 and said and int(said[1]) > 50, done.stdout


def test_bits_do_not_depend_on_who_takes_what() -> None:
    rng = np.random.default_rng(5)
    n, k = 4099, 512                                           # a share of a megabyte: most of it a member's own, the rest in pieces
    weight = _native.Weight("Q8_0", n, k, random_blocks(rng, "Q8_0", n * k).reshape(-1))
    for rows in (1, 3, 40):
        x = rng.standard_normal((rows, k), dtype=np.float32)
        alone = _native.matmul(x, weight, 1)
        for threads in (2, 3, 2, 3):
            assert np.array_equal(_native.matmul(x, weight, threads).view(np.uint32), alone.view(np.uint32))
