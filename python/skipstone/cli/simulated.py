"""Decoding with the acceptance of another model's drafts: what drafting would bring to a shape whose weights are random.

Every pass drafts, verifies and commits as always; only how many drafts count as right is drawn from the given rates. The text is not the model's.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..decode.loop import pieces
from ..decode.stats import Stats
from ..decode.writer import Writer
from ..errors import ArgumentError

if TYPE_CHECKING:
    from ..model import Model


def rates(text: str) -> list[float]:
    """"0.85,0.7" as numbers: how often the first draft of a pass is right, how often the first two are, and so on."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 <= later <= earlier <= 1 for earlier, later in zip([1.0, *found], found)):
        raise ArgumentError(f"--acceptance: {text!r}; expected rates from 0 to 1 between commas that never grow: a draft is right only if all before it are")
    return found


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
