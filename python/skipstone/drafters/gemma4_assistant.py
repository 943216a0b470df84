"""Gemma 4's assistant: four small layers that read the model's own caches.

It has no cache of its own and nothing to catch up with: a chain starts from the model's hidden state at the newest token read,
and all its steps stand at one position, that of the token chosen after it.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..decode.saved import Packed, count_of
from .chains import Chain, Request, run_chains


class Gemma4AssistantDrafter:
    """program: the assistant as a native Program that borrows the model's sequences; bytes: its weights."""

    name = "gemma4_assistant"
    at_once: int | None = None
    every_row = False

    def __init__(self, program: Any, threads: int, bytes: int, identify: Callable[[], str] = str) -> None:
        self.program, self.threads, self.bytes, self._identify = program, threads, bytes, identify

    @cached_property
    def identity(self) -> str:
        return self._identify()

    def begin(self) -> Gemma4AssistantState:
        return Gemma4AssistantState(self)

    def draft_several(self, requests: Sequence[Request]) -> list[list[int]]:
        return run_chains(self.program, [Chain(None, r.target, np.asarray([r.token], np.int32), r.state._newest[1], r.steps, r.sampler)   # type: ignore[attr-defined]
                                         for r in requests], self.threads)


class Gemma4AssistantState:
    """The hidden state at one position: the newest observed."""

    def __init__(self, drafter: Gemma4AssistantDrafter) -> None:
        self._drafter = drafter
        self._newest: tuple[int, np.ndarray] = (-1, np.empty((0, 0), np.float32))   # position, (1, width)

    def observe(self, text: Sequence[int], start: int, hidden: np.ndarray) -> None:
        if len(hidden):
            self._newest = (start + len(hidden) - 1, hidden[-1:].copy())   # a copy: a view would keep the whole pass in memory

    def missing(self, length: int) -> int | None:
        return length - 1 if self._newest[0] != length - 1 else None

    def behind(self, length: int) -> int:
        return 1

    def draft(self, text: Sequence[int], token: int, steps: int, sampler: Any, target: Any) -> list[int]:
        if steps == 0:
            return []
        return list(self._drafter.program.chain(None, np.asarray([token], np.int32), self._newest[1], steps, borrow=target,
                                                sampler=sampler, threads=self._drafter.threads))

    def rollback(self, length: int) -> None:
        if self._newest[0] >= length:
            self._newest = (-1, self._newest[1])

    def copy(self) -> Gemma4AssistantState:
        other = Gemma4AssistantState(self._drafter)
        other._newest = self._newest
        return other

    def pack(self, text: Sequence[int]) -> Packed:
        position, row = self._newest
        known = int(position >= 0)
        return Packed({"known": known, "position": max(position, 0)}, [4 * row.size * known], [row] if known else [])

    def sizes(self, counts: dict[str, Any], length: int, file: str) -> list[int]:
        known = count_of(counts, "known", 1, file)
        count_of(counts, "position", max(0, length - 1), file)
        return [4 * int(self._drafter.program.input_width)] if known else [0]

    def unpack(self, counts: dict[str, Any], blocks: Sequence[np.ndarray]) -> None:
        if counts["known"]:
            self._newest = (counts["position"], blocks[0].view(np.float32).reshape(1, -1).copy())
