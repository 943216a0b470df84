"""Sessions: what was read decides everything, however it was read and however far it was rolled back."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import VOCABULARY, WIDTH, drafters, model, target

import skipstone
from skipstone.errors import ArgumentError

PROGRAM = target(11)
TEXT = np.random.default_rng(11).integers(0, VOCABULARY, 900).tolist()


@pytest.fixture(scope="module")
def reference() -> tuple[np.ndarray, np.ndarray]:
    """Logits and hidden states of all positions, read token by token."""
    session = model(PROGRAM).session()
    rows = [(session.forward([t]), session.hidden) for t in TEXT]
    return np.concatenate([r[0] for r in rows]), np.concatenate([r[1] for r in rows])


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(1, 400), min_size=1, max_size=8), back=st.lists(st.integers(0, 900), max_size=5), threads=st.integers(1, 3))
def test_any_cut_and_any_rollback_give_the_same_bits(reference, cuts: list[int], back: list[int], threads: int) -> None:
    session = model(PROGRAM, threads=threads).session()
    logits, hidden = reference
    for cut, to in zip(cuts, back + [900] * len(cuts)):
        start = session.length
        part = TEXT[start:start + cut]
        if part:
            assert np.array_equal(session.forward(part, logits="all"), logits[start:start + len(part)])
            assert np.array_equal(session.hidden, hidden[start:start + len(part)])
        assert session.tokens == TEXT[:session.length]
        session.rollback(min(to, session.length))
    start = session.length
    if start < len(TEXT):
        last = session.forward(TEXT[start:start + 3], logits="last")
        assert last.shape == (1, VOCABULARY) and np.array_equal(last[0], logits[session.length - 1])


def test_rolling_back_and_reading_something_else(reference) -> None:
    logits, _ = reference
    session, other = model(PROGRAM).session(), model(PROGRAM).session()
    session.forward(TEXT[:500], logits=None)
    session.rollback(123)
    detour = [int(t) for t in np.random.default_rng(1).integers(0, VOCABULARY, 200)]
    other.forward(TEXT[:123] + detour[:-1], logits=None)
    assert np.array_equal(session.forward(detour)[0], other.forward(detour[-1:])[0])
    session.rollback(123)
    assert np.array_equal(session.forward(TEXT[123:140], logits="all"), logits[123:140])


def test_several_sessions_in_one_pass(reference) -> None:
    logits, hidden = reference
    m = model(PROGRAM)
    a, b, c = m.session(), m.session(), m.session()
    a.forward(TEXT[:40], logits=None)
    b.forward(TEXT[:300], logits=None)
    b.rollback(200)
    x, y, z = skipstone.forward([(a, TEXT[40:43]), (b, TEXT[200:209]), (c, TEXT[:1])], logits="all")
    assert np.array_equal(x, logits[40:43]) and np.array_equal(y, logits[200:209]) and np.array_equal(z, logits[:1])
    assert np.array_equal(a.hidden, hidden[40:43]) and np.array_equal(c.hidden, hidden[:1])
    x, y, z = skipstone.forward([(a, TEXT[43:45]), (b, []), (c, TEXT[1:2])], logits="last")
    assert np.array_equal(x, logits[44:45]) and y.shape == (0, VOCABULARY) and np.array_equal(z, logits[1:2])
    assert skipstone.forward([(a, TEXT[45:46]), (c, TEXT[2:3])], logits=None) == [None, None]
    assert (a.length, b.length, c.length) == (46, 209, 3)


def test_no_tokens_are_defined() -> None:
    session = model(PROGRAM).session()
    assert session.forward([]).shape == (0, VOCABULARY) and session.forward([], logits=None) is None
    assert session.hidden.shape == (0, WIDTH) and session.tokens == [] and len(session) == 0
    assert skipstone.forward([]) == []


def test_wrong_arguments_are_named_and_change_nothing() -> None:
    m = model(PROGRAM, context=20)
    session = m.session()
    session.forward([1, 2, 3], logits=None)
    for tokens in ([VOCABULARY], [-1], [1.5], ["a"], [[1, 2]], [1, 2] * 9, [None], [2**70], np.zeros((2, 2), np.int32), [True, "x"]):
        with pytest.raises(ArgumentError, match="tokens"):
            session.forward(tokens)
    with pytest.raises(ArgumentError, match="logits"):
        session.forward([1], logits="some")
    for length in (-1, 4, 1.5, None):
        with pytest.raises(ArgumentError, match="length"):
            session.rollback(length)
    with pytest.raises(ArgumentError, match="drafter"):
        session.draft(2, 1)
    with pytest.raises(ArgumentError, match="twice"):
        skipstone.forward([(session, [1]), (session, [1])])
    with pytest.raises(ArgumentError, match="one model"):
        skipstone.forward([(session, [1]), (model(PROGRAM).session(), [1])])
    with pytest.raises(ArgumentError, match="parts"):
        skipstone.forward([session])
    assert session.tokens == [1, 2, 3]
    assert session.forward(range(17)).shape == (1, VOCABULARY)   # exactly full
    with pytest.raises(ArgumentError, match="context"):
        session.forward([1])


@pytest.mark.parametrize("name", ["mtp", "assistant"])
def test_wrong_drafts_are_refused(name: str) -> None:
    session = model(PROGRAM, drafters(11)[name], context=20).session()
    with pytest.raises(ArgumentError, match="read"):
        session.draft(2, 1)
    session.forward([1, 2, 3], logits=None)
    for n, token, what in ((2, VOCABULARY, "token"), (2, -1, "token"), (-1, 1, "n:"), (17, 1, "context"), (True, 1, "n:")):
        with pytest.raises(ArgumentError, match=what):
            session.draft(n, token)
    assert session.draft(0, 1) == [] and len(session.draft(16, 1)) == 16


def test_ids_come_in_any_shape_of_iterable() -> None:
    m = model(PROGRAM)
    expected = m.session().forward([5, 6, 7])
    for tokens in ((5, 6, 7), range(5, 8), np.array([5, 6, 7]), np.array([5, 6, 7], np.uint8), iter([5, 6, 7]), [np.int64(5), 6, 7]):
        assert np.array_equal(m.session().forward(tokens), expected)
