"""Text that knows which of its characters the chat template itself wrote.

Only those may become special tokens: the spelling of a turn's end inside a message must stay text. Templates trim, cut, test,
split and join messages, so marks that lie in the text would get lost or in the way. This is a str that behaves as any other and
carries a byte a character beside it. Whatever forgets it leaves plain text, which counts as a message's: the safe side.
"""
from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, SupportsIndex

OWN, FOREIGN = b"\1", b"\0"

_CONVERSION = re.compile(r"%(?:\((\w*)\))?[-#0 +]*\d*(?:\.\d+)?[hlL]?[a-zA-Z%]", re.ASCII)


class Marked(str):
    """A str and who wrote its characters: `_marks` has b"\\1" for the template's own, b"\\0" for others."""

    _marks: bytes

    def __new__(cls, text: str, marks: bytes) -> Marked:
        made = super().__new__(cls, text)
        made._marks = marks
        return made

    def __str__(self) -> str:
        return self

    def _cut(self, start: int, stop: int) -> Marked:
        return Marked(str.__getitem__(self, slice(start, stop)), self._marks[start:stop])

    def __getitem__(self, key: SupportsIndex | slice) -> Marked:
        if isinstance(key, slice):
            return Marked(super().__getitem__(key), self._marks[key])
        index = key.__index__()
        return Marked(super().__getitem__(index), self._marks[index:index + 1 or None])

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, str) or hasattr(other, "__html__"):
            return NotImplemented           # Markup escapes what it is added to, as it does to any str
        return Marked(super().__add__(other), self._marks + marks(other))

    def __radd__(self, other: Any) -> Any:
        if not isinstance(other, str):
            return NotImplemented
        return Marked(str.__add__(other, self), marks(other) + self._marks)

    def __mul__(self, times: SupportsIndex) -> Marked:
        return Marked(super().__mul__(times), self._marks * times.__index__())

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> Any:
        """The literal parts stay what they are; the values count as others' text."""
        whole = super().__mod__(values)
        parts: list[str] = []
        at = position = 0
        given = values if isinstance(values, tuple) else (values,)
        for match in _CONVERSION.finditer(self):
            if "%" in str.__getitem__(self, slice(at, match.start())):
                return whole                # a conversion of an unusual kind
            parts.append(self._cut(at, match.start()))
            at = match.end()
            if match[0] == "%%":
                parts.append(self._cut(at - 1, at))
            elif match[1] is not None:
                parts.append(str.__mod__(match[0], values))
            else:
                parts.append(str.__mod__(match[0], (given[position],)))
                position += 1
        parts.append(self._cut(at, len(self)))
        made = join(parts)
        return made if made == whole else whole

    def join(self, parts: Iterable[str], /) -> str:
        given = list(parts)
        text = super().join(given)
        return Marked(text, self._marks.join([marks(part) for part in given]))

    def strip(self, chars: str | None = None, /) -> Marked:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> Marked:
        return self._cut(len(self) - len(super().lstrip(chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> Marked:
        return self._cut(0, len(super().rstrip(chars)))

    def removeprefix(self, prefix: str, /) -> Marked:
        return self._cut(len(self) - len(super().removeprefix(prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> Marked:
        return self._cut(0, len(super().removesuffix(suffix)))

    def _located(self, parts: Iterable[str]) -> list[Marked]:
        """Parts that stand in this text in this order, with what lies between them no start of the next one."""
        made, at = [], 0
        for part in parts:
            start = self.find(part, at)
            at = start + len(part)
            made.append(self._cut(start, at))
        return made

    def _separated(self, parts: list[str], separator: str) -> list[Marked]:
        made, at = [], 0
        for part in parts:
            made.append(self._cut(at, at + len(part)))
            at += len(part) + len(separator)
        return made

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        parts = super().split(sep, maxsplit)
        return self._located(parts) if sep is None else self._separated(parts, sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        parts = super().rsplit(sep, maxsplit)
        return self._located(parts) if sep is None else self._separated(parts, sep)

    def splitlines(self, keepends: bool = False) -> list[Any]:
        lines = self._separated(super().splitlines(True), "")
        return lines if keepends else [line._cut(0, len(str.splitlines(line)[0])) for line in lines]

    def partition(self, sep: str, /) -> tuple[Any, Any, Any]:
        before, found, _ = super().partition(sep)
        return self._cut(0, len(before)), self._cut(len(before), len(before) + len(found)), self._cut(len(before) + len(found), len(self))

    def rpartition(self, sep: str, /) -> tuple[Any, Any, Any]:
        before, found, _ = super().rpartition(sep)
        return self._cut(0, len(before)), self._cut(len(before), len(before) + len(found)), self._cut(len(before) + len(found), len(self))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:      # type: ignore[override]
        if not old:
            return super().replace(old, new, count)
        return tracked(new).join(self.split(old, count))

    def _same_length(self, text: str) -> str:
        return Marked(text, self._marks) if len(text) == len(self) else text

    def upper(self) -> str:
        return self._same_length(super().upper())

    def lower(self) -> str:
        return self._same_length(super().lower())

    def title(self) -> str:
        return self._same_length(super().title())

    def capitalize(self) -> str:
        return self._same_length(super().capitalize())


def marks(text: str) -> bytes:
    """Who wrote a text, a byte a character."""
    return text._marks if isinstance(text, Marked) else FOREIGN * len(text)


def own(text: str) -> Marked:
    """The template's own text."""
    return Marked(text, OWN * len(text))


def tracked(text: str) -> Marked:
    """The same text; a plain one is somebody else's."""
    return text if isinstance(text, Marked) else Marked(text, FOREIGN * len(text))


def join(parts: Iterable[Any]) -> Marked:
    """All parts as one text; what is no text is written out."""
    given = [str(part) for part in parts]
    return Marked("".join(given), b"".join([marks(part) for part in given]))


def own_runs(text: str) -> list[tuple[int, int]]:
    """Where the template's own characters stand: (start, end) of each run."""
    return [match.span() for match in re.finditer(b"\1+", marks(text))]
