"""What Ctrl-C does in a conversation: at the prompt it clears the line, in an answer it ends that; never more, and never nothing."""
from __future__ import annotations

import faulthandler
import os
import signal
import threading
from types import FrameType
from typing import Any

NUDGES = [0.01 * 2**i for i in range(10)]       # seconds before each


def heed() -> None:
    """Ctrl-C counts on a terminal, even where a shell that runs this in the background had SIGINT ignored."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class AnswerPresses:
    """While an answer is written, the first Ctrl-C only asks for its end, so that the session stays whole; a second one, or one
    before the first piece, when a long prompt may be read, ends it wherever it is."""

    def __init__(self) -> None:
        self.asked = False
        self.writing = False
        self._over = False
        self._before: Any = None

    def __enter__(self) -> AnswerPresses:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._over:
            return
        if self.asked or not self.writing:
            raise KeyboardInterrupt
        self.asked = True


class LinePresses:
    """Ctrl-C while a line is read, inside `with`: KeyboardInterrupt, always and at once. Between lines it does nothing.

    Python's readline misses a signal that comes while it is not waiting for a key but just about to, or that reaches another thread: it goes
    on waiting, and sees it after the next key. So a thread that hears of each SIGINT interrupts the waiting by SIGURG. That one's handler must
    be none of Python's, which could not run while an exception is on its way: it is faulthandler's, and writes to nowhere.
    """

    def __init__(self) -> None:
        self._reading = False
        self._seen = 0                                      # calls of the handler
        self._closing = threading.Event()
        self._ear: int | None = None
        if threading.current_thread() is not threading.main_thread():
            return                                          # signals are not ours to handle
        heard, self._ear = os.pipe()
        os.set_blocking(self._ear, False)
        self._nowhere = open(os.devnull, "w")               # noqa: SIM115
        faulthandler.register(signal.SIGURG, self._nowhere, all_threads=False)
        self._main = threading.get_ident()
        self._thread = threading.Thread(target=self._listen, args=(heard,), daemon=True)
        self._thread.start()
        self._before = signal.signal(signal.SIGINT, self._press)
        self._wakeup = signal.set_wakeup_fd(self._ear, warn_on_full_buffer=False)

    def __enter__(self) -> None:
        if self._ear is not None:
            signal.signal(signal.SIGINT, self._press)
        self._reading = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        self._reading = False
        if isinstance(error, SystemError) and isinstance(error.__cause__, KeyboardInterrupt):
            raise KeyboardInterrupt from None               # a second press while input() was leaving because of the first

    def close(self) -> None:
        """Signals do what they did before."""
        if self._ear is not None:
            signal.set_wakeup_fd(self._wakeup)
            signal.signal(signal.SIGINT, signal.SIG_DFL if self._before is None else self._before)
            os.close(self._ear)
            self._ear = None
            self._closing.set()
            self._thread.join()
            faulthandler.unregister(signal.SIGURG)
            self._nowhere.close()

    def _press(self, number: int, frame: FrameType | None) -> None:
        self._seen += 1
        if self._reading:
            self._reading = False
            raise KeyboardInterrupt

    def _listen(self, heard: int) -> None:
        while numbers := os.read(heard, 64):
            if signal.SIGINT not in numbers:
                continue
            seen = self._seen
            for wait in NUDGES:
                if self._closing.wait(wait) or not self._reading or self._seen != seen:
                    break                                   # the handler has run
                signal.pthread_kill(self._main, signal.SIGURG)
        os.close(heard)
