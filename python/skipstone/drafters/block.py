"""Block drafters: DFlash, DFlash2 and Orthrus. One pass over the newest token and masks after it drafts the whole block.

Orthrus' rows read the model's own cache of the text. DFlash's read a cache of their own, which holds a row for every token of the text, made of what the model's
tapped layers gave for it. Such rows wait until somebody drafts and then go in one batch; long waits are flushed 512 at a time, so that memory stays bounded.

A block always has its full size, whatever is asked of it: so few drafts are the first of many, and a draft depends on the text alone.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ..decode.saved import Packed, count_of, points_of, sequence_blocks
from ..errors import ArgumentError, FileError
from .chains import Request

if TYPE_CHECKING:
    from ..models.network import Block

FLUSH = 512   # rows of a native pass


class BlockDrafter:
    """program: the drafter as a native Program that borrows a sequence; block: how it drafts; taps_at: where in the model's hidden rows those of
    the tapped layers begin; bytes: its weights, the shared output head included."""

    def __init__(self, program: Any, block: Block, taps_at: int, kv_type: str, threads: int, bytes: int, identify: Callable[[], str] = str) -> None:
        self.program, self.block, self.taps_at, self.kv_type, self.threads, self.bytes, self._identify = program, block, taps_at, kv_type, threads, bytes, identify
        self.name = block.name
        self.at_once: int | None = block.size - 1
        self.every_row = block.context is not None

    @cached_property
    def identity(self) -> str:
        return self._identify()

    def begin(self) -> BlockState:
        return BlockState(self) if self.block.context is None else ContextState(self)

    def draft_several(self, requests: Sequence[Request]) -> list[list[int]]:
        read = [state._cache_of(r.target) for r in requests if isinstance(state := r.state, BlockState)]
        block = np.full((len(requests), self.block.size), self.block.mask, np.int32)
        block[:, 0] = [r.token for r in requests]
        scored = self.block.selector is not None or any(r.sampler is not None for r in requests)
        result, hidden = self.program.run([(None, rows) for rows in block], borrow=read, want="logits" if scored else "choice", rows="all", threads=self.threads)
        first, size = 1 - self.block.shift, self.block.size
        results = result.reshape(len(requests), size, -1)[:, first:first + size - 1]
        projections = hidden.reshape(len(requests), size, -1)[:, first:first + size - 1] if self.block.selector is not None else [None] * len(requests)
        return [self._choose(r, rows, projected) for r, rows, projected in zip(requests, results, projections)]

    def _choose(self, request: Request, results: np.ndarray, projections: np.ndarray | None) -> list[int]:
        """The drafts of a block. results: logits, or choices (rows, 1)."""
        sampler, selector = request.sampler, self.block.selector
        drafts: list[int] = []
        try:
            for row in range(min(request.steps, len(results))):
                if selector is not None:
                    assert projections is not None
                    candidates, scores = selector.scores(results[row], projections[row], drafts[-1] if drafts else request.token)
                    if sampler is None:
                        drafts.append(int(candidates[scores.argmax()]))
                        continue
                    logits = np.full(results.shape[1], -np.inf, np.float32)
                    logits[candidates] = scores
                elif sampler is None:
                    drafts.append(int(results[row].argmax()) if results.shape[1] > 1 else int(results[row, 0]))
                    continue
                else:
                    logits = results[row]
                token = sampler.choose(logits)
                sampler.push(token)
                drafts.append(token)
        finally:
            if sampler is not None:
                sampler.pop(len(drafts))
        return drafts


class BlockState:
    """Of a drafter that reads the model's own cache: nothing."""

    def __init__(self, drafter: BlockDrafter) -> None:
        self._drafter = drafter

    def _cache_of(self, target: Any) -> Any:
        """What the block reads, brought up to the text. target: the model's Sequence."""
        return target

    def observe(self, text: Sequence[int], start: int, hidden: np.ndarray) -> None:
        pass

    def missing(self, length: int) -> int | None:
        return None

    def behind(self, length: int) -> int:
        return 1

    def draft(self, text: Sequence[int], token: int, steps: int, sampler: Any, target: Any) -> list[int]:
        return self._drafter.draft_several([Request(self, text, token, steps, sampler, target)])[0] if steps else []

    def rollback(self, length: int) -> None:
        pass

    def copy(self) -> BlockState:
        return BlockState(self._drafter)

    def pack(self, text: Sequence[int]) -> Packed:
        return Packed({}, [], [])

    def sizes(self, counts: dict[str, Any], length: int, file: str) -> list[int]:
        return []

    def unpack(self, counts: dict[str, Any], blocks: Sequence[np.ndarray]) -> None:
        pass


