"""Passes and prompts of one engine, round after round, in a process of its own: what compare_cpu.py and compare_gpu.py start and ask.

Two builds of llama.cpp must not share a process: all export the same symbols.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import peers

ROWS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
REPEATS = 3             # of each pass within a round; their median counts
ON_CARDS = 12           # likewise, one after the other as in decoding: an engine may record its graph at the second pass of a kind and replay it from the third on


def work(engine: str, path: str, device: str, threads: int, context: int, prompts: Sequence[int], library: str | None) -> None:
    """A worker: for every line on standard input one round, its seconds as a line of JSON: "prompt_N" of a prompt of N tokens, "K" of a pass of K rows."""
    longest = max(*prompts, context + max(ROWS) * (1 if device == "cpu" else ON_CARDS))
    decoder = peers.open_engine(engine, path, device, threads, longest + 64, library)
    ids = np.random.default_rng(0).integers(10, min(decoder.vocabulary, 30000), longest).tolist()
    print("ready", flush=True)

    def seconds(tokens: list[int], at: int) -> float:
        start = time.perf_counter()
        decoder.decode(tokens, at)
        return time.perf_counter() - start

    for _ in sys.stdin:
        figures: dict[str, float] = {}
        for n in prompts:
            decoder.clear()
            figures[f"prompt_{n}"] = seconds(ids[:n], 0)
        decoder.clear()
        decoder.decode(ids[:context], 0)

        def to_context() -> None:
            if not decoder.back_to(context):                      # a recurrent state that cannot step back: read the context again
                decoder.clear()
                decoder.decode(ids[:context], 0)

        for k in ROWS:
            runs = []
            if device == "cpu":
                for _ in range(REPEATS):
                    to_context()
                    runs.append(seconds(ids[context:context + k], context))
            else:
                to_context()
                runs = [seconds(ids[at:at + k], at) for at in range(context, context + ON_CARDS * k, k)]
            figures[str(k)] = statistics.median(runs)
        print(json.dumps(figures), flush=True)


class Worker:
    """An engine's process. start returns None, and says why, where it does not come up."""

    def __init__(self, engine: str, process: subprocess.Popen[str], said: IO[str]) -> None:
        self.engine, self.process, self.said = engine, process, said

    @classmethod
    def start(cls, engine: str, path: str, *, device: str = "cpu", threads: int = 1, context: int, prompts: Sequence[int], library: str | None) -> Worker | None:
        command = [sys.executable, __file__, engine, path, "--device", device, "--threads", str(threads), "--context", str(context),
                   "--prompts", ",".join(map(str, prompts))]
        if library:
            command += ["--library", library]
        said = tempfile.TemporaryFile("w+")                       # of its libraries, closed with the worker
        worker = cls(engine, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True), said)
        line = worker.line()
        while line and line != "ready":
            line = worker.line()
        if not line:
            worker.left_out()
            return None
        return worker

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def round(self) -> dict[str, float] | None:
        """None, and it says why, where the process has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            line = ""
        else:
            line = self.line()
        if not line:
            self.left_out()
            return None
        figures: dict[str, float] = json.loads(line)
        return figures

    def left_out(self) -> None:
        self.process.wait()
        self.said.seek(0)
        print(f"{self.engine}: left out: {(self.said.read().strip().splitlines() or ['it ended'])[-1]}", file=sys.stderr)

    def end(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.said.close()


def medians(seen: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each figure over the rounds."""
    return {name: statistics.median(r[name] for r in seen) for name in seen[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine")
    parser.add_argument("path")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--prompts", default="512")
    parser.add_argument("--library", default=None)
    a = parser.parse_args()
    work(a.engine, a.path, a.device, a.threads, a.context, [int(n) for n in a.prompts.split(",")], a.library)


if __name__ == "__main__":
    main()
