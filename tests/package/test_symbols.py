"""What the native libraries ask for and offer."""
from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import skipstone

CORE = Path(skipstone.__file__).resolve().parent / "libskipstone_core.so"
VARIANTS = [folder.name for folder in (Path(__file__).resolve().parents[2] / "csrc/backends/cpu").glob("*") if (folder / "isa.h").is_file()] or \
    ["amx", "avx2", "avx512", "avxvnni", "baseline"]

pytestmark = pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is not installed")


def _symbols(*options: str) -> list[tuple[str, str]]:
    """(kind letter, name) of the core library's symbols."""
    output = subprocess.run(["nm", *options, str(CORE)], capture_output=True, text=True, check=True).stdout
    found = [re.match(r"[0-9a-f]* *(\w) (.*)", line.strip()) for line in output.splitlines()]
    return [(m[1], m[2]) for m in found if m]


def test_core_needs_no_python() -> None:
    needed = [name for _, name in _symbols("-D", "--undefined-only")]
    assert needed, "nm lists no undefined symbol: not even the C library's"
    assert [name for name in needed if re.match(r"_?Py", name)] == []


def test_core_offers_its_classes() -> None:
    offered = [name for _, name in _symbols("-D", "-C", "--defined-only")]
    for name in ("skipstone::Program::run(", "skipstone::Sampler::choose(", "skipstone::formats::find("):
        assert any(symbol.startswith(name) for symbol in offered), name


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_variant_offers_only_its_table(variant: str) -> None:
    """A weak or unique symbol of code built for a newer processor could replace the same function elsewhere and end in an illegal instruction."""
    mark = f"skipstone::cpu::{variant}::"
    exported = [(kind, name) for kind, name in _symbols("-D", "-C", "--defined-only") if mark in name]
    assert [(kind, name) for kind, name in exported if name != f"{mark}kernels"] == []
    assert [(kind, name) for kind, name in exported if kind in "WVwvu"] == []
    # The full table, where the library is not stripped: nothing there is weak or unique either.
    assert [(kind, name) for kind, name in _symbols("-C", "--defined-only") if mark in name and kind in "WVwvu"] == []
