"""From ids to the text that can be released: whole characters, and nothing that may yet turn out to begin a stop string."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TextStream:
    """tokenizer: None for a model without one; its texts are empty. stop: strings that end the text and are not part of it."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        from ..text._detokenize import StopStrings

        self._detokenizer = tokenizer.stream() if tokenizer else None
        self._stops = StopStrings(list(stop))
        self.stopped = False   # a stop string was found; nothing comes out any more

    def push(self, token: int) -> str:
        """The text that can be released after this token."""
        if self._detokenizer is None:
            return ""
        text, self.stopped = self._stops.push(self._detokenizer.push(token))
        return text

    def finish(self) -> str:
        """What was held back, at the end of the ids."""
        if self._detokenizer is None or self.stopped:
            return ""
        text, self.stopped = self._stops.push(self._detokenizer.finish())
        return text + self._stops.finish()
