"""Decoding with the acceptance of another model's drafts: what drafting would bring to a shape whose weights are random.

Every pass drafts, verifies and commits as always; only how many drafts count as right is drawn from the given rates. The text is not the model's.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .loop import pieces
from .stats import Stats
from .writer import Writer

if TYPE_CHECKING:
    from ..model import Model


class SimulatedWriter(Writer):
    """A writer whose drafts are right as often as `rates` says."""

    rates: Sequence[float] = ()
    luck = random.Random(0)

    def _choose(self, result: np.ndarray) -> tuple[list[int], bool]:
        draw = self.luck.random()
        right = sum(draw < rate for rate in self.rates[:len(self.drafts)])
        own = int(result[right] if result.ndim == 1 else result[right].argmax())
        if right < len(self.drafts) and own == self.drafts[right]:       # wrong all the same, as was drawn
            own = own - 1 if own else 1
        return [*self.drafts[:right], own], False


def decode(model: Model, prompt: Sequence[int], tokens: int, acceptance: Sequence[float], seed: int) -> Stats:
    """The stats of a text of so many tokens, with a draft for each rate in every pass."""
    session = model.session()
    options = model._options({"max_tokens": tokens, "draft_tokens": len(acceptance), "stop_at_eos": False}, True)
    writer = SimulatedWriter(session, np.asarray(prompt, np.int32), options, model.tokenizer, model._length(options, True))
    writer.rates, writer.luck = acceptance, random.Random(seed)
    for piece in pieces(writer):
        if piece.stats:
            return piece.stats
    raise AssertionError("a text ends with its stats")
