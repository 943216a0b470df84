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


ANSWER = dict(max_tokens=6, stop_at_eos=False)


@pytest.mark.parametrize("drafter", [None, "mtp", "assistant", "dflash", "ngram"])
def test_a_prompt_that_extends_or_edits_reads_only_what_is_new(drafter: str | None) -> None:
    m = model(PROGRAM, drafters(11)[drafter] if drafter else None)
    session, read = m.session(), []
    ends = [300, 330, 500, 505, 640]
    prompts = [TEXT[:end] for end in ends]
    edited = [TEXT[:500] + [9, 9, 9], TEXT[:610] + [5], TEXT[:640], TEXT[:640], TEXT[:640] + [1, 2], TEXT[:320] + [7] * 5, TEXT[:3], TEXT[:2] + [8]]
    for prompt in prompts + edited:
        result = session.generate(prompt, **ANSWER)
        assert result.tokens == m.generate(prompt, draft_tokens=0, **ANSWER).tokens
        assert session.tokens == prompt + result.tokens[:-1]
        assert result.stats.prompt_tokens + result.stats.reused_tokens == len(prompt)
        read.append(result.stats.prompt_tokens)
    assert read[0] == 300
    # New tokens, and the few before them that states and drafters must see again.
    assert read[1] <= 30 + 34 and read[2] <= 170 + 34 and read[3] <= 5 + 34 and read[4] <= 135 + 34
    assert read[5] <= 34 + 3 and read[7] <= 40 + 140 and read[8] <= 2 and read[9] <= 4 and read[10] <= 20 + 34


def test_an_edited_last_turn_of_a_long_conversation_reads_that_turn() -> None:
    """Turns longer than what steps back for free, and than the sliding window's ring."""
    m = model(PROGRAM, drafters(11)["mtp"], context=100_000)
    session, random = m.session(), np.random.default_rng(3)
    text: list[int] = []
    for _ in range(6):
        before = text
        text = before + random.integers(0, VOCABULARY, 1500).tolist()
        text = text + session.generate(text, **ANSWER).tokens
    result = session.generate(before + [4, 5, 6], **ANSWER)
    assert result.stats.prompt_tokens < 50 and result.stats.reused_tokens > 7000
    assert result.tokens == m.generate(before + [4, 5, 6], **ANSWER).tokens
    points = [length for length, _ in session._sequence.points[:-1]]
    assert len(points) <= 16 and points == sorted(set(points))


@pytest.mark.parametrize("drafter", [None, "mtp", "assistant", "dflash", "ngram"])
@pytest.mark.parametrize("length", [1, 40, 256, 300])
def test_a_fork_and_its_origin_do_not_meet(reference, drafter: str | None, length: int) -> None:
    logits, _ = reference
    m = model(PROGRAM, drafters(11)[drafter] if drafter else None)
    origin = m.session()
    origin.forward(TEXT[:length], logits=None)
    if drafter:
        origin.draft(3, TEXT[length])
    forks = [origin.fork() for _ in range(3)]
    detour = np.random.default_rng(1).integers(0, VOCABULARY, 300).tolist()
    forks[0].forward(detour, logits=None)
    forks[1].rollback(length // 2)
    forks[1].forward(detour, logits=None)
    again = forks[2].fork()
    forks[2].rollback(0)
    more = TEXT[length:length + 20]
    assert np.array_equal(origin.forward(more, logits="all"), logits[length:length + 20])
    assert np.array_equal(again.forward(more, logits="all"), logits[length:length + 20])
    for fork, kept in ((forks[0], length), (forks[1], length // 2)):
        fresh = m.session()
        fresh.forward(TEXT[:kept] + detour, logits=None)
        assert fork.tokens == fresh.tokens
        if drafter:
            assert fork.draft(4, 3) == fresh.draft(4, 3)
        assert np.array_equal(fork.forward([3, 4]), fresh.forward([3, 4]))
    both = skipstone.forward([(origin, TEXT[length + 20:length + 25]), (again, TEXT[length + 20:length + 25])], logits="all")
    assert all(np.array_equal(x, logits[length + 20:length + 25]) for x in both)


def test_wrong_options_leave_a_session_as_it_was() -> None:
    session = model(PROGRAM).session()
    session.forward([1, 2, 3], logits=None)
    for prompt, options, named in (([], {}, "prompt"), ([1], dict(temperature=-1), "temperature"), ([1], dict(draft_tokens=2), "draft_tokens"),
                                   ([1] * 5000, {}, "context"), ([1], dict(nothing=1), "nothing"), ([1], dict(stop="x"), "stop")):
        with pytest.raises(ArgumentError, match=named):
            session.generate(prompt, **options)
    assert session.tokens == [1, 2, 3]
    with pytest.raises(ArgumentError, match="draft=False"):
        model(PROGRAM, drafters(11)["mtp"]).session(draft=False).generate([1], draft_tokens=2)


def test_many_threads_with_forks_of_one_session(reference) -> None:
    """Chunks of caches are shared until somebody writes them, also by others."""
    from concurrent.futures import ThreadPoolExecutor

    logits, _ = reference
    origin = model(PROGRAM).session()
    origin.forward(TEXT[:250], logits=None)

    def go_on(_: int) -> bool:
        fork = origin.fork()
        return np.array_equal(fork.forward(TEXT[250:300], logits="all"), logits[250:300])
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(go_on, range(40)))
