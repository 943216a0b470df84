"""Qwen's multi-token-prediction head: one more layer, fed with the model's hidden state and the token after it.

Its cache holds an entry for every pair (token at p + 1, hidden state at p) since the start of the text. The head then predicts
the token at p + 2. Further drafts feed the head's own output back; their entries are dropped after the chain.

Pairs wait until somebody drafts and then go in one batch with the first draft; so a text that is not drafted for a while costs
little. Long waits are flushed 512 at a time, so that memory stays bounded.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from .. import _native
from ..decode.saved import Packed, count_of, points_of, sequence_blocks
from ..errors import ArgumentError, FileError
from .chains import Chain, Request, run_chains

FLUSH = 512   # rows of a native pass


class MtpDrafter:
    """program: the head as a native Program; bytes: its weights, the shared output head included."""

    name = "mtp"
    at_once: int | None = None
    every_row = True

    def __init__(self, program: Any, kv_type: str, threads: int, bytes: int, identify: Callable[[], str] = str) -> None:
        self.program, self.kv_type, self.threads, self.bytes, self._identify = program, kv_type, threads, bytes, identify
        self.least = {"hidden_rows": "last"} if isinstance(program, _native.Program) else {}   # of a pass that only fills the cache

    @cached_property
    def identity(self) -> str:
        return self._identify()

    def begin(self) -> MtpState:
        return MtpState(self)

    def draft_several(self, requests: Sequence[Request]) -> list[list[int]]:
        states: list[MtpState] = [r.state for r in requests]   # type: ignore[misc]
        starts = [state._rows(r.text, r.token) for state, r in zip(states, requests)]
        drafts = run_chains(self.program, [Chain(state._cache, None, *start, r.steps, r.sampler) for state, start, r in zip(states, starts, requests)],
                            self.threads)
        for state, (tokens, hidden), r in zip(states, starts, requests):
            state._keep(r.token, len(tokens), hidden)
        return drafts


class MtpState:
    """Pairs 0 .. _paired - 1 are in the head's cache; _waiting holds the hidden states of the positions that follow, as blocks
    (first position, rows).

    The newest pair in the cache may be tentative: its token was chosen, but not read when it was drafted after. _tentative keeps
    that token and hidden state until the text shows whether it was right; in the decode loop it always is.
    """

    def __init__(self, drafter: MtpDrafter) -> None:
        self._drafter = drafter
        self._cache = drafter.program.sequence(drafter.kv_type)
        self._paired = 0
        self._waiting: list[tuple[int, np.ndarray]] = []
        self._tentative: tuple[int, np.ndarray] | None = None

    @property
    def _known(self) -> int:
        """Hidden states of the positions before this one are known."""
        return self._waiting[-1][0] + len(self._waiting[-1][1]) if self._waiting else self._paired

    def observe(self, text: Sequence[int], start: int, hidden: np.ndarray) -> None:
        self._settle()
        known = self._known
        if start <= known < start + len(hidden):
            self._waiting.append((known, hidden[known - start:]))
        if self._known - self._paired > FLUSH:
            self._confirm(text)
            self._flush(text)

    def missing(self, length: int) -> int | None:
        self._settle()
        return self._known if self._known < length else None

    def behind(self, length: int) -> int:
        return length - self._paired

    def draft(self, text: Sequence[int], token: int, steps: int, sampler: Any, target: Any) -> list[int]:
        if steps == 0:
            return []
        tokens, hidden = self._rows(text, token)
        drafts = self._drafter.program.chain(self._cache, tokens, hidden, steps, sampler=sampler, threads=self._drafter.threads)
        self._keep(token, len(tokens), hidden)
        return list(drafts)

    def _rows(self, text: Sequence[int], token: int) -> tuple[np.ndarray, np.ndarray]:
        """The pairs that a chain after `text` and `token` begins with: the tokens, and the hidden states before them."""
        self._confirm(text)
        self._flush(text)
        tokens = np.asarray([*text[self._paired + 1:], token], np.int32)
        return tokens, self._first(len(tokens))

    def _keep(self, token: int, rows: int, hidden: np.ndarray) -> None:
        """These pairs are in the cache; the last of them holds the token that is not read yet."""
        self._paired, self._waiting, self._tentative = self._paired + rows, [], (token, hidden[-1:].copy())

    def rollback(self, length: int) -> None:
        self._confirm(())
        pairs = min(self._paired, max(0, length - 1))   # pair length - 1 holds the token at `length`
        if pairs < self._paired:
            self._cache.rollback(pairs)
            self._paired, self._waiting = self._cache.length, []
        elif self._known > length:
            self._waiting = [(self._paired, self._first(length - self._paired))] if length > self._paired else []

    def copy(self) -> MtpState:
        other = MtpState(self._drafter)
        other._cache = self._cache.copy()
        other._paired, other._waiting, other._tentative = self._paired, list(self._waiting), self._tentative
        return other

    def pack(self, text: Sequence[int]) -> Packed:
        self._confirm(text)
        waiting = self._known - self._paired
        points = self._cache.points
        sizes = self._drafter.program.block_bytes(self._drafter.kv_type, points)
        hidden = [self._first(waiting)] if waiting else []
        return Packed({"paired": self._paired, "waiting": waiting, "points": points}, [*sizes, sum(h.nbytes for h in hidden)],
                      chain(sequence_blocks(self._cache, sizes), hidden))

    def sizes(self, counts: dict[str, Any], length: int, file: str) -> list[int]:
        paired = count_of(counts, "paired", max(0, length - 1), file)
        waiting = count_of(counts, "waiting", length - paired, file)
        points = points_of(counts.get("points"), paired, file)
        try:
            self._cache.set_points(points)
            sizes = self._drafter.program.block_bytes(self._drafter.kv_type, points)
        except ArgumentError as error:
            raise FileError(f"{file}: {error}; expected the counts of a session") from None
        return [*sizes, 4 * waiting * int(self._drafter.program.input_width)]

    def unpack(self, counts: dict[str, Any], blocks: Sequence[np.ndarray]) -> None:
        for index, block in enumerate(blocks[:-1]):
            self._cache.read_block(index, block)
        self._paired = counts["paired"]
        if counts["waiting"]:
            self._waiting = [(self._paired, blocks[-1].view(np.float32).reshape(counts["waiting"], -1).copy())]

    def _settle(self) -> None:
        """Where an interrupted call left the cache with more than was counted, that goes; with less, the rest is missing."""
        if self._cache.length != self._paired and not (self._cache.length > self._paired and self._cache.rollback(self._paired)):
            self._paired, self._waiting, self._tentative = self._cache.length, [], None

    def _confirm(self, text: Sequence[int]) -> None:
        """Keeps a tentative pair where the text has its token; elsewhere its hidden state waits again."""
        self._settle()
        if self._tentative is None:
            return
        (token, hidden), pair = self._tentative, self._paired - 1
        if not (len(text) > pair + 1 and text[pair + 1] == token):
            whole = self._cache.rollback(pair)
            self._paired, self._waiting = self._cache.length, [(pair, hidden), *self._waiting] if whole else []
        self._tentative = None

    def _flush(self, text: Sequence[int]) -> None:
        """Appends waiting pairs whose tokens are known, until one batch with the next draft can take the rest."""
        while len(text) - self._paired > FLUSH:
            rows = min(FLUSH, self._known - self._paired, len(text) - 1 - self._paired)
            if not rows:
                return
            tokens = np.asarray(text[self._paired + 1:self._paired + 1 + rows], np.int32)
            self._drafter.program.run([(self._cache, tokens)], hidden=self._first(rows), want="none", rows="last", threads=self._drafter.threads, **self._drafter.least)
            self._paired, self._waiting = self._paired + rows, self._after(rows)

    def _first(self, rows: int) -> np.ndarray:
        """The first hidden states that wait, (rows, width)."""
        end = self._paired + rows
        taken = [block[:end - start] for start, block in self._waiting if start < end]
        return taken[0] if len(taken) == 1 else np.concatenate(taken)

    def _after(self, rows: int) -> list[tuple[int, np.ndarray]]:
        """What waits behind the first `rows`."""
        end = self._paired + rows
        return [(max(start, end), block[max(0, end - start):]) for start, block in self._waiting if start + len(block) > end]
