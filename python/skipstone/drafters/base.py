"""What a drafter offers to sessions and the decode loop.

A drafter belongs to a model, its state to one text. A session tells the state what the model has read (`observe`), with the
model's hidden states for it, and asks for drafts (`draft`). Only tokens of the text are ever observed: of a verify pass, the
accepted rows. A draft never decides a token, so a state may be wrong or behind without harm to the text; it must come back to
the same drafts for the same text.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from ..decode.saved import Packed
    from .chains import Request


class DrafterState(Protocol):
    """A drafter's memory of one text."""

    def observe(self, text: Sequence[int], start: int, hidden: np.ndarray) -> None:
        """text: all tokens read so far. hidden: float32 (rows, width), the model's states after the final norm at positions
        start .. start + rows - 1, all within the text. Rows known already are ignored. Where the drafter says that it does not
        need every row, those of some rows before `start` may never come."""

    def missing(self, length: int) -> int | None:
        """First position whose hidden state is needed to draft after a text of `length` tokens and is not known; None if none is."""

    def behind(self, length: int) -> int:
        """Rows that the next draft has to catch up with, its own first row included."""

    def draft(self, text: Sequence[int], token: int, steps: int, sampler: Any, target: Any) -> list[int]:
        """Up to `steps` drafts after `token`, which was chosen after the text and is not read yet.

        sampler: None for the likeliest tokens, else a native Sampler whose text is `text` and `token`; it is left as it was.
        target: the model's native Sequence, holding exactly the text.
        """

    def rollback(self, length: int) -> None:
        """The text goes back to its first `length` tokens."""

    def copy(self) -> DrafterState:
        """The same for another text that begins like this one."""

    # For files, see decode/saved.py.

    def pack(self, text: Sequence[int]) -> Packed:
        """This state, for a text of which all was read."""

    def sizes(self, counts: dict[str, Any], length: int, file: str) -> list[int]:
        """Bytes of the blocks that pack wrote with these counts, for a text of `length` tokens. FileError for counts that cannot be."""

    def unpack(self, counts: dict[str, Any], blocks: Sequence[np.ndarray]) -> None:
        """Takes a packed state, uint8 blocks of these sizes."""


class Drafter(Protocol):
    """A drafter of a model."""

    name: str
    bytes: int            # of weights, read once a draft, or once for all that come at once
    every_row: bool       # its states need the hidden states of every row of a text; else that of a pass's last row is enough
    at_once: int | None   # how many drafts come at once, in the time of one; None: they come one by one

    @property
    def identity(self) -> str:
        """A hash of the file it comes from."""

    def begin(self) -> DrafterState:
        """The state for a new text."""

    def draft_several(self, requests: Sequence[Request]) -> list[list[int]]:
        """What DrafterState.draft gives for each of them; at least one step each."""
