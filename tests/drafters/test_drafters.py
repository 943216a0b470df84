"""Drafts are a function of the text and the chosen token: whatever path led there, and as the chain is defined."""
from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import MASK, SIZE, VOCABULARY, assistant, drafters, model, mtp_head, target

from skipstone import _native

SEED = 21
PROGRAM, MTP, ASSISTANT = target(SEED), mtp_head(SEED + 1), assistant(SEED + 2)
TEXT = np.random.default_rng(SEED).integers(0, VOCABULARY, 1300).tolist()


def ids(tokens: list[int]) -> np.ndarray:
    return np.asarray(tokens, np.int32)


def hidden_of(text: list[int]) -> tuple[Any, np.ndarray]:
    sequence = PROGRAM.sequence("f16")
    return sequence, PROGRAM.run([(sequence, ids(text))], want="none")[1]


def mtp_chain(text: list[int], token: int, n: int, sampler: Any = None) -> list[int]:
    """The chain by its definition, one row at a time: pairs of the text, then the token, then the head's own output."""
    _, hidden = hidden_of(text)
    cache = MTP.sequence("f16")
    for p in range(len(text) - 1):
        MTP.run([(cache, ids(text[p + 1:p + 2]))], hidden=hidden[p:p + 1], want="none")
    drafts, h = [], hidden[-1:]
    for _ in range(n):
        logits, h = MTP.run([(cache, ids([token]))], hidden=h, want="logits")
        token = int(logits[0].argmax()) if sampler is None else sampler.choose(logits[0])
        if sampler is not None:
            sampler.push(token)
        drafts.append(token)
    return drafts


def assistant_chain(text: list[int], token: int, n: int, sampler: Any = None) -> list[int]:
    sequence, hidden = hidden_of(text)
    drafts, h = [], hidden[-1:]
    for _ in range(n):
        logits, h = ASSISTANT.run([(None, ids([token]))], hidden=h, borrow=[sequence], want="logits")
        token = int(logits[0].argmax()) if sampler is None else sampler.choose(logits[0])
        if sampler is not None:
            sampler.push(token)
        drafts.append(token)
    return drafts


def block_drafts(drafter: Any, text: list[int], token: int, n: int, sampler: Any = None) -> list[int]:
    """A block by its definition: all rows of the text read at once, then the whole block."""
    sequence, hidden = hidden_of(text)
    if (context := drafter.block.context) is not None:
        sequence = context.sequence("f16")
        context.run([(sequence, ids([0] * len(text)))], hidden=hidden, want="none")
    rows, projected = drafter.program.run([(None, ids([token] + [MASK] * (SIZE - 1)))], borrow=[sequence], want="logits")
    first, drafts = 1 - drafter.block.shift, []
    for j in range(first, first + min(n, SIZE - 1)):
        logits = rows[j]
        if (selector := drafter.block.selector) is not None:
            before = selector.predecessor.values[drafts[-1] if drafts else token]
            best = np.sort(np.argsort(-logits, kind="stable")[:selector.top])
            logits = np.full(VOCABULARY, -np.inf, np.float32)
            logits[best] = rows[j][best] + selector.successor.values[best] @ (before * projected[j])
        drafts.append(int(logits.argmax()) if sampler is None else sampler.choose(logits))
        if sampler is not None:
            sampler.push(drafts[-1])
    return drafts


def ngram_drafts(text: list[int], token: int, n: int, sampler: Any = None) -> list[int]:
    """Of the 16 newest places where the last two tokens stood, the one where the most before them is the same, the newest among equals."""
    whole = [*text, token]
    places = [e for e in range(1, len(text)) if whole[e - 1:e + 1] == whole[-2:]][-16:]
    lengths = {e: next(i for i in range(25) if i == 24 or i > e or whole[e - i] != whole[-1 - i]) for e in places}
    if not places:
        return []
    best = max(places, key=lambda e: (lengths[e], e))
    for i in range(min(n, 2 * lengths[best])):
        whole.append(whole[best + 1 + i])
    return whole[len(text) + 1:]


CHAINS = {"mtp": mtp_chain, "assistant": assistant_chain, "ngram": ngram_drafts,
          **{name: partial(block_drafts, drafters(SEED)[name]) for name in ("orthrus", "dflash", "dflash2")}}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("length", [1, 2, 40, 511, 512, 513, 514, 1100])
def test_a_chain_is_as_defined(name: str, length: int) -> None:
    session = model(PROGRAM, drafters(SEED)[name]).session()
    session.forward(TEXT[:length], logits=None)
    assert session.draft(7, TEXT[length]) == CHAINS[name](TEXT[:length], TEXT[length], 7)


