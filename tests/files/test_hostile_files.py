"""A few of the hostile files (hostile_files.py makes any number of them), whole models from loading to generating."""
from __future__ import annotations

import pytest
from hostile_files import folders, trees, use, write, write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("number", range(5))
def test_right_ones_work(tmp_path, number):
    (tmp_path / "x.gguf").write_bytes(trees()[number].build())
    assert use(tmp_path / "x.gguf") == ""
    assert len(folders()) == len(trees()) == 5


@pytest.mark.parametrize("first", range(0, 240, 40))
def test_hostile_files(tmp_path_factory, first):
    """Each works or raises FileError with a message."""
    loaded = 0
    for number in range(first, first + 40):
        loaded += use(write(number, tmp_path_factory.mktemp("hostile"))) == ""
    assert loaded < 20


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(random=st.randoms(use_true_random=False))
def test_hostile_files_by_hypothesis(tmp_path, random):
    """The same lies, drawn by hypothesis, which makes what it finds smaller."""
    use(write_gguf(random, tmp_path))
