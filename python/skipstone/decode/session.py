"""Sessions: one text as the model has read it, for decode loops of one's own.

The text (`tokens`) is the truth; the native state behind it may be shorter, after a rollback further than it can step back, and
is then brought up again by reading, before the next pass. That is exact, because a token's bits depend on its text alone.
"""
from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from ..errors import ArgumentError
from ..results import Piece, Result
from .options import Options, OptionsDict, integer

if TYPE_CHECKING:
    from ..drafters.base import DrafterState
    from ..model import Model
    from .length import Length
    from .writer import Writer

Logits = Literal["all", "last"] | None

PASS_ROWS = 512   # of a native pass; longer runs are cut there
MARKS = 16        # places that recurrent states and sliding windows can go back to, at most


class Session:
    """One text and the model's state after it. Made by `model.session()`.

    `generate` and `stream` take a whole prompt and read only what the session does not hold yet: what comes after the tokens that
    both begin with. Recurrent states and sliding windows are kept at ends of prompts and answers and, the more thinly the further
    back, between them; so a changed last turn does not have the conversation read again. A session belongs to one thread at a time.
    """

    def __init__(self, model: Model, draft: bool = True, marks: int = MARKS) -> None:
        self.model = model
        self._text: list[int] = []
        self._marks = marks
        self._sequence = model.program.sequence(model.kv_type)
        self._sequence.keep_marks(marks)
        self._drafter: DrafterState | None = model.drafter.begin() if draft and model.drafter else None
        self._hidden = np.empty((0, model.hidden_width), np.float32)

    @property
    def tokens(self) -> list[int]:
        """The ids read so far (a copy)."""
        return list(self._text)

    @property
    def length(self) -> int:
        """How many tokens were read."""
        return len(self._text)

    def __len__(self) -> int:
        return len(self._text)

    @property
    def hidden(self) -> np.ndarray:
        """float32 (rows, width): the states after the final norm of the rows of the last forward."""
        return self._hidden

    def forward(self, tokens: Iterable[int], logits: Logits = "last") -> np.ndarray | None:
        """Reads `tokens` after the text in one pass.

        Returns float32 logits: (tokens, vocabulary) for "all", (1, vocabulary) after the last one for "last", None for None.
        Without tokens nothing is read and there are no rows. ArgumentError for ids outside the vocabulary and beyond the context.
        """
        return forward([(self, tokens)], logits)[0]

    def rollback(self, length: int) -> None:
        """Goes back to the first `length` tokens. Always possible; far back, recurrent models read part of the text again."""
        length = integer("length", length, 0, len(self._text))
        del self._text[length:]
        if self._sequence.length > length:
            self._sequence.rollback(length)
        if self._drafter:
            self._drafter.rollback(length)

    def generate(self, prompt: str | Iterable[int], **options: Unpack[OptionsDict]) -> Result:
        """The text after `prompt`, as `Model.generate` writes it, of which what the session holds already is not read again.

        Afterwards the session holds the prompt and the text, all but its last token. `stats.reused_tokens` says how much was there.
        """
        return Result.of(self.stream(prompt, **options))

    def stream(self, prompt: str | Iterable[int], **options: Unpack[OptionsDict]) -> Iterator[Piece]:
        """As generate, in pieces as they come; the last piece has finish_reason and stats. Arguments are checked at once."""
        from .loop import pieces

        return pieces(self._writer(prompt, options))

    def _writer(self, prompt: str | Iterable[int], options: Mapping[str, Any]) -> Writer:
        """What writes the text after `prompt`. Nothing changes where an argument is wrong."""
        model = self.model
        chosen = model._options(options, self._drafter is not None)
        ids = model._prompt(prompt)
        return self._write(ids, chosen, model._length(chosen, self._drafter is not None))

    def _write(self, ids: np.ndarray, options: Options, length: Length) -> Writer:
        from .writer import Writer

        constraint = options.constraint(self.model.vocab_size, self.model.tokenizer)   # may refuse, before anything changes
        kept = self._reuse(ids)
        return Writer(self, ids[kept:], options, self.model.tokenizer, length, constraint)

    def _reuse(self, ids: np.ndarray) -> int:
        """Goes back to what the text and `ids` begin with, and how many tokens that is: all but one of the ids at most."""
        held = np.asarray(self._text[:len(ids) - 1], np.int32)
        differs = np.flatnonzero(held != ids[:len(held)])
        self.rollback(int(differs[0]) if len(differs) else len(held))
        # What the states behind the text lack is read again with the rest. The drafter keeps what it knows of that.
        needed = self._drafter.missing(len(self._text)) if self._drafter else None
        if needed is not None and len(self._text) - PASS_ROWS <= needed < self._sequence.length:
            self._sequence.rollback(needed)
        del self._text[self._sequence.length:]
        return len(self._text)

    def fork(self) -> Session:
        """A session of its own with the same text and states. Of the caches only what either changes later is copied."""
        self._settle()
        other = copy.copy(self)
        other._text = list(self._text)
        other._sequence = self._sequence.copy()
        other._drafter = self._drafter.copy() if self._drafter else None
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the session to a file, in one step: a file that was there stays whole until the new one is.

        The file holds the text's ids, the caches and the drafter's state, a checksum, and which model they belong to.
        ArgumentError where the path cannot be written, DeviceError on a graphics card.
        """
        from .saved import save

        save(self, path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Takes the text and the states that `save` wrote; what the session held goes.

        FileError for a file that is damaged, is no session or belongs to another model or kv_type; the session then stays as it was.
        """
        from .saved import load

        load(self, path)

    def _mark(self) -> None:
        """A place that the states can go back to."""
        if self._marks > 1 and self._sequence.length == len(self._text):
            self._sequence.mark()

    def draft(self, n: int, token: int) -> list[int]:
        """The drafter's greedy chain of n tokens after `token`, which was chosen after the text and is not read yet; fewer where a block holds
        fewer or nothing in the text suggests more.

        The session stays as it was. ArgumentError without a drafter, before anything was read, and beyond the context.
        """
        n = integer("n", n, 0, 32)
        token = integer("token", token, 0, self.model.vocab_size - 1)
        if self._drafter is None:
            raise ArgumentError("draft: this session has no drafter; load the model with one (draft=...) and make the session with draft=True")
        if not self._text:
            raise ArgumentError("draft: nothing was read yet; forward at least one token first")
        if len(self._text) + 1 + n > self.model.context_length:
            raise ArgumentError(f"n: {n} drafts after {len(self._text) + 1} tokens; the context holds {self.model.context_length}")
        return self._propose(token, n, None)

    # What the decode loop uses: a pass without a commitment, and the commitment.

    def _propose(self, token: int, n: int, sampler: Any) -> list[int]:
        """Drafts after the text and `token`; see DrafterState.draft."""
        assert self._drafter is not None
        if n == 0:
            return []
        self._inform()
        return self._drafter.draft(self._text, token, n, sampler, self._sequence)

    def _inform(self) -> None:
        """Brings model and drafter to the text, so that there can be drafts."""
        assert self._drafter is not None
        missing = self._drafter.missing(len(self._text))
        if missing is not None:
            self._sequence.rollback(min(missing, self._sequence.length))
        self._settle()

    def _run(self, tokens: np.ndarray, want: str, rows: str) -> tuple[np.ndarray | None, np.ndarray]:
        """A pass over int32 tokens after the text; they are not part of it until _commit. rows "last": of the hidden rows the last may come alone."""
        self._settle()
        return self.model.program.run([(self._sequence, tokens)], want=want, rows=rows, threads=self.model.threads, **(self._least if rows == "last" else {}))

    def _read(self, ids: np.ndarray) -> None:
        """The text goes on with these int32 tokens, of which no result is wanted."""
        for start in range(0, len(ids), PASS_ROWS):
            part = ids[start:start + PASS_ROWS]
            self._commit(part.tolist(), self._run(part, "none", "last")[1])

    @property
    def _least(self) -> dict[str, str]:
        """How a pass of which nothing but the last row is wanted computes no more than that, as far as the device can."""
        spared = self.model.device == "cpu" and not (self._drafter and self.model.drafter and self.model.drafter.every_row)
        return {"hidden_rows": "last"} if spared else {}

    def _commit(self, tokens: Sequence[int], hidden: np.ndarray) -> None:
        """The text goes on with `tokens`, a prefix of those of the last pass, whose first hidden rows are theirs, or with all of them, whose last is."""
        start = len(self._text)
        self._text.extend(tokens)
        if self._sequence.length > len(self._text):
            self._sequence.rollback(len(self._text))
        if self._drafter and len(tokens):
            self._drafter.observe(self._text, start + max(0, len(tokens) - len(hidden)), hidden[:len(tokens)])

    def _settle(self) -> None:
        """Brings the native state to exactly the text: back, after a pass that was never committed, or forth by reading again."""
        if self._sequence.length > len(self._text):
            self._sequence.rollback(len(self._text))
        while (start := self._sequence.length) < len(self._text):
            tokens = np.asarray(self._text[start:start + PASS_ROWS], np.int32)
            _, hidden = self.model.program.run([(self._sequence, tokens)], want="none", rows="last", threads=self.model.threads, **self._least)
            if self._drafter:
                self._drafter.observe(self._text, start + len(tokens) - len(hidden), hidden)

    def _check(self, tokens: Iterable[int]) -> np.ndarray:
        """tokens as int32, checked against vocabulary and context."""
        ids = token_ids("tokens", tokens, self.model.vocab_size)
        if len(self._text) + len(ids) > self.model.context_length:
            raise ArgumentError(f"tokens: {len(ids)} after {len(self._text)}; the context holds {self.model.context_length}. "
                                "Roll back, or load the model with a larger context")
        return ids


