"""A model's answer taken apart while it arrives: text, reasoning, tool calls.

The result depends on the whole text alone, not on where it was cut into pieces: what may be the beginning of a mark, and white
space that may stand before one, waits until that is decided.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Tools = Mapping[str, Mapping[str, Any]]         # a tool's name -> the JSON schema of its parameters


@dataclass(frozen=True)
class ToolCall:
    """What the model wants to have called. id: "call_0", "call_1", ... in the order of the answer."""

    name: str
    arguments: dict[str, Any]
    id: str = ""

    @property
    def message(self) -> dict[str, Any]:
        """The form that messages have it in."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class Dialect:
    """How a family marks the parts of an answer. Marks are texts; None: it has no such part.

    think: beginning and end of reasoning; heading: what stands at its beginning without being part of it. call: beginning and
    end of a tool call; bare_call: the beginning and end of one without those, looked for only when there are tools. parse: the
    call in the text between the marks, its name and arguments by the tools' schemas, or None where it is none. quote: a mark
    between two of which the end of a call is ordinary text.
    """

    name: str
    think: tuple[str, str] | None = None
    heading: str = ""
    call: tuple[str, str] | None = None
    bare_call: tuple[str, str] | None = None
    parse: Callable[[str, Tools], tuple[str, dict[str, Any]] | None] | None = None
    quote: str = ""


@dataclass
class Part:
    """What became certain: more text, more reasoning, complete tool calls."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)


class AnswerReader:
    """Reads one answer. thinking: the prompt ended inside of reasoning."""

    def __init__(self, dialect: Dialect, tools: Tools | None = None, thinking: bool = False) -> None:
        self._dialect, self._tools = dialect, tools or {}
        self._rest = ""                         # not decided yet
        self._mode = self._text
        self._part = Part()
        self._count = 0
        self._begins = False                    # the next text or reasoning is the first after a mark
        self._heading = False
        self._written = {"text": False, "reasoning": False}
        self._call: tuple[str, str] = dialect.call or ("", "")
        self._closing = False                   # a bare call ended: the end mark of a whole one may follow
        if thinking and dialect.think:
            self._mode, self._begins, self._heading = self._reasoning, True, bool(dialect.heading)

    def push(self, text: str) -> Part:
        """What became certain with `text`."""
        self._rest += text
        return self._run(False)

    def finish(self) -> Part:
        """What is left when nothing more comes."""
        return self._run(True)

    def _run(self, last: bool) -> Part:
        self._part = Part()
        while self._mode(last):
            pass
        return self._part

    # Each mode takes what it can from the rest, and says whether another one may go on.

    def _text(self, last: bool) -> bool:
        dialect, marks = self._dialect, []
        if dialect.think:
            marks.append(dialect.think[0])
        if dialect.call:
            marks.append(dialect.call[0])
        if dialect.bare_call and self._tools:
            marks.append(dialect.bare_call[0])
        if self._closing and dialect.call:
            marks.append(dialect.call[1])
        mark = self._until(marks, "text", last)
        if mark is None:
            return False
        if self._closing and dialect.call and mark == dialect.call[1]:
            self._closing = False
            return True
        if dialect.think and mark == dialect.think[0]:
            self._mode, self._heading = self._reasoning, bool(dialect.heading)
        else:
            self._mode = self._tool_call
            bare = dialect.bare_call is not None and mark == dialect.bare_call[0]
            self._call = dialect.bare_call if bare and dialect.bare_call else dialect.call or ("", "")
            self._closing = False
        return True

    def _reasoning(self, last: bool) -> bool:
        assert self._dialect.think
        end = self._dialect.think[1]
        if self._heading:
            heading = self._dialect.heading
            if not last and (heading.startswith(self._rest) or end.startswith(self._rest.removeprefix(heading))):
                return False
            after = self._rest.removeprefix(heading)
            if self._rest.startswith(heading) and (not after or after[0].isspace() or after.startswith(end)):
                self._rest = after
            self._heading = False
        if self._until([end], "reasoning", last) is None:
            return False
        self._mode = self._text
        return True

    def _tool_call(self, last: bool) -> bool:
        begin, end = self._call
        first = at = self._end(0)
        while at >= 0:
            if self._take(self._rest[:at], at + len(end)):
                return True
            again = self._rest.find(begin, first + len(end))
            at = self._end(at + len(end))
            if again >= 0 and (at < 0 or again < at):
                return self._give_up(first + len(end))
        if last:                                # a whole call without its end mark is one all the same
            whole = first < 0 and self._call is self._dialect.call and self._take(self._rest, len(self._rest))
            return whole or self._give_up(first + len(end) if first >= 0 else len(self._rest))
        return False

    def _end(self, start: int) -> int:
        """Where the end mark stands, the first that is not quoted."""
        end, quote = self._call[1], self._dialect.quote
        at = self._rest.find(end, start)
        while quote and at >= 0 and self._rest.count(quote, 0, at) % 2:
            at = self._rest.find(end, at + 1)
        return at

    def _take(self, body: str, length: int) -> bool:
        """The call that `body` is, if it is one; it ends `length` characters on."""
        assert self._dialect.parse
        bare = self._call is self._dialect.bare_call
        found = self._dialect.parse(self._call[0] + body + self._call[1] if bare else body, self._tools)
        if found is None or bare and found[0] not in self._tools:
            return False
        self._part.tool_calls.append(ToolCall(found[0], found[1], f"call_{self._count}"))
        self._count += 1
        self._rest, self._mode, self._begins, self._closing = self._rest[length:], self._text, True, bare
        return True

    def _give_up(self, length: int) -> bool:
        """No call after all: its text is text."""
        raw, self._rest, self._mode = self._call[0] + self._rest[:length], self._rest[length:], self._text
        self._write(raw, "text")
        return True

    def _until(self, marks: Sequence[str], to: str, last: bool) -> str | None:
        """Writes what stands before the first of the marks and takes the mark; else what can no longer be part of one."""
        found = min(((at, -len(mark), mark) for mark in marks if (at := self._rest.find(mark)) >= 0), default=None)
        if found is not None:
            at, _, mark = found
            self._write(self._rest[:at].rstrip(), to)
            self._rest = self._rest[at + len(mark):]
            self._begins = True
            return mark
        keep = 0 if last else max((_overlap(self._rest, mark) for mark in marks), default=0)
        body = self._rest[:len(self._rest) - keep]
        if not last and marks:
            body = body.rstrip()
        self._rest = self._rest[len(body):]
        self._write(body, to)
        return None

    def _write(self, text: str, to: str) -> None:
        if self._begins:
            text = text.lstrip()
            if text and self._written[to]:
                text = "\n\n" + text            # two parts with a mark between them
        if text:
            self._begins = False
            self._written[to] = True
            setattr(self._part, to, getattr(self._part, to) + text)


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of text may be the beginning of mark."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
