"""One text being written: what its next pass reads, which tokens come out of it, and what can be released.

The token at a position is a function of its logits, of the text before it (penalties) and of noise keyed by seed and position.
A verify pass computes that token for the newest token's row and for every draft's, and goes on while the draft agrees; so the text
is the same whatever is drafted, and a drafter can only change its speed.

The ids chosen so far are the truth. Whatever an interrupt left half done behind them (a session that has read more, a sampler that
is ahead) is brought back before the next pass.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from ..drafters.chains import Request
from ..errors import ArgumentError
from ..results import FinishReason, Piece
from .constraint import Constraint
from .length import Length
from .logprobs import logprobs
from .options import MOST_DRAFTS, Options
from .session import PASS_ROWS, Session
from .stats import Stats
from .stop import TextStream

NONE = np.empty(0, np.int32)
CATCH_UP = 17   # rows that a drafter is behind after a verify pass, at most; more is unusual work


class Writer:
    """The text after a session's text and `prompt` (int32, not empty). Between passes the session holds what was read: all but the
    newest token. The prompt must leave room in the context. constraint: the options' grammar, at its beginning.

    Use: `prepare`, a pass over what it returns, `accept` with what came out; until `finished`. `piece` is what came since `given`.
    """

    def __init__(self, session: Session, prompt: np.ndarray, options: Options, tokenizer: Any, length: Length,
                 constraint: Constraint | None = None) -> None:
        model = session.model
        self.session, self.length = session, length
        self.stats = Stats(prompt_tokens=len(prompt), reused_tokens=session.length, threads=model.threads, seed=options.seed or 0)
        self.finished: FinishReason | None = None
        self.wants = "none"              # of the next pass: "none", "choice" or "logits"
        self.drafts: list[int] = []      # in the next pass
        self._options, self._tokenizer = options, tokenizer
        self._text = session.tokens + prompt.tolist()
        self._prompt = len(self._text)
        self._room = model.context_length - self._prompt
        if options.max_tokens is not None:
            self._room = min(self._room, options.max_tokens)
        self._sampler = options.sampler(model.vocab_size, tokenizer)
        self._sampler.push_prompt(np.asarray(self._text, np.int32))
        self._never = frozenset(self._sampler.suppressed)
        self._constraint = constraint
        self._greedy = self._sampler.plain_greedy and self._constraint is None
        self._ends = tokenizer.eos_ids if tokenizer and options.stop_at_eos else frozenset()
        self._stream = TextStream(tokenizer, options.stop)   # type: ignore[arg-type]
        self._parts: list[str] = []      # the text that could be released after each token
        self._tail = ""                  # held back until the text was cancelled
        self._streaming = False          # set while the stream and _parts do not agree
        self._logprobs: list[tuple[float, dict[int, float]]] = []
        self._forced: list[int] = []     # tokens that a grammar leaves no choice about; they stand for drafts
        self._accepted = 0               # drafts, in the last pass
        self.given = 0                   # generated tokens that went out in pieces; whoever takes a piece sets it
        if self._room <= 0:
            self.finished = "length"

    @property
    def reading(self) -> bool:
        """The prompt is not read yet."""
        return len(self._text) == self._prompt

    @property
    def generated(self) -> int:
        return len(self._text) - self._prompt

    @property
    def most_drafts(self) -> int:
        """How many drafts the rest of the text has room for."""
        return self._room - self.generated - 1

    @property
    def tokens(self) -> list[int]:
        return self._text[self._prompt:]

    def prepare(self, drafts: int, rows: int = PASS_ROWS) -> np.ndarray:
        """int32, the next pass: up to `rows` of the prompt's tokens, or the newest token and up to `drafts` tokens drafted after it."""
        session = self.session
        request = self.request(drafts)
        return self.rows(session._propose(request.token, request.steps, request.sampler) if request else [], rows)

    def request(self, drafts: int) -> Request | None:
        """What is to be drafted for the next pass: `rows` then takes what came of it. None: nothing."""
        session, text = self.session, self._text
        held = self._prompt - 1 if self.reading else len(text) - 1
        if session.length > held:
            session.rollback(held)
        self._forced = []
        if self.reading:
            return None
        if self._constraint is not None:
            if self._constraint.taken != self.generated:
                self._constraint.take(0, self.tokens)
            self._forced = self._constraint.forced(min(self.most_drafts, MOST_DRAFTS))
            if len(self._forced) >= drafts:
                return None
            self._forced = []
        if not drafts or session._drafter is None:
            return None
        judged = self._constraint is not None and self._constraint.narrow
        sampler = None if self._sampler.plain_greedy and not judged else self._sampler
        if sampler is not None:
            self._align()
            if self._constraint is not None and judged:
                sampler.set_judge(self._constraint.judge(self.generated, lazily=not self._options.filters))
        return Request(session._drafter, session._text, text[-1], drafts, sampler, session._sequence)

    def rows(self, drafts: list[int], rows: int = PASS_ROWS) -> np.ndarray:
        """The next pass, with these drafts."""
        session, text = self.session, self._text
        if self.reading:
            self.drafts = []
            tokens = text[session.length:min(session.length + rows, self._prompt)]
            self.wants = self._result() if session.length + len(tokens) == self._prompt else "none"
            return np.asarray(tokens, np.int32)
        if self._constraint is not None:
            self._sampler.set_judge(None)
            drafts = self._forced or drafts
            drafts = drafts[:self._constraint.take(self.generated, drafts)] if drafts else drafts   # up to the first that is forbidden
        self.drafts, self.wants = drafts, self._result()
        return np.asarray([text[-1], *drafts], np.int32)

    def accept(self, rows: np.ndarray, result: np.ndarray | None, hidden: np.ndarray) -> None:
        """rows: what `prepare` returned. result: choices or logits of its rows (of the last row alone for the prompt's), None where
        nothing is wanted. hidden: of all its rows."""
        if self.wants == "none":
            self.session._commit(rows.tolist(), hidden)
            return
        assert result is not None
        if result.ndim == 1 and (max(result.tolist()) >= self._sampler.limit or not self._never.isdisjoint(result.tolist())):
            # The best id may not be chosen: look at the logits, which costs a pass more.
            result, hidden = self.session._run(rows, "logits", "last" if self.reading else "all")
            assert result is not None
        chosen, complete = self._choose(result)
        self._accepted = next((i for i, (a, b) in enumerate(zip(chosen, self.drafts)) if a != b), min(len(chosen), len(self.drafts)))
        self._take(chosen, complete, rows, result, hidden)

    @property
    def news(self) -> bool:
        """Whether a piece can go out."""
        return self.finished is not None or (self.generated > self.given and (not self._tokenizer or any(self._parts[self.given:])))

    def piece(self, start: int | None = None) -> Piece:
        """The text from its generated token `start` on; None: what was not given out yet."""
        start = self.given if start is None else start
        tops = self._logprobs[start:] if self._options.logprobs is not None else None
        return Piece("".join(self._parts[start:]) + self._tail, self._text[self._prompt + start:], self.finished, self.stats if self.finished else None,
                     None if tops is None else [p for p, _ in tops], None if tops is None else [top for _, top in tops])

    def count(self, context: int, pass_seconds: float, draft_seconds: float, usual: bool) -> None:
        """What the last pass cost, after `context` tokens. usual: drafting had no more than the last pass to catch up with."""
        drafted, model = len(self.drafts), self.session.model
        if self._forced:
            self.stats.record(0, 0)
            self.stats.forced += self._accepted
            self.stats.bytes_read += model.bytes
            return
        self.length.record(context, drafted, self._accepted, pass_seconds, draft_seconds if usual else None)
        self.stats.record(drafted, self._accepted)
        self.stats.draft_seconds += draft_seconds if drafted else 0.0
        drafter = model.drafter
        self.stats.bytes_read += model.bytes + (drafter.bytes * (1 if drafter.at_once else drafted) if drafted and drafter else 0)

    def cancel(self) -> None:
        """Ends the text here; what was held back comes out."""
        if self.finished:
            return
        self._stream_on([])
        self._tail = self._stream.finish()
        self.finished = "cancelled"

    def _result(self) -> str:
        return "choice" if self._greedy and self._options.logprobs is None else "logits"

    def _align(self) -> None:
        """The sampler's text is ours."""
        ahead = self._sampler.position - len(self._text)
        if ahead > 0:
            self._sampler.pop(ahead)
        for token in self._text[len(self._text) + ahead:] if ahead < 0 else ():
            self._sampler.push(token)

    def _choose(self, result: np.ndarray) -> tuple[list[int], bool]:
        """The tokens chosen while the drafts agree, and whether the text is complete after them."""
        drafts = self.drafts
        if result.ndim == 1:
            chosen = result.tolist()
            accepted = 0
            while accepted < len(drafts) and chosen[accepted] == drafts[accepted]:
                accepted += 1
            return chosen[:accepted + 1], False
        self._align()
        if self._constraint is None:
            return list(self._sampler.verify(result, np.asarray(drafts, np.int32))), False
        return self._choose_allowed(self._constraint, result)

    def _choose_allowed(self, constraint: Constraint, logits: np.ndarray) -> tuple[list[int], bool]:
        """The same under a grammar: free choices up to the first that is forbidden, that one under the mask, and so on."""
        drafts, count, sampler = self.drafts, self.generated, self._sampler
        chosen: list[int] = []
        while True:
            row = len(chosen)
            if not self._options.filters:
                rest = np.asarray(drafts[row:], np.int32) if drafts else NONE
                chosen += sampler.verify(logits[row:] if row else logits, rest)
            taken = constraint.take(count, chosen)
            if len(chosen) > taken:
                sampler.pop(len(chosen) - taken)
                del chosen[taken:]
                free = False
            else:
                free = taken > row
            if free or constraint.complete:
                return chosen, constraint.complete
            token = sampler.choose(logits[taken], constraint.mask())
            sampler.push(token)
            chosen.append(token)
            if constraint.take(count, chosen) < len(chosen):
                raise ArgumentError("the grammar leaves no token to go on with that the other options (logit_bias) allow")
            if constraint.complete or taken == len(drafts) or token != drafts[taken]:
                return chosen, constraint.complete

    def _take(self, chosen: list[int], complete: bool, rows: np.ndarray, result: np.ndarray, hidden: np.ndarray) -> None:
        """The text goes on with the chosen tokens, up to its end."""
        finish: FinishReason | None = None
        parts: list[str] = []
        self._stream_on(chosen)
        for index, token in enumerate(chosen):
            finish, part = self._after(token, complete and index + 1 == len(chosen), self.generated + index + 1 == self._room)
            parts.append(part)
            if finish:
                break
        kept, reading = chosen[:len(parts)], self.reading
        looked_at = [logprobs(row, token, self._options.logprobs) for row, token in zip(result, kept)] if self._options.logprobs is not None else []
        self.session._commit(rows.tolist() if reading else rows[:len(kept)].tolist(), hidden)
        # No call among these lines, so that no interrupt comes between them.
        self._parts += parts
        self._logprobs += looked_at
        self._text += kept
        self.finished = finish
        self._streaming = False
        self.stats.tokens = self.generated
        if reading or finish:
            self.session._mark()

    def _stream_on(self, chosen: list[int]) -> None:
        """Before the stream goes on: an interrupt may have left it ahead of the text, then it starts again."""
        if self._streaming:
            self._stream = TextStream(self._tokenizer, self._options.stop)   # type: ignore[arg-type]
            self._parts = [self._stream.push(token) for token in self.tokens]
            del self._logprobs[self.generated:]
        self._streaming = bool(chosen)

    def _after(self, token: int, complete: bool, last: bool) -> tuple[FinishReason | None, str]:
        """Why the text ends with this token, if it does, and what can be released."""
        if token in self._ends:
            return "stop", self._stream.finish()
        part = self._stream.push(token)
        if not self._stream.stopped and (complete or last):
            part += self._stream.finish()
        return "stop" if self._stream.stopped or complete else "length" if last else None, part