@pytest.mark.parametrize("name", [name for name in CHAINS if name != "ngram"])
def test_a_sampled_chain_draws_with_the_noise_of_its_positions(name: str) -> None:
    session = model(PROGRAM, drafters(SEED)[name]).session()
    session.forward(TEXT[:50], logits=None)
    chains = []
    for chain in (lambda s: session._propose(TEXT[50], 6, s), lambda s: CHAINS[name](TEXT[:50], TEXT[50], 6, s)):
        sampler = _native.Sampler(VOCABULARY, temperature=2.0, repeat_penalty=1.3, frequency_penalty=0.5, seed=77)
        sampler.push_prompt(ids(TEXT[:50]))
        sampler.push(TEXT[50])
        chains.append(chain(sampler))
    assert chains[0] == chains[1] != session.draft(6, TEXT[50])
    sampler = _native.Sampler(VOCABULARY, temperature=2.0, seed=77)
    sampler.push_prompt(ids(TEXT[:51]))
    session._propose(TEXT[50], 6, sampler)
    assert sampler.position == 51   # the drafts are not part of the sampler's text


steps = st.one_of(
    st.tuples(st.just("read"), st.integers(1, 30)), st.tuples(st.just("read"), st.integers(400, 700)),
    st.tuples(st.just("draft"), st.integers(1, 9)), st.tuples(st.just("draft another"), st.integers(1, 9)),
    st.tuples(st.just("back"), st.integers(1, 40)), st.tuples(st.just("back"), st.integers(41, 900)),
    st.tuples(st.just("interrupted pass"), st.integers(1, 9)), st.tuples(st.just("detour"), st.integers(1, 9)))


@pytest.mark.parametrize("name", CHAINS)
@settings(max_examples=40, deadline=None)
@given(path=st.lists(steps, min_size=1, max_size=12))
def test_any_path_to_a_text_gives_its_drafts(name: str, path: list[tuple[str, int]]) -> None:
    """Reading in any pieces, drafting in between, rolling back, passes that were never committed, texts given up."""
    m = model(PROGRAM, drafters(SEED)[name])
    session = m.session()
    session.forward(TEXT[:1], logits=None)
    for what, n in path:
        at = session.length
        if what == "read":
            session.forward(TEXT[at:min(at + n, 1200)], logits=None)
        elif what == "draft":
            session.draft(n, TEXT[at])
        elif what == "draft another":
            session.draft(n, (TEXT[at] + 1) % VOCABULARY)
        elif what == "back":
            session.rollback(max(1, at - n))
        elif what == "interrupted pass":
            session._run(ids(TEXT[:n]), "none", "last")
        else:
            session.forward(TEXT[at + 7:at + 7 + n], logits=None)
            session.draft(2, 5)
            session.rollback(at)
        assert session.tokens == TEXT[:session.length]
    fresh = m.session()
    fresh.forward(session.tokens, logits=None)
    token = TEXT[session.length]
    assert session.draft(5, token) == fresh.draft(5, token)
    assert np.array_equal(session.forward([token]), fresh.forward([token]))


def test_the_head_keeps_only_pairs_of_the_text_and_bounded_memory() -> None:
    drafter = drafters(SEED)["mtp"]
    session = model(PROGRAM, drafter).session()
    for start in range(0, 1200, 100):
        session.forward(TEXT[start:start + 100], logits=None)
        state = session._drafter
        assert sum(len(rows) for _, rows in state._waiting) <= 512
    session.draft(9, TEXT[1200])
    assert state._cache.length == 1200   # the drafts' own entries are gone
    session.forward([TEXT[1200], 3, 4], logits=None)
    assert state.behind(1203) == 3


def test_an_interrupted_flush_is_counted_once() -> None:
    """The native call ended, the interrupt came before its rows were counted."""
    drafter = drafters(SEED)["mtp"]
    session = model(PROGRAM, drafter).session()
    state = session._drafter

    class Interrupting:
        def __init__(self) -> None:
            self.armed = True

        def __getattr__(self, name: str) -> Any:
            return getattr(MTP, name)

        def _then_interrupt(self, result: Any) -> Any:
            if self.armed:
                self.armed = False
                raise KeyboardInterrupt
            return result

        def run(self, *args: Any, **more: Any) -> Any:
            return self._then_interrupt(MTP.run(*args, **more))

        def chain(self, *args: Any, **more: Any) -> Any:
            return self._then_interrupt(MTP.chain(*args, **more))
    drafter.program = interrupting = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        session.forward(TEXT[:900], logits=None)
    assert session.tokens == TEXT[:900] and state._cache.length == 512
    interrupting.armed = True
    with pytest.raises(KeyboardInterrupt):
        session.draft(4, TEXT[900])
    assert session.draft(4, TEXT[900]) == mtp_chain(TEXT[:900], TEXT[900], 4)


@pytest.mark.parametrize("name", CHAINS)
def test_sessions_do_not_disturb_each_other(name: str) -> None:
    m = model(PROGRAM, drafters(SEED)[name])
    a, b = m.session(), m.session()
    a.forward(TEXT[:100], logits=None)
    b.forward(TEXT[50:75], logits=None)
    expected = a.draft(4, TEXT[100]), b.draft(4, TEXT[75])
    b.forward(TEXT[75:90], logits=None)
    assert a.draft(4, TEXT[100]) == expected[0]
    b.rollback(25)
    assert b.draft(4, TEXT[75]) == expected[1]
