"""What a conversation needs of a terminal: lines with history, text as it comes."""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from .interrupts import LinePresses
from .output import printable

DIM, PROMPT, PLAIN = "\x1b[2m", "\x1b[1;36m", "\x1b[0m"
HISTORY = 1000          # lines


def styled(stream: Any) -> bool:
    """Whether a stream is a terminal that may get colours."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def history_path() -> Path:
    """Where lines are kept between conversations."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(state) / "skipstone" / "chat_history"


class Lines:
    """Reads what a person writes: edited with readline where Python has it, several lines between triple quotes or after a backslash at the end."""

    def __init__(self, keep: bool) -> None:
        self._edited = sys.stdin.isatty() and sys.stdout.isatty()
        self._readline: Any = None
        self._path = history_path() if keep and self._edited else None
        self._presses = LinePresses()
        if self._edited:
            try:
                import readline

                self._readline = readline
                readline.parse_and_bind("set enable-bracketed-paste on")      # pasted lines are one message
            except ImportError:
                return
            if self._path:
                try:
                    readline.read_history_file(self._path)
                except (OSError, UnicodeError):
                    pass
                readline.set_history_length(HISTORY)

    def read(self) -> str:
        """A message. EOFError at the end of the input, KeyboardInterrupt for Ctrl-C, which does nothing between messages."""
        with self._presses:
            return self._message()

    def _message(self) -> str:
        text = self._line(">>> ")
        if text.startswith('"""'):
            lines = [text[3:]]
            while not lines[-1].rstrip().endswith('"""'):
                lines.append(self._line("... "))
            lines[-1] = lines[-1].rstrip()[:-3]
            return "\n".join(lines).strip("\n")
        while text.endswith("\\"):
            text = text[:-1] + "\n" + self._line("... ")
        return text

    def _line(self, prompt: str) -> str:
        if not self._edited:
            if sys.stdin.isatty():
                sys.stderr.write(prompt)
                sys.stderr.flush()
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            return line.rstrip("\n")
        if styled(sys.stdout):
            marks = ("\1", "\2") if self._readline else ("", "")       # around what takes no room
            prompt = f"{marks[0]}{PROMPT}{marks[1]}{prompt}{marks[0]}{PLAIN}{marks[1]}"
        return input(prompt)

    def close(self) -> None:
        """Keeps the history; that it cannot be written is no reason to complain."""
        self._presses.close()
        if self._readline and self._path:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
                os.close(descriptor)
                self._readline.write_history_file(self._path)
            except OSError:
                pass


class Answer:
    """Writes an answer as it comes: reasoning dimly, or between words where there are no styles, and not into a pipe."""

    def __init__(self) -> None:
        self._terminal, self._styled = sys.stdout.isatty(), styled(sys.stdout)
        self._mode = ""
        self._last = "\n"

    def write(self, text: str, reasoning: str) -> None:
        if reasoning and self._terminal:
            self._switch("reasoning")
            self._out(reasoning)
        if text:
            self._switch("text")
            self._out(text)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """A word about the answer, on a line of its own: on the terminal only."""
        if self._terminal:
            self._switch("note")
            self._out(text)

    def finish(self) -> None:
        if self._mode in ("reasoning", "note") and self._styled:
            sys.stdout.write(PLAIN)
        if self._last != "\n":
            sys.stdout.write("\n")
        sys.stdout.flush()

    def _switch(self, mode: str) -> None:
        if mode == self._mode:
            return
        if self._mode == "reasoning":
            sys.stdout.write((PLAIN if self._styled else "\n[end of thinking]") + "\n\n")
            self._last = "\n"
        if mode == "reasoning":
            sys.stdout.write(DIM if self._styled else "[thinking]\n")
        if mode == "note":
            sys.stdout.write(("" if self._last == "\n" else "\n") + (DIM if self._styled else ""))
        self._mode = mode

    def _out(self, text: str) -> None:
        sys.stdout.write(printable(text) if self._terminal else text)
        self._last = text[-1]

