"""How names out of files are shown in messages."""
from __future__ import annotations


def shown(text: object, limit: int = 80) -> str:
    """A key, a tensor's or a file's name, safe for a terminal and at most about `limit` characters long."""
    text = str(text)
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return text if text and text.isprintable() else ascii(text)