def token_ids(name: str, tokens: Iterable[int], vocabulary: int) -> np.ndarray:
    """tokens as an int32 array, each an id of the vocabulary; ArgumentError names the argument otherwise."""
    given = tokens if isinstance(tokens, np.ndarray) else list(tokens)
    try:
        ids = np.asarray(given)
    except (ValueError, OverflowError):
        ids = np.empty((), object)
    if len(given) == 0:
        return np.empty(0, np.int32)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ArgumentError(f"{name}: {type(tokens).__name__} of something else than integers; expected token ids in one dimension")
    if ids.min() < 0 or ids.max() >= vocabulary:
        wrong = next(int(i) for i in ids if not 0 <= i < vocabulary)
        raise ArgumentError(f"{name}: id {wrong}; expected ids of the vocabulary, 0 to {vocabulary - 1}")
    return np.ascontiguousarray(ids, np.int32)


def forward(parts: Iterable[tuple[Session, Iterable[int]]], logits: Logits = "last") -> list[np.ndarray | None]:
    """One pass over tokens of several sessions of one model; what `Session.forward` returns, for each of them.

    A session's logits are the same bits whether it stands alone or beside others.
    """
    if logits not in ("all", "last", None):
        raise ArgumentError(f"logits: {logits!r}; expected 'all', 'last' or None")
    given = list(parts)
    for part in given:
        if not (isinstance(part, tuple | list) and len(part) == 2 and isinstance(part[0], Session)):
            raise ArgumentError("parts: expected pairs (session, tokens)")
    sessions = [session for session, _ in given]
    if len({id(s) for s in sessions}) < len(sessions):
        raise ArgumentError("parts: a session stands in them twice; expected each once")
    if len({id(s.model) for s in sessions}) > 1:
        raise ArgumentError("parts: sessions of different models; expected one model")
    checked = [session._check(tokens) for session, tokens in given]
    for session in sessions:
        session._settle()

    parts_read = [(session, ids) for session, ids in zip(sessions, checked) if len(ids)]
    result: np.ndarray | None = None
    hidden = np.empty((0, 0), np.float32)
    if parts_read:
        model = parts_read[0][0].model
        result, hidden = model.program.run([(session._sequence, ids) for session, ids in parts_read], want="logits" if logits else "none",
                                           rows=logits or "last", threads=model.threads)
    answers: list[np.ndarray | None] = []
    at = taken = 0
    for session, ids in zip(sessions, checked):
        rows = hidden[at:at + len(ids)]
        session._hidden = rows[:, :session.model.hidden_width] if len(ids) else session._hidden[:0]   # behind them: what the drafter taps
        if len(ids):
            session._commit(ids.tolist(), rows)
        at += len(ids)
        if logits is None:
            answers.append(None)
        elif result is None:
            answers.append(np.empty((0, session.model.vocab_size), np.float32))
        else:
            count = len(ids) if logits == "all" else min(1, len(ids))
            answers.append(result[taken:taken + count])
            taken += count
    return answers
