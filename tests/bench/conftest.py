"""The scripts of bench/ as modules: they are programs beside the package, not part of it."""
from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


def _module(name: str) -> ModuleType:
    if not BENCH.is_dir():
        pytest.skip("bench/ is not here")
    if str(BENCH) not in sys.path:
        sys.path.append(str(BENCH))
    return importlib.import_module(name)


@pytest.fixture
def peers() -> ModuleType:
    return _module("peers")


@pytest.fixture
def compare_cpu() -> ModuleType:
    return _module("compare_cpu")


@pytest.fixture
def rounds() -> ModuleType:
    return _module("rounds")


@pytest.fixture
def compare_gpu() -> ModuleType:
    return _module("compare_gpu")
