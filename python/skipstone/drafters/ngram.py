"""Prompt lookup: what followed the last tokens where they stood before in the text. No model and no file, on every device.

Texts that repeat parts of their prompt (edits of code, answers from documents, tool calls) are drafted well, others not at all: where the
last tokens are new nothing is drafted. The longer the match, the more is drafted after it.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..decode.saved import Packed
from .chains import Request

GRAM = 2          # tokens that must match
LONGEST = 24      # of a match; further tokens tell no more
LOOKED_AT = 16    # of the places that match, the newest
NAME = "ngram"    # what load takes as `draft`


class NgramDrafter:
    """Drafts from the text itself."""

    name, bytes, identity = NAME, 0, NAME
    at_once: int | None = None
    every_row = False

    def begin(self) -> NgramState:
        return NgramState()

    def draft_several(self, requests: Sequence[Request]) -> list[list[int]]:
        return [r.state.draft(r.text, r.token, r.steps, r.sampler, r.target) for r in requests]


class NgramState:
    """Where each gram of the text ends, position by position; made when somebody drafts."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], list[int]] = {}
        self._grams: list[tuple[int, ...]] = []     # by the position of its last token, from GRAM - 1 on

    def draft(self, text: Sequence[int], token: int, steps: int, sampler: Any, target: Any) -> list[int]:
        """The tokens after the newest of the longest matches of the text's end. They may run into what is drafted, as in a text that repeats itself."""
        if not steps:
            return []
        self._index(text)
        size = len(text)                                            # the position of `token`
        best, place = 0, -1
        for end in reversed(self._ends.get((*text[size - GRAM + 1:], token), [])[-LOOKED_AT:]):
            matched = GRAM
            while matched < LONGEST and matched <= end < size and text[end - matched] == text[size - matched]:
                matched += 1
            if matched > best and end < size:
                best, place = matched, end
        drafts: list[int] = []
        for at in range(place + 1, place + 1 + min(steps, 2 * best)):
            drafts.append(text[at] if at < size else token if at == size else drafts[at - size - 1])
        return drafts

    def _index(self, text: Sequence[int]) -> None:
        if len(self._grams) > max(0, len(text) - GRAM + 1):
            self.rollback(len(text))
        for end in range(len(self._grams) + GRAM - 1, len(text)):
            gram = tuple(text[end - GRAM + 1:end + 1])
            self._ends.setdefault(gram, []).append(end)
            self._grams.append(gram)

    def rollback(self, length: int) -> None:
        while len(self._grams) > max(0, length - GRAM + 1):
            ends = self._ends[self._grams.pop()]
            ends.pop()

    def copy(self) -> NgramState:
        other = NgramState()
        other._ends, other._grams = {gram: list(ends) for gram, ends in self._ends.items()}, list(self._grams)
        return other

    def observe(self, text: Sequence[int], start: int, hidden: np.ndarray) -> None:
        pass

    def missing(self, length: int) -> int | None:
        return None

    def behind(self, length: int) -> int:
        return 1

    def pack(self, text: Sequence[int]) -> Packed:
        return Packed({}, [], [])

    def sizes(self, counts: dict[str, Any], length: int, file: str) -> list[int]:
        return []

    def unpack(self, counts: dict[str, Any], blocks: Sequence[np.ndarray]) -> None:
        pass
