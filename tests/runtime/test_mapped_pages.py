"""Laying weights out gives the file's pages back, so that a model is not in memory twice; and the bytes stay what they were."""
from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from skipstone import _native

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/smaps")
ROWS, COLUMNS = 8192, 2048


def resident(name: str) -> int:
    """Bytes of the mapped file `name` that this process holds in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            inside = line.endswith(name)
        elif inside and first == "Rss:":
            total += int(line.split()[1]) << 10
    return total


def test_pages_are_given_back(tmp_path: Path) -> None:
    data = np.resize(_native.quantize("Q8_0", np.random.default_rng(0).standard_normal(COLUMNS * 61, dtype=np.float32)), ROWS * COLUMNS // 32 * 34)
    path = tmp_path / "pages-of-a-weight"
    path.write_bytes(data.tobytes())
    descriptor = os.open(path, os.O_RDONLY)
    mapped = _native.map_file(descriptor, data.nbytes, path.name)
    os.close(descriptor)
    assert np.array_equal(mapped, data) and resident(path.name) > 0.9 * data.nbytes       # all of it has just been read
    x = np.random.default_rng(1).standard_normal((2, COLUMNS), dtype=np.float32)
    weight = _native.Weight("Q8_0", ROWS, COLUMNS, mapped)
    product = _native.matmul(x, weight)
    assert resident(path.name) < 0.1 * data.nbytes
    assert np.array_equal(product, _native.matmul(x, _native.Weight("Q8_0", ROWS, COLUMNS, data)))
    assert np.array_equal(mapped, data)                                                     # read again from the file


def test_arrays_keep_their_memory() -> None:
    """What is no mapped file is never given back: its bytes would be lost."""
    data = _native.quantize("Q4_0", np.random.default_rng(2).standard_normal(512 * 4096, dtype=np.float32))
    before = data.copy()
    _native.matmul(np.ones((1, 4096), np.float32), _native.Weight("Q4_0", 512, 4096, data))
    assert np.array_equal(data, before)
