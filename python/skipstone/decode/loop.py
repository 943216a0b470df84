"""The decode loop: draft, verify in one pass, accept, commit.

The token at a position is a function of its logits, of the text before it (penalties) and of noise keyed by seed and position.
A verify pass computes that token for the newest token's row and for every draft's, and goes on while the draft agrees; so the text
is the same whatever is drafted, and a drafter can only change its speed.
"""
from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..results import FinishReason, Piece
from .length import AutoLength, FixedLength
from .options import Options
from .session import PASS_ROWS, Session
from .stats import Stats
from .stop import TextStream

CATCH_UP = 17   # rows that a drafter is behind after a verify pass, at most; more is unusual work


class Decoder:
    """Chooses tokens for one session, pass by pass.

    sampler: a native Sampler without text. length: an AutoLength or FixedLength.
    """

    def __init__(self, session: Session, sampler: Any, length: AutoLength | FixedLength, stats: Stats) -> None:
        self._session, self._sampler, self._length, self._stats = session, sampler, length, stats
        self._never = frozenset(sampler.suppressed)
        self._greedy = sampler.plain_greedy
        self._newest = -1   # chosen, not read yet

    def read(self, prompt: np.ndarray) -> list[int]:
        """Reads the prompt, int32 and not empty, after the session's text, and chooses the first token."""
        session = self._session
        last = (len(prompt) - 1) // PASS_ROWS * PASS_ROWS
        for start in range(0, last, PASS_ROWS):
            tokens = prompt[start:start + PASS_ROWS]
            _, hidden = session._run(tokens, "none", "last")
            session._commit(tokens.tolist(), hidden)
        tokens = prompt[last:]
        self._sampler.push_prompt(np.asarray(session.tokens + tokens.tolist(), np.int32))
        chosen, hidden = self._choose(tokens, (), "last")
        session._commit(tokens.tolist(), hidden)
        self._newest = chosen[-1]
        return chosen

    def step(self, most: int) -> list[int]:
        """One pass: reads the newest token and drafts after it; the tokens chosen, between one and `most` of them."""
        session, before = self._session, time.perf_counter()
        context = session.length
        drafts: list[int] = []
        behind = 0
        if wanted := self._length.next(context, most - 1):
            assert session._drafter is not None
            behind = session._drafter.behind(context)
            drafts = session._propose(self._newest, wanted, None if self._greedy else self._sampler)
        between = time.perf_counter()

        rows = [self._newest, *drafts]
        chosen, hidden = self._choose(np.asarray(rows, np.int32), drafts, "all")
        session._commit(rows[:len(chosen)], hidden)
        self._newest = chosen[-1]

        after, accepted = time.perf_counter(), len(chosen) - 1
        self._length.record(context, len(drafts), accepted, after - between, between - before if behind <= CATCH_UP else None)
        self._stats.record(len(drafts), accepted)
        self._stats.draft_seconds += between - before if drafts else 0.0
        model = session.model
        self._stats.bytes_read += model.bytes + (model.drafter.bytes * len(drafts) if drafts and model.drafter else 0)
        return chosen

    def drop(self, tokens: int) -> None:
        """The last `tokens` chosen tokens are behind the end and not part of the text."""
        self._session.rollback(self._session.length - tokens)

    def _choose(self, tokens: np.ndarray, drafts: Sequence[int], rows: str) -> tuple[list[int], np.ndarray]:
        """A pass over `tokens`, of which the last len(drafts) are drafts: the tokens chosen while the drafts agree, and the
        hidden rows. Greedy choices come out of the pass itself."""
        result, hidden = self._session._run(tokens, "choice" if self._greedy else "logits", rows)
        assert result is not None
        if not self._greedy:
            return list(self._sampler.verify(result, np.asarray(drafts, np.int32))), hidden
        chosen = result.tolist()
        if max(chosen) >= self._sampler.limit or not self._never.isdisjoint(chosen):
            # The best id may not be chosen: look at the logits, which costs a pass more.
            result, hidden = self._session._run(tokens, "logits", rows)
            assert result is not None
            chosen = [self._sampler.choose(row) for row in result]
        accepted = 0
        while accepted < len(drafts) and chosen[accepted] == drafts[accepted]:
            accepted += 1
        return chosen[:accepted + 1], hidden


def decode(session: Session, prompt: np.ndarray, options: Options, tokenizer: Any, length: AutoLength | FixedLength) -> Iterator[Piece]:
    """The text after the session's text and `prompt` (int32, not empty), in pieces; the last has the reason why it ended and the stats.

    Between pieces, and when the iterator is closed, the session holds what was read: all but the newest token. The prompt must
    leave room in the context.
    """
    model = session.model
    stats = Stats(prompt_tokens=len(prompt), threads=model.threads, seed=options.seed or 0)
    decoder = Decoder(session, options.sampler(model.vocab_size, tokenizer), length, stats)
    room = model.context_length - session.length - len(prompt)
    if options.max_tokens is not None:
        room = min(room, options.max_tokens)
    return _pieces(decoder, prompt, options, tokenizer, room, stats)


def _pieces(decoder: Decoder, prompt: np.ndarray, options: Options, tokenizer: Any, room: int, stats: Stats) -> Iterator[Piece]:
    if room == 0:
        yield Piece("", [], "length", stats)
        return
    text = TextStream(tokenizer, options.stop)   # type: ignore[arg-type]
    ends = tokenizer.eos_ids if tokenizer and options.stop_at_eos else frozenset()
    released = ""
    waiting: list[int] = []   # until some of their text can go out
    finish: FinishReason | None = None
    clock = time.perf_counter()
    chosen = decoder.read(prompt)
    stats.prompt_seconds = time.perf_counter() - clock
    clock = time.perf_counter()
    while True:
        for index, token in enumerate(chosen):
            stats.tokens += 1
            waiting.append(token)
            finish, piece = _after(token, text, ends, stats.tokens == room)
            released += piece
            if finish:
                break
        if finish:
            decoder.drop(len(chosen) - 1 - index)
            stats.decode_seconds += time.perf_counter() - clock
            yield Piece(released, waiting, finish, stats)
            return
        if released or not tokenizer:
            stats.decode_seconds += time.perf_counter() - clock
            yield Piece(released, waiting)
            released, waiting = "", []
            clock = time.perf_counter()
        chosen = decoder.step(room - stats.tokens)


def _after(token: int, text: TextStream, ends: frozenset[int], last: bool) -> tuple[FinishReason | None, str]:
    """Why the text ends with this token, if it does, and what can be released."""
    if token in ends:
        return "stop", text.finish()
    piece = text.push(token)
    if not text.stopped and last:
        piece += text.finish()
    return "stop" if text.stopped else "length" if last else None, piece
