"""Quantized arrays on numpy arrays: shapes, types and what is refused."""
from __future__ import annotations

import numpy as np
import pytest

from skipstone import ArgumentError, kernels

RANDOM = np.random.default_rng(5)
WEIGHTS = RANDOM.standard_normal((24, 256)).astype(np.float32)
WRITABLE = [name for name in kernels.types() if kernels._info(name)["can_quantize"]]


@pytest.mark.parametrize("type", WRITABLE)
def test_round_trip_and_product(type: str) -> None:
    w = kernels.quantize(WEIGHTS, type)
    assert (w.type, w.shape, w.data.dtype) == (type, (24, 256), np.uint8) and type in repr(w)
    values = kernels.dequantize(w)
    assert values.shape == (24, 256) and values.dtype == np.float32
    again = kernels.QuantizedArray(type, w.shape, w.data)
    assert np.array_equal(kernels.dequantize(again), values)
    x = RANDOM.standard_normal((5, 256)).astype(np.float32)
    y = kernels.matmul(x, w)
    exact = x.astype(np.float64) @ values.astype(np.float64).T
    # Rows quantized to int8 err by half a step of 1/127 of a block's largest value, independently from weight to weight.
    bound = 6 * np.linalg.norm(values, axis=1) * np.abs(x).max() / 127 / np.sqrt(12) + 1e-3
    assert y.dtype == np.float32 and (np.abs(y - exact) < bound).all()
    assert np.array_equal(kernels.matmul(x[2], w), y[2]) and np.array_equal(kernels.matmul(x, w, threads=3), y)
    assert kernels.matmul(x[:0], w).shape == (0, 24)


def test_other_shapes_and_dtypes_are_taken_for_what_they_hold() -> None:
    w = kernels.quantize(WEIGHTS.astype(np.float64).tolist(), "Q8_0")
    assert np.array_equal(w.data, kernels.quantize(WEIGHTS, "Q8_0").data)
    assert np.array_equal(kernels.quantize(WEIGHTS[:, ::2][:, :64], "Q8_0").data, kernels.quantize(WEIGHTS[:, :128:2].copy(), "Q8_0").data)
    cube = kernels.quantize(WEIGHTS.reshape(2, 12, 256), "Q4_K")
    assert cube.shape == (2, 12, 256) and np.array_equal(kernels.dequantize(cube).reshape(24, 256), kernels.dequantize(kernels.quantize(WEIGHTS, "Q4_K")))


@pytest.mark.parametrize(("call", "said"), [
    (lambda: kernels.quantize(WEIGHTS, "Q9_K"), "Q9_K"),
    (lambda: kernels.quantize(WEIGHTS, "IQ2_XXS"), "IQ2_XXS"),
    (lambda: kernels.quantize(WEIGHTS[:, :100], "Q4_K"), "256"),
    (lambda: kernels.quantize(WEIGHTS[:0], "F32"), "array"),
    (lambda: kernels.quantize([["a"]], "F32"), "array"),
    (lambda: kernels.quantize(np.full((1, 32), np.nan), "Q8_0"), "finite"),
    (lambda: kernels.QuantizedArray("Q4_K", (2, 256), np.zeros(3, np.uint8)), "data"),
    (lambda: kernels.QuantizedArray("Q4_K", (2, 256), np.zeros(288, np.int8)), "data"),
    (lambda: kernels.QuantizedArray("Q4_K", (0, 256), np.zeros(0, np.uint8)), "shape"),
    (lambda: kernels.QuantizedArray("Q4_K", (2, 100), np.zeros(0, np.uint8)), "shape"),
    (lambda: kernels.dequantize(WEIGHTS), "w:"),
    (lambda: kernels.matmul(WEIGHTS, WEIGHTS), "w:"),
    (lambda: kernels.matmul(np.zeros((2, 32)), kernels.quantize(WEIGHTS, "F32")), "x:"),
    (lambda: kernels.matmul(np.zeros((2, 2, 256)), kernels.quantize(WEIGHTS, "F32")), "x:"),
    (lambda: kernels.matmul(WEIGHTS, kernels.quantize(WEIGHTS.reshape(2, 12, 256), "F32")), "w:"),
    (lambda: kernels.matmul(WEIGHTS, kernels.quantize(WEIGHTS, "F32"), threads=0), "threads"),
])
def test_wrong_arguments_are_named(call, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        call()


def test_the_instruction_set_has_a_name() -> None:
    assert isinstance(kernels.isa(), str) and kernels.isa()
