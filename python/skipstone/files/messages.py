"""How names and values out of files are shown in messages."""
from __future__ import annotations

from itertools import islice
from typing import Any


def shown(text: object, limit: int = 80) -> str:
    """A key, a tensor's or a file's name, safe for a terminal and at most about `limit` characters long."""
    text = str(text)
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return text if text and text.isprintable() else ascii(text)


def shown_value(value: object, limit: int = 80) -> str:
    """The same for a value, as Python writes it; a list of millions costs no more than its beginning."""
    return shown(repr(_beginning(value, [limit])), limit)


def _beginning(value: Any, left: list[int]) -> Any:
    """As much of a value as left[0] entries and characters; what is left out lies beyond what is shown."""
    left[0] -= 1
    if isinstance(value, str | bytes):
        return value[: max(left[0], 0) + 2]
    if isinstance(value, list):
        return [_beginning(entry, left) for entry in islice(value, left[0] + 1) if left[0] >= 0]
    if isinstance(value, dict):
        return {_beginning(key, left): _beginning(entry, left) for key, entry in islice(value.items(), left[0] + 1) if left[0] >= 0}
    return value
