"""The command line in a process of its own, as a user starts it."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

# What a caller's terminal or CI may have set to ask for colours or another width.
_SILENCED = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "GITHUB_ACTIONS", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE",
             "SKIPSTONE_ISA")

# A shell that runs the tests in the background has them ignore SIGINT; what they start must not inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _SILENCED}
    return {**kept, "PYTHONIOENCODING": "utf-8", "COLUMNS": "200", **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "skipstone.cli", *arguments]


def skipstone(*arguments: str, stdin: bytes = b"", **more: str) -> Done:
    """Runs a command; `more` are environment variables."""
    done = subprocess.run(command(*arguments), input=stdin, capture_output=True, env=environment(**more), timeout=300)
    return Done(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))


def assert_one_line_error(done: Done, *words: str) -> None:
    """Exit code 2, nothing on standard output, one line on standard error that has the words."""
    assert done.code == 2, (done.code, done.out, done.err)
    assert done.out == ""
    assert "Traceback" not in done.err
    lines = done.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.err
    for word in words:
        assert word in lines[0], done.err
