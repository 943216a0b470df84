"""A command on a terminal of its own, as a person uses it."""
from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import command, environment

on_terminal = pytest.mark.skipif(sys.platform != "linux", reason="needs pseudo terminals as Linux has them")


class Terminal:
    """A command on a pseudo terminal. program: in place of `skipstone`. ignoring: started with SIGINT ignored, as shells start what runs in
    the background."""

    def __init__(self, tmp_path: Path, *arguments: str, program: list[str] | None = None, columns: int = 80, ignoring: bool = False,
                 **variables: str) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        kept = {k: v for k, v in environment(TERM="xterm", XDG_STATE_HOME=str(tmp_path), **variables).items() if k != "COLUMNS"}

        def prepare() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGINT, signal.SIG_IGN if ignoring else signal.SIG_DFL)

        self.process = subprocess.Popen([*program, *arguments] if program else command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs,
                                        env=kept, start_new_session=True, preexec_fn=prepare)
        os.close(theirs)
        self.seen = ""

    def wait(self, text: str, seconds: float = 120) -> str:
        """All that came until `text` did, text included."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert select.select([self._ours], [], [], max(0.0, end - time.monotonic()))[0], f"{text!r} did not come after {self.seen!r}"
            try:
                self.seen += os.read(self._ours, 65536).decode("utf-8", "replace")
            except OSError:
                raise AssertionError(f"{text!r} did not come before the end: {self.seen!r}") from None
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        try:
            while select.select([self._ours], [], [], 120)[0] and (piece := os.read(self._ours, 65536)):
                self.seen += piece.decode("utf-8", "replace")
        except OSError:
            pass
        os.close(self._ours)
        return self.process.wait(timeout=120)
