"""Matrix products of 1 to 16 rows with weights of every type, out of memory.

    pytest bench/kernels/bench_matmul.py
    pytest bench/kernels/bench_matmul.py -k 'Q4_K and rows4' --benchmark-json=out.json

One weight of 4096 x 4096 a type, copied until the copies together are larger than the last cache; each product takes the
next copy, as a model's layers would come. extra_info holds GB/s of the type's bytes, their share of the read loop's speed
measured right after, and GMAC/s. SKIPSTONE_BENCH_THREADS sets the threads.
"""
from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from skipstone import _native
from skipstone.cli.kernels import last_cache_bytes

SIZE = 4096
ROWS = (1, 2, 4, 8, 16)
TYPES = [t["name"] for t in _native.types()]
INFO = {t["name"]: t for t in _native.types()}


def blocks_of(type_name: str) -> np.ndarray:
    """A valid matrix of the type, in GGUF's bytes: quantized normal numbers, or random codes under sane scales."""
    rng = np.random.default_rng(0)
    info = INFO[type_name]
    if info["can_quantize"]:
        row = rng.standard_normal(16 * SIZE, dtype=np.float32) / np.float32(SIZE**0.5)
        return np.tile(_native.quantize(type_name, row), SIZE // 16)
    # Any byte is a valid code of the codebook types; bytes below 0x30 keep float16 scales finite wherever a block has them.
    blocks = rng.integers(0, 0x30, SIZE * SIZE // info["block"] * info["bytes"], dtype=np.uint8)
    return blocks


class Copies:
    """Laid out copies of one weight, taken in turn."""

    def __init__(self, type_name: str, threads: int) -> None:
        data = blocks_of(type_name)
        self.type, self.bytes = type_name, data.nbytes
        # Three times the cache: taken in turn, a copy is gone from it when its turn comes, even where the cache is not strict about the oldest.
        count = max(2, -(-3 * last_cache_bytes() // data.nbytes))
        self.weights = [_native.Weight(type_name, SIZE, SIZE, data) for _ in range(count)]
        one = np.ones((1, SIZE), np.float32)
        for weight in self.weights:                                 # the first product lays a weight out
            _native.matmul(one, weight, threads)
        self.turn = itertools.cycle(self.weights)


_made: dict[str, Copies] = {}


@pytest.fixture(scope="module")
def copies_of(thread_count: int) -> Iterator[Any]:
    """Makes the copies of a type at its first use and forgets the type before: all at once would fill the memory."""
    def get(type_name: str) -> Copies:
        if type_name not in _made:
            _made.clear()
            _made[type_name] = Copies(type_name, thread_count)
        return _made[type_name]

    yield get
    _made.clear()


@pytest.mark.parametrize("rows", ROWS, ids=lambda rows: f"rows{rows}")
@pytest.mark.parametrize("type_name", TYPES)
def test_matmul(benchmark: Any, copies_of: Any, thread_count: int, bandwidth: Callable[[], float], type_name: str, rows: int) -> None:
    copies = copies_of(type_name)
    x = np.random.default_rng(1).standard_normal((rows, SIZE), dtype=np.float32)
    benchmark.group = f"{type_name}, {SIZE} x {SIZE}, {os.cpu_count()} processors"
    benchmark(lambda: _native.matmul(x, next(copies.turn), thread_count))
    if benchmark.stats is None:                                     # --benchmark-disable: run once, measured nothing
        return
    seconds, read_speed = benchmark.stats.stats.median, bandwidth()
    benchmark.extra_info.update(
        isa=_native.isa(), threads=thread_count, bytes=copies.bytes, copies=len(copies.weights),
        gigabytes_per_second=copies.bytes / seconds / 1e9, read_loop_gigabytes_per_second=read_speed / 1e9,
        share_of_read_bandwidth=copies.bytes / seconds / read_speed, gmacs_per_second=rows * SIZE * SIZE / seconds / 1e9)
