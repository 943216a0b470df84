"""What plans are made with: how much memory the devices have and how fast they are, measured where that can be, else assumed."""
from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from .. import _native
from ..errors import DeviceError

BORDER = 5e-6               # seconds that a card's kernel costs beyond its bytes (an H100; bench/gpu)
READS = 1.1                 # times the speed of a copy: what reading alone reaches
RESERVE = 0.05, 512 << 20   # of a card's memory, for its driver and what no plan foresees: a share, at most so much


@dataclass(frozen=True)
class Card:
    """bytes: what may be used. Speeds in bytes a second. meeting: seconds of a short message there and back. measured: else assumed."""

    name: str
    description: str
    bytes: int
    copy: float
    to_card: float
    from_card: float
    meeting: float
    measured: bool

    @property
    def read(self) -> float:
        return READS * self.copy


@dataclass(frozen=True)
class Processor:
    """bytes: its memory. read: a plain read loop's bytes a second; matmul: those of weights of a kind, by rows of a pass, with their operations' costs."""

    bytes: int
    threads: int
    read: float
    matmul: dict[int, float] = field(default_factory=dict)
    kind: str = "Q4_K"

    def rate(self, rows: int) -> float:
        """Bytes of weights a second in a pass over `rows` rows."""
        if not self.matmul:
            return 0.75 * self.read
        known = sorted(self.matmul)
        at = min(known, key=lambda r: (abs(r - rows), r))
        few = max((r for r in known if r <= rows), default=at)
        more = min((r for r in known if r >= rows), default=at)
        if few == more:
            return self.matmul[few]
        share = (rows - few) / (more - few)
        return 1 / ((1 - share) / self.matmul[few] + share / self.matmul[more])


def card(name: str, limit: int | None) -> Card:
    """A card of this machine. limit: use no more of its memory. DeviceError where it cannot be asked."""
    said = _memory(name)
    known = next((c for c in _native.gpu_devices() if c["name"] == name), None)
    if known is None:
        raise DeviceError(f"{name}: there is no such card")
    free = int(_native.gpu_free_bytes(name))
    usable = free - min(int(RESERVE[0] * free), RESERVE[1])
    if limit is not None:
        usable = min(usable, limit - min(int(RESERVE[0] * limit), RESERVE[1]))
    return Card(name, str(known["description"]), usable, float(said["copy_bytes_per_second"]), float(said["to_card_bytes_per_second"]),
                float(said["from_card_bytes_per_second"]), float(said["meeting_seconds"]), True)


@cache
def _memory(name: str) -> dict[str, Any]:
    return dict(_native.gpu_memory(name))


def assumed_card(limit: int) -> Card:
    """What plans without a card assume: one of that much memory, as common ones of 2023 are."""
    return Card("cuda:0", "assumed", limit - min(int(RESERVE[0] * limit), RESERVE[1]), 450e9, 12e9, 12e9, 25e-6, False)


def processor(threads: int, measured: bool = True, kind: str = "Q4_K") -> Processor:
    """This machine's. measured: its kernels for weights of that kind are measured too, which takes some tenths of a second."""
    from ..decode.stats import read_bandwidth

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Processor(memory, threads, read_bandwidth(threads), _matmul(threads, kind) if measured else {}, kind)


@cache
def _matmul(threads: int, kind: str) -> dict[int, float]:
    """Bytes of weights a second in passes over some rows: a chain of matrices larger than caches, with the costs of their dispatch."""
    from ..files.random_model import random_matrix

    count, rows, columns = 24, 8192, 2048
    weights = [_native.Weight(kind, rows if i % 2 == 0 else columns, columns if i % 2 == 0 else rows, random_matrix(kind, rows, columns)) for i in range(count)]
    ops: list[dict[str, Any]] = [{"kind": "input", "inputs": [], "outputs": [0]}]
    ops += [{"kind": "matmul", "inputs": [i], "outputs": [i + 1], "weights": [w]} for i, w in enumerate(weights)]
    ops.append({"kind": "hidden", "inputs": [count], "outputs": []})
    program = _native.Program({"widths": [w.columns for w in weights] + [columns], "states": [], "ops": ops})
    total = sum(int(w.bytes) for w in weights)
    found = {}
    for k in (1, 4, 8):
        x, tokens = np.ones((k, columns), np.float32), np.zeros(k, np.int32)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            program.run([(None, tokens)], hidden=x, want="none", threads=threads)
            best = min(best, time.perf_counter() - start)
        found[k] = total / best
    return found
