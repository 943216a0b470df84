"""Attention of the GPU kernels' own source on the CPU (emulate.h), alone: long contexts, windows, every cache of floats, every form of the kernel.

Whole programs on the emulated card (test_emulated_programs.py) have norms, rotary, gates and several sequences, and short texts.
"""
from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from test_emulated import library, pointer  # noqa: F401 (a fixture)

TYPES: dict[str, int] = {"f32": 0, "f16": 1, "bf16": 2}


def narrow(x: np.ndarray, kind: str) -> np.ndarray:
    """As the cache holds it."""
    if kind == "f32":
        return x.astype(np.float32)
    if kind == "f16":
        return x.astype(np.float16)
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def wide(x: np.ndarray, kind: str) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32) if kind == "bf16" else x.astype(np.float32)


class Text:
    """Random keys and values of `length` positions, and queries of those from `start` on."""

    def __init__(self, lib: ctypes.CDLL, length: int, start: int, heads: int, kv_heads: int, head: int, kind: str = "f16", window: int = 0, seed: int = 1) -> None:
        self.lib, self.length, self.start, self.shape, self.kind, self.window = lib, length, start, (heads, kv_heads, head), kind, window
        rng = np.random.default_rng(seed)
        self.q = rng.standard_normal((length - start, heads, head)).astype(np.float32) * 2
        self.k, self.v = (rng.standard_normal((length, kv_heads, head)).astype(np.float32) for _ in range(2))
        self.k[rng.integers(0, length, length // 50 + 1)] *= 3      # some positions weigh much
        self.scale = np.float32(head**-0.5)

    def cache(self, until: int) -> np.ndarray:
        """(chunks, keys and values, kv heads, 256, head); what lies behind `until` is no number."""
        _, kv_heads, head = self.shape
        chunks = -(-self.length // 256)
        out = np.full((2, chunks * 256, kv_heads, head), np.nan, np.float32)
        for i, x in enumerate((self.k, self.v)):
            out[i, :until] = x[:until]
        return np.ascontiguousarray(narrow(out, self.kind).reshape(2, chunks, 256, kv_heads, head).transpose(1, 0, 3, 2, 4))

    def run(self, first: int, rows: int, columns: int = 1, pieces: int = 3, joins: int = 1, stored: int = 0, seed: int = 1) -> np.ndarray:
        heads, kv_heads, head = self.shape
        q = np.ascontiguousarray(self.q[first - self.start:first - self.start + rows])
        k, v = (np.ascontiguousarray(x[first:first + rows]) for x in (self.k, self.v))
        y, cache = np.full((rows, heads, head), np.nan, np.float32), self.cache(first)
        self.lib.emulated_attention(pointer(q), pointer(k), pointer(v), pointer(cache), pointer(y), TYPES[self.kind], heads, kv_heads, head, self.window, first, rows,
                                    ctypes.c_float(self.scale), columns, pieces, joins, stored, seed)
        wanted = self.cache(first + rows)                          # the rows' own keys and values are there now
        size = wanted.dtype.itemsize
        assert np.array_equal(cache.view(f"u{size}"), wanted.view(f"u{size}"))
        return y

    def exact(self, position: int) -> np.ndarray:
        heads, kv_heads, _ = self.shape
        low = max(0, position + 1 - self.window) if self.window else 0
        k, v = (wide(narrow(x[low:position + 1], self.kind), self.kind).astype(np.float64) for x in (self.k, self.v))
        out = []
        for h in range(heads):
            s = k[:, h * kv_heads // heads] @ self.q[position - self.start, h].astype(np.float64) * self.scale
            w = np.exp(s - s.max())
            out.append(w @ v[:, h * kv_heads // heads] / w.sum())
        return np.array(out)


CASES: list[tuple[Any, ...]] = [(40, 24, 4, 1, 32, "f16", 0), (530, 500, 6, 2, 64, "f16", 0), (4630, 4600, 4, 1, 32, "f16", 0), (18700, 18690, 2, 1, 16, "f16", 0), (700, 660, 4, 2, 48, "bf16", 300),
                                (700, 690, 5, 1, 128, "f16", 0), (640, 630, 2, 1, 256, "f16", 100),
                                (300, 290, 2, 1, 200, "f16", 0), (270, 250, 2, 1, 136, "f32", 70), (140, 130, 3, 1, 512, "f16", 0), (600, 590, 2, 1, 320, "bf16", 33)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_rows_together_and_alone(library: ctypes.CDLL, case: tuple[Any, ...]) -> None:  # noqa: F811
    text = Text(library, *case)
    count = min(text.length - text.start, 10)
    alone = np.concatenate([text.run(text.start + i, 1) for i in range(count)])
    exact = np.array([text.exact(text.start + i) for i in range(count)])
    assert np.abs(alone - exact).max() < (2e-5 if text.kind != "bf16" else 4e-5) * np.abs(exact).max()
    rng = np.random.default_rng(7)
    for columns, pieces, joins, stored in ((1, 2, 1, 0), (4, 1, 0, 0), (4, 6, 1, 1), (8, 3, 0, 1)):
        if text.shape[2] > 256 and columns > 4:
            continue
        first = int(rng.integers(0, count - 1))
        rows = int(rng.integers(2, count - first + 1))
        together = text.run(text.start + first, rows, columns, pieces, joins, stored, seed=int(rng.integers(100)))
        assert np.array_equal(together, alone[first:first + rows]), (columns, pieces, joins, stored, first, rows)
