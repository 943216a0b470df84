"""The ways in which model families mark reasoning and tool calls: a file each."""
from __future__ import annotations

from ..answer import Dialect
from .gemma4 import GEMMA4
from .qwen import QWEN

PLAIN = Dialect("plain")


def dialect_of(template: str, architecture: str) -> Dialect:
    """By the marks that the template writes, as fine-tunes keep the architecture and change the format; else by the architecture."""
    if "<|tool_call>" in template or "<|channel>" in template:
        return GEMMA4
    if "<tool_call>" in template or "<think>" in template or "</think>" in template:
        return QWEN
    return GEMMA4 if architecture.startswith("gemma4") else QWEN if architecture.startswith("qwen") else PLAIN
