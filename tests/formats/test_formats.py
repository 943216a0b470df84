"""The weight formats: the gguf package is the oracle for reading, ggml's own quantizers for writing."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skipstone import _native as native

TYPES = {entry["name"]: entry for entry in native.types()}
QUANTIZED = [name for name, entry in TYPES.items() if entry["block"] > 1]
WRITABLE = [name for name in QUANTIZED if TYPES[name]["can_quantize"]]
WITH_F16_SCALES = [name for name in WRITABLE if name not in ("MXFP4", "NVFP4")]


def oracle(name: str, data: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):  # random scales are infinite now and then
        return gguf.dequantize(data, gguf.GGMLQuantizationType[name]).reshape(-1)


def round_trip(name: str, x: np.ndarray) -> np.ndarray:
    return native.dequantize(name, native.quantize(name, x.reshape(-1))).reshape(x.shape)


def squared_error(x: np.ndarray, y: np.ndarray) -> float:
    return float(((x.astype(np.float64) - y) ** 2).sum())


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    """NaN may differ in payload, everything else by nothing."""
    assert got.dtype == want.dtype and got.shape == want.shape
    words = f"u{got.itemsize}"
    different = (got.view(words) != want.view(words)) & ~(np.isnan(got) & np.isnan(want))
    at = int(different.argmax())
    assert not different.any(), f"{different.sum()} of {got.size} differ, first at {at} (block {at // 256}): {got[at]!r}, expected {want[at]!r}"


def test_the_table_is_that_of_gguf():
    for name, entry in TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        assert (entry["id"], entry["block"], entry["bytes"]) == (int(kind), *gguf.GGML_QUANT_SIZES[kind])
    assert len({entry["id"] for entry in TYPES.values()}) == len(TYPES) == 26
    assert {name for name in TYPES if not TYPES[name]["can_quantize"]} == {name for name in TYPES if name.startswith(("IQ1", "IQ2", "IQ3"))}


# Reading


@pytest.mark.parametrize("name", TYPES)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_dequantize_equals_gguf_on_random_bytes(name, seed):
    data = np.random.default_rng(seed).integers(0, 256, TYPES[name]["bytes"] * 64, dtype=np.uint8)
    assert_same_bits(native.dequantize(name, data), oracle(name, data))


@pytest.mark.parametrize("name", TYPES)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_dequantize_equals_gguf_on_chosen_bytes(name, data):
    block = np.frombuffer(data.draw(st.binary(min_size=TYPES[name]["bytes"], max_size=TYPES[name]["bytes"])), np.uint8)
    assert_same_bits(native.dequantize(name, block), oracle(name, block))


@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x80, 0x7F, 0x01])
@pytest.mark.parametrize("name", TYPES)
def test_dequantize_equals_gguf_on_uniform_bytes(name, byte):
    data = np.full(TYPES[name]["bytes"] * 3, byte, np.uint8)
    assert_same_bits(native.dequantize(name, data), oracle(name, data))


@pytest.mark.parametrize("name", TYPES)
def test_dequantize_needs_no_alignment(name):
    data = np.random.default_rng(3).integers(0, 256, TYPES[name]["bytes"] * 5 + 1, dtype=np.uint8)
    assert_same_bits(native.dequantize(name, data[1:]), native.dequantize(name, data[1:].copy()))


@pytest.mark.parametrize("name", QUANTIZED)
def test_unpack_is_the_same_weights(name):
    data = np.random.default_rng(4).integers(0, 256, TYPES[name]["bytes"] * 512, dtype=np.uint8)
    q, scale, low = native.unpack(name, data)
    assert (q.dtype, scale.dtype, low.dtype) == (np.int8, np.float32, np.float32)
    with np.errstate(all="ignore"):
        weights = np.repeat(scale, 16, axis=1) * q.astype(np.float32)
        if TYPES[name]["has_min"]:
            weights += np.repeat(low, 16, axis=1)
    assert_same_bits(weights.reshape(-1), native.dequantize(name, data))


@pytest.mark.parametrize("name", QUANTIZED)
def test_flags_say_what_unpack_gives(name):
    data = np.random.default_rng(5).integers(0, 256, TYPES[name]["bytes"] * 512, dtype=np.uint8)
    _, scale, low = native.unpack(name, data)
    both = np.nan_to_num(np.stack([scale, low]))
    assert (both[..., 0] != both[..., 1]).any() == TYPES[name]["half_scales"]
    assert both[1].any() == TYPES[name]["has_min"]


# Narrow floats


def test_every_f16_value():
    halves = np.arange(65536, dtype=np.uint16)
    values = native.dequantize("F16", halves.view(np.uint8))
    assert_same_bits(values, halves.view(np.float16).astype(np.float32))
    back = native.quantize("F16", values).view(np.uint16)
    nan = np.isnan(values)
    assert (back[~nan] == halves[~nan]).all() and np.isnan(back.view(np.float16)[nan]).all()


def test_f16_rounds_to_nearest_even_at_every_border():
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middle = ((halves + np.append(halves[1:], 65536.0)) / 2).astype(np.float32)
    x = np.concatenate([np.nextafter(middle, np.float32(0)), middle, np.nextafter(middle, np.float32(np.inf))])
    x = np.concatenate([x, -x, np.array([np.inf, -np.inf, 1e-45, 3e38, 65520, 2.0**-25, 1.5 * 2.0**-25], np.float32)])
    with np.errstate(over="ignore"):
        want = x.astype(np.float16)
    assert_same_bits(native.quantize("F16", x).view(np.float16), want)


@given(arrays(np.uint32, 64, elements=st.integers(0, 2**32 - 1)))
def test_narrow_floats_of_any_bits(bits):
    x = bits.view(np.float32)
    with np.errstate(all="ignore"):
        want = x.astype(np.float16)
    assert_same_bits(native.quantize("F16", x).view(np.float16), want)
    assert (native.quantize("BF16", x) == gguf.quantize(x, gguf.GGMLQuantizationType.BF16)).all()
    assert (native.quantize("F32", x) == x.view(np.uint8)).all()


def test_every_bf16_value():
    halves = np.arange(65536, dtype=np.uint16)
    values = native.dequantize("BF16", halves.view(np.uint8))
    assert_same_bits(values, (halves.astype(np.uint32) << 16).view(np.float32))
    nan = np.isnan(values)
    assert (native.quantize("BF16", values).view(np.uint16)[~nan] == halves[~nan]).all()


# Writing


def weights(kind: str, rows: int = 64, columns: int = 1024) -> np.ndarray:
    random = np.random.RandomState(20)  # its numbers never change between numpy versions
    x = random.standard_normal((rows, columns))
    if kind == "student":
        x = random.standard_t(3, (rows, columns))
    if kind == "outliers":
        x[random.random_sample(x.shape) < 0.005] *= 30
    return (x * 0.02).astype(np.float32)


KINDS = ("gaussian", "student", "outliers")
# Squared error over squared weights of ggml's quantizers (an importance of 1 for all) on weights(kind).
GGML_ERROR = {
    "Q4_0": (6.697e-03, 1.547e-02, 1.648e-02),
    "Q4_1": (4.887e-03, 8.049e-03, 8.425e-03),
    "Q5_0": (1.649e-03, 4.275e-03, 7.093e-03),
    "Q5_1": (1.151e-03, 1.966e-03, 2.211e-03),
    "Q8_0": (2.868e-05, 7.130e-05, 1.306e-04),
    "Q2_K": (7.179e-02, 9.216e-02, 5.558e-02),
    "Q3_K": (2.091e-02, 3.295e-02, 1.703e-02),
    "Q4_K": (5.006e-03, 8.352e-03, 8.742e-03),
    "Q5_K": (1.255e-03, 2.201e-03, 2.417e-03),
    "Q6_K": (3.007e-04, 6.545e-04, 1.046e-03),
    "IQ4_NL": (5.636e-03, 9.994e-03, 1.214e-02),
    "IQ4_XS": (5.739e-03, 1.026e-02, 1.266e-02),
    "MXFP4": (1.309e-02, 2.064e-02, 2.601e-02),
    "NVFP4": (1.058e-02, 8.764e-03, 7.577e-03),
    "TQ1_0": (6.433e-01, 6.280e-01, 2.403e-01),
    "TQ2_0": (6.433e-01, 6.280e-01, 2.403e-01),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WRITABLE)
def test_quantize_is_as_good_as_ggml(name, kind):
    x = weights(kind)
    error = squared_error(x, round_trip(name, x)) / squared_error(x, 0)
    assert error <= 1.02 * GGML_ERROR[name][KINDS.index(kind)]


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    pytest.importorskip("xllamacpp")
    spec = importlib.util.find_spec("xllamacpp")
    library = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("*.so"))))
    call = library.ggml_quantize_chunk
    call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    call.restype = ctypes.c_size_t
    return library


@pytest.mark.peer
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WRITABLE)
def test_quantize_against_ggml_itself(ggml, name, kind):
    for columns in (256, 2048, 4096):
        x = weights(kind, 65536 // columns, columns)
        theirs = np.zeros(x.size // TYPES[name]["block"] * TYPES[name]["bytes"], np.uint8)
        importance = np.ones(columns, np.float32)
        written = ggml.ggml_quantize_chunk(TYPES[name]["id"], x.ctypes.data, theirs.ctypes.data, 0, len(x), columns, importance.ctypes.data)
        assert written == theirs.size
        assert squared_error(x, round_trip(name, x)) <= 1.02 * squared_error(x, native.dequantize(name, theirs).reshape(x.shape))


@pytest.mark.parametrize("name", WRITABLE)
def test_blocks_are_written_alone(name):
    x = weights("student", 4, 1024).reshape(-1)
    block = TYPES[name]["block"]
    whole = native.quantize(name, x).reshape(-1, TYPES[name]["bytes"])
    for i in (0, 1, len(whole) - 1):
        assert (native.quantize(name, x[i * block : (i + 1) * block]) == whole[i]).all()


@pytest.mark.parametrize("name", WRITABLE)
def test_zeros_stay_zero(name):
    for zero in (0.0, -0.0):
        assert not round_trip(name, np.full(TYPES[name]["block"] * 2, zero, np.float32)).any()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4", "TQ1_0", "TQ2_0"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_of_the_format_are_kept(name, kind):
    """One level of scales: what was read from blocks is written again with next to no further error."""
    x = weights(kind, 16)
    once = round_trip(name, x)
    assert squared_error(once, round_trip(name, once)) <= 1e-4 * squared_error(x, once)


@pytest.mark.parametrize("name", ["TQ1_0", "TQ2_0"])
def test_ternary_weights_are_exact(name):
    x = np.random.RandomState(6).randint(-1, 2, 4096).astype(np.float32) * np.float32(0.0625)
    assert (round_trip(name, x) == x).all()


# Levels from 0 to the far end of a block that spans -1 ... 1 (symmetric types) or from end to end (those with a minimum); for
# uneven levels, by the largest gap.
STEPS = {"Q4_0": 8, "Q4_1": 15, "Q5_0": 16, "Q5_1": 31, "Q8_0": 127, "Q4_K": 15, "Q5_K": 31, "Q6_K": 32,
         "Q3_K": 4, "Q2_K": 3, "IQ4_NL": 5, "IQ4_XS": 5, "MXFP4": 3, "NVFP4": 3}


# NVFP4 has no finer scale than 2^-10.
@pytest.mark.parametrize(("name", "magnitude"), [(name, m) for name in STEPS for m in (1e-3, 1.0, 1e3) if name != "NVFP4" or m >= 1])
def test_no_weight_is_far_off(name, magnitude):
    x = np.random.RandomState(7).uniform(-magnitude, magnitude, 8192).astype(np.float32)
    span = 2 if name in ("Q4_1", "Q5_1", "Q4_K", "Q5_K", "Q2_K") else 1
    # Half a step for the rounding, one at the end that has a level less.
    assert abs(round_trip(name, x) - x).max() <= 1.5 * span * magnitude / STEPS[name]


CONSTANTS = (1.0, -1.0, 0.1, 3e-3, 1234.5)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRITABLE for value in CONSTANTS if name != "NVFP4" or abs(value) > 0.01])
def test_constant_blocks(name, value):
    x = np.full(256, value, np.float32)
    # FP4 has a scale every eighth of an octave (NVFP4) or every octave, the others one of f16 times small integers.
    bound = {"NVFP4": 0.05, "MXFP4": 0.2}.get(name, 1e-2)
    assert abs(round_trip(name, x) - x).max() <= bound * abs(value)


@pytest.mark.parametrize("name", WITH_F16_SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_small_weights_are_not_lost(name, kind):
    """Where the block's scale is a subnormal f16, the scales of the groups have to make up for it."""
    x = weights(kind, 16) * np.float32(0.01)
    error = squared_error(x, round_trip(name, x)) / squared_error(x, 0)
    assert error <= 1.1 * GGML_ERROR[name][KINDS.index(kind)]


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("name", WRITABLE)
@settings(deadline=None, max_examples=60)
@given(x=arrays(np.float32, 256, elements=finite))
def test_any_finite_weights_give_finite_blocks_better_than_zeros(name, x):
    y = round_trip(name, x)
    assert np.isfinite(y).all()
    assert squared_error(x, y) <= squared_error(x, 0) * (1 + 1e-6)


