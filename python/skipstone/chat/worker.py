"""The process in which chat templates run. Started by template.py; answers one request after the other until its input ends.

A template is a program by a stranger: it may loop for ever or ask for gigabytes inside single operations that nothing in the
same process can interrupt. So the operating system limits this process, and whoever started it may end it at any time.
"""
from __future__ import annotations

import _strptime  # noqa: F401    these are what would be imported later, when no file may be opened any more
import html  # noqa: F401
import json
import os
import pprint  # noqa: F401
import signal
import struct
import sys
import textwrap  # noqa: F401
from typing import Any, BinaryIO

import jinja2.constants  # noqa: F401
import jinja2.debug  # noqa: F401
from jinja2.exceptions import SecurityError, TemplateSyntaxError

from .marked import join, own, own_runs
from .sandbox import CONTROL, Refused, environment, line_of

try:
    import resource
except ImportError:                             # Windows: only the caller's clock limits
    resource = None                             # type: ignore[assignment]

KEPT = 8                                        # compiled templates
MESSAGE = 500                                   # letters of a message


class TooLong(Exception):
    """More output than allowed."""


def main() -> None:
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    memory = _memory_file()
    environment().from_string("{{ strftime_now('%Y') }}").render()
    _no_files()
    templates: dict[str, Any] = {}
    send(answers, {"ready": True})
    while (request := receive(requests)) is not None:
        _limit_memory(memory, request["memory"])
        answer = _answer(request, templates)
        send(answers, answer)
        if answer.get("error") == "memory":
            return                              # what is left of it need not be sound


def receive(stream: BinaryIO) -> Any:
    head = stream.read(8)
    if len(head) < 8:
        return None
    size, = struct.unpack("<Q", head)
    body = stream.read(size)
    return json.loads(body) if len(body) == size else None


def send(stream: BinaryIO, value: Any) -> None:
    body = json.dumps(value).encode()
    stream.write(struct.pack("<Q", len(body)) + body)
    stream.flush()


def _no_files() -> None:
    """Nothing is opened, written to a file or started from here on."""
    if resource is not None:
        for limit in ("RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NPROC"):
            if hasattr(resource, limit):
                try:
                    resource.setrlimit(getattr(resource, limit), (0, 0))
                except (OSError, ValueError):
                    pass


def _memory_file() -> int | None:
    """Where the system tells how much memory the process has, kept open; None where it does not."""
    try:
        return os.open("/proc/self/statm", os.O_RDONLY) if resource is not None else None
    except OSError:
        return None


def _limit_memory(file: int | None, more: int) -> None:
    """At most `more` bytes beyond what the process has now."""
    if file is None:
        return
    try:
        wanted = int(os.pread(file, 100, 0).split()[0]) * resource.getpagesize() + more
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    except (OSError, ValueError):
        pass


def _limit_seconds(seconds: float) -> None:
    """The system ends the process after so many seconds of work; 0: no limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _answer(request: dict[str, Any], templates: dict[str, Any]) -> dict[str, Any]:
    """request: template, variables, own (variables that are the template's own text), seconds, memory, output (limits)."""
    _limit_seconds(request["seconds"])
    try:
        text = _render(request, templates)
        return {"text": str.__str__(text), "own": own_runs(text)}
    except MemoryError:
        return {"error": "memory", "message": "", "line": None}
    except RecursionError as error:
        return _error("depth", error)
    except TooLong as error:
        return _error("output", error)
    except Refused as error:
        return _error("refused", error)
    except TemplateSyntaxError as error:
        return _error("syntax", error)
    except (SecurityError, OverflowError) as error:
        return _error("security", error)
    except Exception as error:
        return _error("failed", error)
    finally:
        _limit_seconds(0)


def _render(request: dict[str, Any], templates: dict[str, Any]) -> str:
    source, most = request["template"], request["output"]
    template = templates.get(source)
    if template is None:
        if len(templates) >= KEPT:
            del templates[next(iter(templates))]
        template = templates[source] = environment().from_string(source)
    pieces, length = [], 0
    for piece in template.generate(**request["variables"], **{name: own(text) for name, text in request["own"].items()}):
        pieces.append(piece)
        length += len(piece)
        if length > most:
            raise TooLong
    return join(pieces)


def _error(kind: str, error: BaseException) -> dict[str, Any]:
    said = "" if kind in ("depth", "output") else str(error)[:MESSAGE]
    if kind == "failed":
        said = f"{type(error).__name__}: {said}"
    return {"error": kind, "message": CONTROL.sub("\ufffd", said), "line": line_of(error)}
