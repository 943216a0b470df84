"""Matmul of every type on every instruction set that this machine runs: against float64, against each other, and row by row.

The rounding of activations to int8 is part of the contract (blocks of 32, scale = largest magnitude / 127), so the reference applies it too; what
remains is the error of one float32 chain over the blocks.
"""
from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from blocks import filled_blocks, random_blocks
from skipstone import _native

TYPES = [t for t in _native.types()]
NAMES = [t["name"] for t in TYPES]
FLOATS = ("F32", "F16", "BF16")
ISAS = _native.isas()


def rounded(x: np.ndarray) -> np.ndarray:
    """x as the quantized kernels see it."""
    blocks = x.reshape(-1, 32)
    largest = np.abs(blocks).max(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(largest > np.float32(1e-30), np.rint((blocks * (np.float32(127) / largest)).astype(np.float32)), 0)
    scale = np.where(largest > np.float32(1e-30), largest / np.float32(127), 0).astype(np.float32)
    return (np.clip(q, -127, 127).astype(np.float64) * scale).reshape(x.shape)


def reference(name: str, data: np.ndarray, shape: tuple[int, int], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The product in float64, and a bound for the float32 chain's error from the terms' magnitudes."""
    w = _native.dequantize(name, data).reshape(shape).astype(np.float64)
    seen = x.astype(np.float64) if name in FLOATS else rounded(x)
    steps = shape[1] if name in FLOATS else shape[1] // 8
    # Each block with a minimum may cancel, so the bound counts the quantized part and the minimum apart: twice the magnitudes are ample.
    magnitude = np.abs(seen) @ np.abs(w).T
    if name not in FLOATS:
        q, scale, low = _native.unpack(name, data)
        part = (np.abs(q.reshape(-1, 2, 16).astype(np.int32)) * np.abs(scale)[:, :, None] + np.abs(low)[:, :, None]).reshape(shape)
        magnitude = np.abs(seen) @ part.astype(np.float64).T
    return seen @ w.T, magnitude * (steps + 8) * 2.0**-23 + 1e-30


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, int, int, int, int]:
    name = draw(st.sampled_from(NAMES))
    block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][0]
    columns = block * draw(st.integers(1, 3 if block == 256 else 7)) if block > 1 else draw(st.integers(1, 97))
    return name, draw(st.integers(1, 35)), columns, draw(st.integers(1, 18)), draw(st.integers(0, 2**32 - 1))


@pytest.mark.parametrize("isa", ISAS)
@given(case=cases())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_matches_float64(isa: str, case: tuple[str, int, int, int, int]) -> None:
    name, n, columns, rows, seed = case
    rng = np.random.default_rng(seed)
    data = random_blocks(rng, name, n * columns)
    x = (rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)
    got = _native.matmul(x, _native.Weight(name, n, columns, data), 2, isa)
    want, bound = reference(name, data, (n, columns), x)
    assert (np.abs(got - want) <= bound).all(), (name, np.abs(got - want).max(), bound.max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("isa", ISAS)
def test_rows_do_not_see_each_other(isa: str, name: str) -> None:
    rng = np.random.default_rng(7)
    n, columns = 43, 512
    w = _native.Weight(name, n, columns, random_blocks(rng, name, n * columns))
    x = rng.standard_normal((150, columns)).astype(np.float32)
    alone = np.concatenate([_native.matmul(row[None], w, 1, isa) for row in x])
    for first, count, threads in ((0, 2, 1), (3, 3, 2), (5, 4, 3), (9, 7, 1), (0, 8, 2), (1, 16, 3), (2, 65, 2), (0, 150, 1)):
        together = _native.matmul(x[first:first + count], w, threads, isa)
        assert together.tobytes() == alone[first:first + count].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_instruction_sets_agree(name: str) -> None:
    rng = np.random.default_rng(8)
    n, columns = 24, 768
    w = _native.Weight(name, n, columns, random_blocks(rng, name, n * columns))
    x = rng.standard_normal((5, columns)).astype(np.float32)
    x[0] = 0
    x[1, :32] = 1e-38                          # too small for a scale's reciprocal
    x[2] = np.where(rng.random(columns) < 0.5, 3.0, -3.0)       # every activation at an end of the range
    first, *rest = [_native.matmul(x, w, 2, isa).tobytes() for isa in ISAS]
    assert all(other == first for other in rest)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in FLOATS])
def test_extremes_do_not_saturate(isa: str, name: str) -> None:
    """All bits set, all clear: the largest weights of each sign against activations at the ends of their range."""
    rng = np.random.default_rng(9)
    for fill in (0x00, 0xFF, 0x80, 0x7F):
        data = filled_blocks(rng, name, 16 * 256, fill)
        x = np.full((2, 256), 2.0, np.float32)
        x[1, ::2] = -2.0
        got = _native.matmul(x, _native.Weight(name, 16, 256, data), 1, isa)
        want, bound = reference(name, data, (16, 256), x)
        assert (np.abs(got - want) <= bound).all(), fill


def test_wrong_shapes_are_named() -> None:
    from skipstone.errors import ArgumentError

    data = np.zeros(34 * 4, np.uint8)
    with pytest.raises(ArgumentError, match="multiple of 32"):
        _native.Weight("Q8_0", 4, 40, data)
    with pytest.raises(ArgumentError, match="136 bytes"):
        _native.Weight("Q8_0", 5, 32, data)
    with pytest.raises(ArgumentError, match="unknown"):
        _native.Weight("Q9_9", 4, 32, data)
    with pytest.raises(ArgumentError, match=r"\(rows, 32\)"):
        _native.matmul(np.zeros((2, 64), np.float32), _native.Weight("Q8_0", 4, 32, data))
