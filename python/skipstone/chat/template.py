"""Chat templates: from messages to the text that a model reads, by the template that came with the model's file.

The template runs in a process of its own (worker.py), which is kept for the next one: 0.1 s once, then well under a
millisecond a call beyond the template's own work. It has half a second of work, some memory and a length of output.
"""
from __future__ import annotations

import atexit
import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, FileError, OutOfMemory
from ..files.messages import shown

SECONDS = 0.5               # of work
PATIENCE = 0.6              # seconds of waiting; a process that got hardly any time by then may go on
STARVED, LAST = 0.1, 30.0   # seconds of work that are hardly any; when even that ends
SOURCE = 1 << 20            # letters of a template
MEMORY = 64 << 20           # bytes, and MEMORY_A_BYTE more for each byte of the messages
MEMORY_A_BYTE = 24
OUTPUT = 1 << 20            # characters, and OUTPUT_A_BYTE more for each byte of the messages
OUTPUT_A_BYTE = 4
INHERITED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TZ")      # of the environment: what Python needs to start, and the time zone


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation. own: (start, end) of the runs of characters that the template wrote, not a message."""

    text: str
    own: list[tuple[int, int]]


def render(template: str, variables: dict[str, Any], own: dict[str, str], where: str) -> Rendered:
    """Runs a template. variables: JSON values, whose texts are content; own: texts that are the file's, as bos_token.

    ArgumentError where the template refuses the messages or cannot deal with them; FileError where the template is no Jinja,
    does what templates may not, or needs more than the limits. where: the file's name, for messages.
    """
    if len(template) > SOURCE:
        raise FileError(f"{where}: the chat template has {len(template)} letters; expected at most {SOURCE}")
    answer = _process.ask({"template": template, "variables": variables, "own": own})
    if "text" in answer:
        return Rendered(answer["text"], [(start, end) for start, end in answer["own"]])
    line = f" (line {answer['line']})" if answer.get("line") else ""
    said, kind = answer["message"], answer["error"]
    what = f"{where}: the chat template"
    if kind == "refused":
        raise ArgumentError(f"messages: the chat template of {where} refuses them{line}: {said}")
    if kind == "failed":
        raise ArgumentError(f"messages: the chat template of {where} cannot deal with them{line}: {said}")
    if kind == "syntax":
        raise FileError(f"{what} is no valid Jinja{line}: {said}; expected a template as transformers reads it. Another one can be given by chat_template=")
    if kind == "security":
        raise FileError(f"{what} does what templates may not{line}: {said}")
    limits = {"time": f"is not done after {SECONDS:g} s of work", "memory": f"needs more than {MEMORY >> 20} MiB of memory",
              "output": f"writes more than {OUTPUT >> 20} million characters{line}", "depth": f"is nested too deeply or calls itself without end{line}",
              "ended": "ended the process that it ran in"}
    raise FileError(f"{what} {limits[kind]}; expected one that only puts messages together")


class _Process:
    """The worker: started when first needed, again after it was ended, and anew in a forked process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, request: dict[str, Any]) -> Any:
        size = len(json.dumps(request["variables"]))
        request = {**request, "seconds": SECONDS, "memory": MEMORY + MEMORY_A_BYTE * size, "output": OUTPUT + OUTPUT_A_BYTE * size}
        with self._lock:
            if self._running is None or self._owner != os.getpid() or self._running.poll() is not None:
                self._start()
            answer = self._exchange(request, PATIENCE)
            if answer.get("error") in ("time", "memory", "ended"):
                self.stop()
            return answer

    def _start(self) -> None:
        if not sys.executable:
            raise OutOfMemory("chat templates run in a Python process of their own, and this program does not know where Python is "
                              "(sys.executable is empty); set it, or encode the messages yourself")
        code = "import sys; sys.path[:] = sys.argv[1:]; from skipstone.chat.worker import main; main()"
        try:
            self._running = subprocess.Popen([sys.executable, "-I", "-S", "-c", code, *_search_path()], stdin=subprocess.PIPE,
                                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=os.name == "posix",
                                             env={name: os.environ[name] for name in INHERITED if name in os.environ})
        except OSError as error:
            raise OutOfMemory(f"the process for chat templates cannot be started ({shown(error)}); try again with fewer programs running") from None
        self._owner = os.getpid()
        if "ready" not in self._exchange(None, LAST):
            self.stop()
            raise OutOfMemory("the process for chat templates does not start; expected jinja2 3.1.6 or later beside Skipstone, and some memory")

    def _exchange(self, request: dict[str, Any] | None, patience: float) -> Any:
        """Sends a request, if there is one, and receives beside a clock. A thread does, as not every system can wait for pipes."""
        process = self._running
        assert process is not None
        received: list[bytes] = []
        talking = threading.Thread(target=_talk, args=(process, request, received), daemon=True)
        before, start = _seconds_of_work(process.pid), time.monotonic()
        talking.start()
        try:
            talking.join(patience)
            while talking.is_alive() and time.monotonic() - start < LAST and _seconds_of_work(process.pid) - before < STARVED:
                talking.join(0.1)
        except BaseException:
            self.stop()                                 # Ctrl-C: its answer belongs to nobody
            raise
        if talking.is_alive():
            process.kill()
            talking.join()
            return {"error": "time", "message": "", "line": None}
        if received:
            return json.loads(received[0])
        late = hasattr(signal, "SIGPROF") and process.wait() == -signal.SIGPROF
        return {"error": "time" if late else "ended", "message": "", "line": None}

    def stop(self) -> None:
        process, self._running = self._running, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            try:
                if pipe:
                    pipe.close()
            except OSError:
                pass


def _talk(process: subprocess.Popen[bytes], request: dict[str, Any] | None, received: list[bytes]) -> None:
    """One whole message of the worker into `received`; nothing if it ended before."""
    assert process.stdin and process.stdout
    try:
        if request is not None:
            body = json.dumps(request).encode()
            process.stdin.write(struct.pack("<Q", len(body)) + body)
            process.stdin.flush()
        head = process.stdout.read(8)
        if len(head) == 8:
            size, = struct.unpack("<Q", head)
            body = process.stdout.read(size)
            if len(body) == size:
                received.append(body)
    except (OSError, ValueError):
        pass                                            # it is gone


def _search_path() -> list[str]:
    """Where the worker finds this package and jinja2, however they were installed."""
    folders = [str(Path(__file__).resolve().parents[2])]
    for name in ("jinja2", "markupsafe"):
        found = importlib.util.find_spec(name)
        if found is not None and found.submodule_search_locations:
            folders.append(str(Path(next(iter(found.submodule_search_locations))).parent))
    return [*dict.fromkeys(folders), *(path for path in sys.path if path)]


def _seconds_of_work(pid: int) -> float:
    """Processor time of a process so far; as much as there is, where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return float("inf")


_process = _Process()
atexit.register(_process.stop)
