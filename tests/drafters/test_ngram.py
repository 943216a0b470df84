"""Prompt lookup: what it drafts, that it pays where texts repeat themselves, and that it costs nothing where they do not."""
from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from small_models import VOCABULARY, model, target

import skipstone
from skipstone import bundled
from skipstone.drafters.ngram import NgramDrafter


def drafts(text: list[int], n: int) -> list[int]:
    return NgramDrafter().begin().draft(text[:-1], text[-1], n, None, None)


def test_what_followed_before() -> None:
    assert drafts([1, 2, 3, 4, 5, 9, 9, 1, 2, 3], 4) == [4, 5, 9, 9]
    assert drafts([1, 2, 7, 1, 2, 8, 1, 2], 1) == [8]                          # the newest place
    assert drafts([5, 1, 2, 7, 6, 1, 2, 8, 5, 1, 2], 2) == [7, 6]              # the longest match
    assert drafts([1, 2, 1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]                    # on into itself
    assert drafts([1, 2, 3, 9, 8, 7, 6, 5, 2, 3], 15) == [9, 8, 7, 6]          # no more than twice the match
    assert drafts([1, 2, 3, 4], 4) == drafts([3], 4) == drafts([3, 3], 4) == []
    assert drafts([3, 3, 3], 4) == [3, 3, 3, 3]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.lists(st.integers(1, 59), max_size=6))
def test_any_path_gives_the_same(text: list[int], lengths: list[int]) -> None:
    """The index follows a text that goes on and back."""
    state = NgramDrafter().begin()
    for length in lengths:
        part = text[:max(1, min(length, len(text)))]
        state.rollback(len(part) - 1)
        copied = state.copy()
        assert state.draft(part[:-1], part[-1], 7, None, None) == drafts(part, 7) == copied.draft(part[:-1], part[-1], 7, None, None)


def test_texts_that_repeat_are_written_several_tokens_a_pass() -> None:
    code = "class Stack:\n    def __init__(self):\n"
    m = skipstone.load(bundled.QWEN35, draft="ngram", device="cpu")
    assert m.drafter is not None and m.drafter.name == "ngram"
    drafted, plain = m.generate(code, max_tokens=96, draft_tokens=6, stop_at_eos=False), m.generate(code, max_tokens=96, draft_tokens=0, stop_at_eos=False)
    assert drafted.tokens == plain.tokens and drafted.stats.tokens_per_pass > 2
    assert m.generate(code, max_tokens=96, draft_tokens="auto", temperature=0.7, seed=4).tokens == m.generate(code, max_tokens=96, draft_tokens=0, temperature=0.7, seed=4).tokens


def test_texts_that_do_not_repeat_are_left_alone() -> None:
    """Sampled from nothing much, hardly any two tokens come again: few passes draft at all."""
    m = model(target(5, sharpness=0.3), NgramDrafter())
    prompt = np.random.default_rng(1).permutation(VOCABULARY)[:20].tolist()
    result = m.generate(prompt, max_tokens=60, draft_tokens=8, temperature=1.0, seed=2, stop_at_eos=False)
    assert (result.stats.drafted or [0])[0] < result.stats.passes / 2
    assert result.tokens == m.generate(prompt, max_tokens=60, draft_tokens=0, temperature=1.0, seed=2, stop_at_eos=False).tokens