class ContextState(BlockState):
    """Of a drafter with a cache of the text: rows 0 .. _cache.length - 1 are in it, _waiting holds the tapped rows of the positions that follow, as
    blocks (first position, rows)."""

    def __init__(self, drafter: BlockDrafter) -> None:
        super().__init__(drafter)
        self._cache = drafter.block.context.sequence(drafter.kv_type)
        self._waiting: list[tuple[int, np.ndarray]] = []

    @property
    def _known(self) -> int:
        """The tapped rows of the positions before this one are known."""
        return max(self._cache.length, self._waiting[-1][0] + len(self._waiting[-1][1]) if self._waiting else 0)

    def observe(self, text: Sequence[int], start: int, hidden: np.ndarray) -> None:
        known = self._known
        if start <= known < start + len(hidden):
            self._waiting.append((known, np.ascontiguousarray(hidden[known - start:, self._drafter.taps_at:])))
        if self._known - self._cache.length > FLUSH:
            self._flush()

    def missing(self, length: int) -> int | None:
        return self._known if self._known < length else None

    def behind(self, length: int) -> int:
        return max(1, length - self._cache.length)

    def _cache_of(self, target: Any) -> Any:
        self._flush()
        return self._cache

    def rollback(self, length: int) -> None:
        if self._cache.length > length:
            self._cache.rollback(length)
            self._waiting = []
        elif self._known > length:
            self._waiting = [(self._cache.length, self._next(length - self._cache.length))] if length > self._cache.length else []

    def copy(self) -> ContextState:
        other = ContextState(self._drafter)
        other._cache, other._waiting = self._cache.copy(), list(self._waiting)
        return other

    def pack(self, text: Sequence[int]) -> Packed:
        self._flush()
        points = self._cache.points
        sizes = self._drafter.block.context.block_bytes(self._drafter.kv_type, points)
        return Packed({"rows": self._cache.length, "points": points}, sizes, chain(sequence_blocks(self._cache, sizes)))

    def sizes(self, counts: dict[str, Any], length: int, file: str) -> list[int]:
        points = points_of(counts.get("points"), count_of(counts, "rows", length, file), file)
        try:
            self._cache.set_points(points)
            return list(self._drafter.block.context.block_bytes(self._drafter.kv_type, points))
        except ArgumentError as error:
            raise FileError(f"{file}: {error}; expected the counts of a session") from None

    def unpack(self, counts: dict[str, Any], blocks: Sequence[np.ndarray]) -> None:
        for index, block in enumerate(blocks):
            self._cache.read_block(index, block)

    def _flush(self) -> None:
        """Everything that waits goes to the cache. What an interrupted call left there is not done again."""
        while rows := min(FLUSH, self._known - self._cache.length):
            taps = self._next(rows)
            self._drafter.block.context.run([(self._cache, np.zeros(rows, np.int32))], hidden=taps, want="none", threads=self._drafter.threads)
        self._waiting = []

    def _next(self, rows: int) -> np.ndarray:
        """The tapped rows that follow those in the cache, (rows, width)."""
        begin, end = self._cache.length, self._cache.length + rows
        taken = [block[max(0, begin - start):end - start] for start, block in self._waiting if start < end and start + len(block) > begin]
        return taken[0] if len(taken) == 1 else np.concatenate(taken)
