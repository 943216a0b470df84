"""Gemma 4: a channel named thought for reasoning; tool calls with bare keys and strings between marks of their own.

    <|channel>thought
    ...<channel|>
    <|tool_call>call:f{x:1,s:<|"|>text<|"|>,l:[true,{k:2}]}<tool_call|>
"""
from __future__ import annotations

import json
import re
from typing import Any

from ..answer import Dialect, Tools

QUOTE = '<|"|>'
DEPTH = 64
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?\Z")


class _Wrong(ValueError):
    pass


def parse(body: str, tools: Tools) -> tuple[str, dict[str, Any]] | None:
    body = body.strip()
    name, brace, _ = body.removeprefix("call:").partition("{")
    if not body.startswith("call:") or not brace or not name.strip():
        return None
    try:
        reader = _Values(body)
        arguments = reader.mapping(body.index("{") + 1, 0)
    except (_Wrong, ValueError):
        return None
    return (name.strip(), arguments) if reader.at == len(body) else None


class _Values:
    """Reads values from `at` on, which it moves on."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def mapping(self, at: int, depth: int) -> dict[str, Any]:
        """After the opening brace."""
        made: dict[str, Any] = {}
        self.at = at
        if self._next("}"):
            return made
        while True:
            key = self._quoted() if self.text.startswith(QUOTE, self._skip()) else self._word(":")
            if not self._next(":"):
                raise _Wrong
            made[key] = self.value(depth + 1)
            if self._next("}"):
                return made
            if not self._next(","):
                raise _Wrong

    def sequence(self, depth: int) -> list[Any]:
        made: list[Any] = []
        if self._next("]"):
            return made
        while True:
            made.append(self.value(depth + 1))
            if self._next("]"):
                return made
            if not self._next(","):
                raise _Wrong

    def value(self, depth: int) -> Any:
        if depth > DEPTH:
            raise _Wrong
        if self.text.startswith(QUOTE, self._skip()):
            return self._quoted()
        if self._next("{"):
            return self.mapping(self.at, depth)
        if self._next("["):
            return self.sequence(depth)
        if self.text.startswith('"', self.at):          # some answers write plain JSON strings
            text, length = json.JSONDecoder().raw_decode(self.text[self.at:])
            self.at += length
            return text
        word = self._word(",}]")
        if word.lower() in _WORDS:
            return _WORDS[word.lower()]
        if _NUMBER.match(word) and len(word) < 400:
            return json.loads(word) if not re.match(r"-?0\d", word) else word
        return word

    def _skip(self) -> int:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.at

    def _next(self, letter: str) -> bool:
        if self.text.startswith(letter, self._skip()):
            self.at += 1
            return True
        return False

    def _quoted(self) -> str:
        start = self.at + len(QUOTE)
        end = self.text.find(QUOTE, start)
        if end < 0:
            raise _Wrong
        self.at = end + len(QUOTE)
        return self.text[start:end]

    def _word(self, ends: str) -> str:
        start = self._skip()
        while self.at < len(self.text) and self.text[self.at] not in ends:
            self.at += 1
        word = self.text[start:self.at].strip()
        if not word or self.at == len(self.text):
            raise _Wrong
        return word


GEMMA4 = Dialect("gemma4", think=("<|channel>", "<channel|>"), heading="thought", call=("<|tool_call>", "<tool_call|>"), parse=parse, quote=QUOTE)
