"""Ctrl-C in a conversation: no press is lost, and none ends more than it should."""
from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from pseudo_terminal import Terminal, on_terminal

from skipstone.cli.interrupts import AnswerPresses, LinePresses

HINT = "Ctrl-D or /exit leaves."


@on_terminal
@pytest.mark.parametrize("ignoring", [False, True], ids=["", "SIGINT ignored by the shell"])
def test_at_the_prompt(ignoring: bool, tmp_path: Path) -> None:
    """Each press clears the line and leaves the conversation as it is."""
    terminal = Terminal(tmp_path, "chat", "tiny-qwen35", "--temperature", "0", ignoring=ignoring)
    terminal.wait(">>> ")
    for _ in range(5):
        terminal.type("some")
        terminal.wait("some")
        terminal.type("\x03")
        terminal.wait(HINT)
        terminal.wait(">>> ")
    terminal.type('"""one\n')
    terminal.wait("... ")
    terminal.type("\x03")                                   # in the middle of several lines
    terminal.wait(HINT)
    terminal.wait(">>> ")
    terminal.type("/set\n")
    terminal.wait("temperature 0")
    terminal.wait(">>> ")
    terminal.type("/exit\n")
    assert terminal.end() == 0


# A signal that another thread handles does not wake readline: the press that CPython loses, every time.
ELSEWHERE = """
import signal, threading, time
from skipstone.cli.terminal import Lines

lines = Lines(keep=False)
asked = threading.Semaphore(0)

def press():
    while True:
        asked.acquire()
        time.sleep(0.2)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

threading.Thread(target=press, daemon=True).start()
for _ in range(3):
    try:
        asked.release()
        lines.read()
    except KeyboardInterrupt:
        print("pressed", flush=True)
print("read", lines.read())
lines.close()
"""


@on_terminal
def test_on_another_thread(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, program=[sys.executable, "-c", ELSEWHERE])
    for _ in range(3):
        terminal.wait("pressed")
    terminal.wait(">>> ")
    terminal.type("a line\n")
    terminal.wait("read a line")
    assert terminal.end() == 0


def test_between_lines_and_answers() -> None:
    before = signal.getsignal(signal.SIGINT)
    lines = LinePresses()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), lines:
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)                 # a second press while the first is dealt with
        with AnswerPresses() as answer:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)         # before the first piece
            answer.writing = True
            os.kill(os.getpid(), signal.SIGINT)
            assert answer.asked
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        lines.close()
    assert signal.getsignal(signal.SIGINT) == before