@pytest.mark.parametrize("name", WRITABLE)
@pytest.mark.parametrize("value", [1e-45, 1e-38, 2.0**-26, 6e-8, 1e-7, 65504.0, 1e6, 1e20, 3.4e38])
def test_extremes(name, value):
    for signs in (np.ones(256), -np.ones(256), np.resize([1.0, -1.0], 256), np.resize([1.0, 0.0, 0.0, -0.5], 256)):
        x = (signs * np.float32(value)).astype(np.float32)
        y = round_trip(name, x)
        assert np.isfinite(y).all()
        assert squared_error(x, y) <= squared_error(x, 0) * (1 + 1e-6)
        if name in WITH_F16_SCALES and value > 2e9:
            assert abs(y[x != 0]).min() >= 1000 and (np.sign(y[x != 0]) == np.sign(x[x != 0])).all()


# Errors


def raises(match: str):
    return pytest.raises(ValueError, match=match)


def test_errors_name_what_was_found_and_expected():
    floats = np.zeros(256, np.float32)
    with raises("'Q4_9' is not known; expected one of F32"):
        native.dequantize("Q4_9", np.zeros(18, np.uint8))
    with raises("19 bytes of Q4_0; expected a multiple of 18"):
        native.dequantize("Q4_0", np.zeros(19, np.uint8))
    with raises("145 bytes of Q4_K; expected a multiple of 144"):
        native.unpack("Q4_K", np.zeros(145, np.uint8))
    with raises("255 values; Q6_K expects a multiple of 256"):
        native.quantize("Q6_K", floats[:255])
    with raises("IQ2_XS cannot be written"):
        native.quantize("IQ2_XS", floats)
    with raises("BF16 has no quantized blocks"):
        native.unpack("BF16", np.zeros(4, np.uint8))
    with raises("dtype float64; expected float32"):
        native.quantize("Q4_0", floats.astype(np.float64))
    with raises("dtype int8; expected uint8"):
        native.dequantize("Q4_0", np.zeros(18, np.int8))
    with raises("2 dimensions; expected 1"):
        native.quantize("Q4_0", floats.reshape(2, 128))
    with raises("not contiguous"):
        native.quantize("Q4_0", floats[::2])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", WRITABLE)
def test_quantize_refuses_what_is_not_finite(name, value):
    x = np.zeros(512, np.float32)
    x[300] = value
    with raises(f"value 300 is -?(nan|inf); {name} expects finite"):
        native.quantize(name, x)


@pytest.mark.parametrize("name", TYPES)
def test_nothing_in_nothing_out(name):
    assert native.dequantize(name, np.zeros(0, np.uint8)).shape == (0,)
    if TYPES[name]["can_quantize"]:
        assert native.quantize(name, np.zeros(0, np.float32)).shape == (0,)
