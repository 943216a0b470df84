"""Quantized arrays and matrix products over them, on numpy arrays.

    w = kernels.quantize(weights, "Q4_K")      # float32 (n, k)
    y = kernels.matmul(x, w)                   # float32 (rows, k) -> (rows, n)
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from . import _native
from .errors import ArgumentError


class QuantizedArray:
    """An array in a GGUF type, quantized in blocks along its last axis.

    type: "Q4_K" and the like. shape: of the values. data: uint8, one dimension, in GGUF's layout (a view of what was given
    where possible). ArgumentError where the three do not fit.
    """

    def __init__(self, type: str, shape: Sequence[int], data: np.ndarray) -> None:
        info = _info(type)
        self.type, self.shape = type, tuple(int(n) for n in shape)
        if not self.shape or any(n < 1 for n in self.shape):
            raise ArgumentError(f"shape: {self.shape}; expected one or more positive sizes")
        if self.shape[-1] % info["block"]:
            raise ArgumentError(f"shape: {self.shape}; expected a last size that is a multiple of {info['block']}, the block of {type}")
        data = np.asarray(data)
        expected = self.size // info["block"] * info["bytes"]
        if data.dtype != np.uint8 or data.size != expected:
            raise ArgumentError(f"data: {data.size} values of {data.dtype}; expected {expected} of uint8 for {self.shape} in {type}")
        self.data = np.ascontiguousarray(data).reshape(-1)
        self._weight: Any = None

    @property
    def size(self) -> int:
        """Values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def __repr__(self) -> str:
        return f"QuantizedArray({self.type!r}, {self.shape})"

    def _laid_out(self) -> Any:
        """The native weight, in this machine's layout; made at the first product."""
        if self._weight is None:
            self._weight = _native.Weight(self.type, self.shape[0], self.shape[1], self.data)
        return self._weight


def quantize(array: Any, type: str) -> QuantizedArray:
    """Quantizes an array of numbers along its last axis. ArgumentError for a type that is unknown or cannot be written, a last
    size that is not a multiple of its block, and values that are not finite numbers."""
    info = _info(type)
    if not info["can_quantize"]:
        raise ArgumentError(f"type: {type} can be read, not written; expected one of {', '.join(n for n in types() if _info(n)['can_quantize'])}")
    values = _floats("array", array)
    if not values.ndim or not values.size or values.shape[-1] % info["block"]:
        raise ArgumentError(f"array: shape {values.shape}; expected a last size that is a multiple of {info['block']}, the block of {type}")
    if not np.isfinite(values).all():
        raise ArgumentError("array: holds infinities or NaN; expected finite numbers")
    return QuantizedArray(type, values.shape, _native.quantize(type, values.reshape(-1)))


def dequantize(w: QuantizedArray) -> np.ndarray:
    """The values, float32, in w's shape; bit-equal to the gguf package's."""
    return _native.dequantize(_quantized("w", w).type, w.data).reshape(w.shape)


def matmul(x: Any, w: QuantizedArray, threads: int | None = None) -> np.ndarray:
    """x @ w.T: (rows, k) or (k,) times (n, k) gives float32 (rows, n) or (n,).

    For quantized types x is quantized to int8 in blocks of 32; a row's result depends on that row alone. threads: None for all
    usable cores.
    """
    if len(_quantized("w", w).shape) != 2:
        raise ArgumentError(f"w: shape {w.shape}; expected two dimensions, (n, k)")
    values = _floats("x", x)
    if values.ndim not in (1, 2) or values.shape[-1] != w.shape[1]:
        raise ArgumentError(f"x: shape {values.shape}; expected (rows, {w.shape[1]}) or ({w.shape[1]},) for a w of {w.shape}")
    if threads is None:
        threads = int(_native.default_threads())
    elif isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ArgumentError(f"threads: {threads!r}; expected a positive integer, or None")
    rows = values.reshape(-1, w.shape[1])
    result = _native.matmul(rows, w._laid_out(), threads) if len(rows) else np.empty((0, w.shape[0]), np.float32)
    return result if values.ndim == 2 else result[0]


def types() -> list[str]:
    """Names of the types that can be read."""
    return list(_table())


def isa() -> str:
    """The instruction set that runs here: `amx`, `avx512`, `avxvnni` or `avx2` (x86), `i8mm` or `neon` (64-bit ARM), else `generic`.

    The environment variable SKIPSTONE_ISA forces another that this machine has.
    """
    return _native.isa()


@cache
def _table() -> dict[str, dict[str, Any]]:
    return {t["name"]: t for t in _native.types()}


def _info(type: str) -> dict[str, Any]:
    if not isinstance(type, str) or type not in _table():
        raise ArgumentError(f"type: {type!r}; expected one of {', '.join(types())}")
    return _table()[type]


def _floats(name: str, array: Any) -> np.ndarray:
    try:
        return np.ascontiguousarray(array, np.float32)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name}: {error}; expected an array of numbers") from None


def _quantized(name: str, w: Any) -> QuantizedArray:
    if not isinstance(w, QuantizedArray):
        raise ArgumentError(f"{name}: {type(w).__name__}; expected a QuantizedArray, see quantize()")
    return w
