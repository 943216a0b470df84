"""The emulated NVIDIA card is built once for all of these tests."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest

import emulation

sys.path.append(str(Path(__file__).parents[1] / "models"))      # whose small models load onto cards too


@pytest.fixture(scope="session")
def emulated_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux":
        pytest.skip("the emulated card is built for dlopen")
    return emulation.build(tmp_path_factory.mktemp("card"))
