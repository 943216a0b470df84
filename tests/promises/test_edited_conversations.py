"""Promise 2, in sessions: conversations that are edited, forked, saved, loaded, batched and cancelled give the texts of fresh runs."""
from __future__ import annotations

from pathlib import Path

import pytest
from bundled import NAMES, bundled
from conversations import Fresh, alone, together


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("drafts", [False, True], ids=["plain", "drafted"])
def test_a_few(name: str, drafts: bool, tmp_path: Path) -> None:
    model = bundled(name)
    fresh = Fresh(model)
    compared, read, reused = alone(model, fresh, 1, 5, drafts, tmp_path)
    assert compared == 5 and reused > read / 2
    compared, cancelled, reused = together(model, fresh, [1, 2, 3], 3, drafts, tmp_path)
    assert compared == 9 and reused > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("drafts", [False, True], ids=["plain", "drafted"])
def test_more(name: str, drafts: bool, tmp_path: Path) -> None:
    """At full size it is a program: python tests/promises/conversations.py"""
    model = bundled(name)
    fresh = Fresh(model)
    for seed in (50,):
        alone(model, fresh, seed, 8, drafts, tmp_path)
    compared, cancelled, _ = together(model, fresh, list(range(60, 68)), 2, drafts, tmp_path)
    assert compared == 16 and cancelled > 0
