"""Operations that the native program merges give the bits of the same operations apart."""

from __future__ import annotations

import numpy as np
import pytest

from skipstone import _native
from skipstone.models.builder import Builder

VOCABULARY = 64


def weight(rng: np.random.Generator, rows: int, columns: int, type: str):
    return _native.Weight(type, rows, columns, _native.quantize(type, rng.standard_normal(rows * columns).astype(np.float32)))


@pytest.mark.parametrize("type", ["F32", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("down", ["F16", "Q6_K"])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("rows", [1, 3, 16, 40])
def test_feed_forward(type: str, down: str, activation: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    width, features = 256, 512
    table, gate, up = weight(rng, VOCABULARY, width, "F32"), weight(rng, features, width, type), weight(rng, features, width, type)
    second = weight(rng, width, features, down)
    programs = []
    for together in (True, False):
        b = Builder()
        x = b.embed(table)
        g, u = b.matmul(x, gate, up) if together else (b.matmul(x, gate), b.matmul(x, up))
        y = b.add(x, b.matmul(b.glu(g, u, activation), second))
        b.hidden(y)
        b.head(y, table)
        programs.append(_native.Program(b.spec()))
    tokens = rng.integers(0, VOCABULARY, rows).astype(np.int32)
    for threads in (1, 2, 3):
        (a, ha), (b_, hb) = (p.run([(None, tokens)], threads=threads) for p in programs)
        assert np.array_equal(a, b_) and np.array_equal(ha, hb)
    assert np.abs(a).max() > 0


def test_a_value_that_somebody_else_reads_stays() -> None:
    rng = np.random.default_rng(5)
    table = weight(rng, VOCABULARY, 32, "F32")
    gate, up, second = (weight(rng, 32, 32, "Q8_0") for _ in range(3))
    b = Builder()
    x = b.embed(table)
    g, u = b.matmul(x, gate, up)
    y = b.matmul(b.glu(g, u, "silu"), second)
    b.head(b.add(y, g), table)
    read_twice = _native.Program(b.spec())
    b = Builder()
    x = b.embed(table)
    g, u = b.matmul(x, gate), b.matmul(x, up)
    b.head(b.add(b.matmul(b.glu(g, u, "silu"), second), g), table)
    tokens = np.arange(4, dtype=np.int32)
    assert np.array_equal(read_twice.run([(None, tokens)])[0], _native.Program(b.spec()).run([(None, tokens)])[0])
