"""Regular expressions out of files: only those whose matching cannot take time beyond measure.

The library's engine goes back on its steps, so an expression can take time that grows exponentially with the text. That needs a
repeated group or a reference back; what cuts text into words has neither.
"""
from __future__ import annotations

import re

REPEATS_LIMIT = 3       # in one alternative: each may multiply the time by the length of a word

_GROUP = re.compile(r"\((?:\?(?:[im-]*[:)]|[=!>]|<[=!]))?(?!\?)")
_ESCAPE = re.compile(r"\\(?:[pP]\{\^?\w+\}|[xu]\{?[0-9a-fA-F]+\}?|[^0-9gkKX])", re.DOTALL)
_REPEAT = re.compile(r"[*+?]|\{(\d*)(?:(,)(\d*))?\}")


def too_slow(expression: str) -> str:
    """What in it may make matching slow, or is unknown; "" where nothing is."""
    at, repeats, group_ended = 0, 0, False
    while at < len(expression):
        sign = expression[at]
        if repeat := _REPEAT.match(expression, at):
            if _most(repeat) > 1:
                if group_ended:
                    return f"a repeated group at {at}"
                repeats += 1
                if repeats > REPEATS_LIMIT:
                    return f"over {REPEATS_LIMIT} repeats in one alternative at {at}"
            at = repeat.end()
            if expression.startswith("?", at) or expression.startswith("+", at) and sign != "{":
                at += 1         # the least first, or never going back
            if _REPEAT.match(expression, at):
                return f"a repeated repeat at {at}"
        elif part := {"\\": _ESCAPE, "(": _GROUP}[sign].match(expression, at) if sign in "\\(" else None:
            at = part.end()
        elif sign in "\\(":
            return f"{expression[at:at + 4]!r} at {at}"
        else:
            at = _class_end(expression, at) if sign == "[" else at + 1
        group_ended = sign == ")"
        if sign == "|":
            repeats = 0
    return ""


def _most(repeat: re.Match[str]) -> float:
    """The most times that a repeat allows."""
    if not repeat[0].startswith("{"):
        return 1 if repeat[0] == "?" else float("inf")
    most = repeat[3] if repeat[2] else repeat[1]
    return int(most) if most else float("inf")


def _class_end(expression: str, at: int) -> int:
    """Behind the class that begins at `at`; classes may hold others."""
    depth = 0
    while at < len(expression):
        sign = expression[at]
        at += 2 if sign == "\\" else 1
        if sign == "[":
            depth += 1
            at += expression.startswith("^", at)
            at += expression.startswith("]", at)
        elif sign == "]":
            depth -= 1
            if depth == 0:
                break
    return at
