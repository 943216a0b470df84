"""Every committed input of the fuzz targets, and each cut short: nothing comes out but FileError."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from targets import TARGETS  # noqa: E402

INPUTS = sorted(path for path in (HERE / "corpus").glob("*/*"))


def test_each_target_has_inputs():
    assert {path.parent.name for path in INPUTS} == set(TARGETS)
    assert all((HERE / f"{name}.dict").read_text() for name in TARGETS)


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_input(path):
    target, data = TARGETS[path.parent.name], path.read_bytes()
    target(data)
    for size in range(0, len(data), max(1, len(data) // 20)):
        target(data[:size])
