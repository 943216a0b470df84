"""What generating returns."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .decode.stats import Stats

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """A part of a streamed text: what could be released since the part before it.

    text: whole characters only. tokens: the ids chosen since the part before. The last part has a finish_reason and stats.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason | None = None
    stats: Stats | None = None


@dataclass(frozen=True)
class Result:
    """A generated text.

    text: without the prompt, without the stop string that ended it. tokens: the ids chosen, the end-of-text token included.
    finish_reason: "stop" after an end-of-text token or a stop string, "length" where max_tokens or the context ended it.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    stats: Stats


@dataclass(frozen=True)
class LoadStats:
    """What loading took. seconds: in all. weights_seconds: of them without the tokenizer. bytes: of the file's tensors."""

    seconds: float
    weights_seconds: float
    bytes: int

    @property
    def bytes_per_second(self) -> float:
        """How fast the weights were read and laid out."""
        return self.bytes / self.weights_seconds if self.weights_seconds else 0.0
