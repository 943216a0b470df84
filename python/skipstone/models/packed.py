"""Packed matrices of safetensors checkpoints, as tensors of types that the kernels have. Nothing is lost.

compressed-tensors     X.weight_packed, X.weight_scale and X.weight_shape: whole numbers of 1 to 8 bits, a factor for a group of columns or a row;
                       maybe X.weight_zero_point. The same with X.weight_global_scale and no shape: NVFP4; with scales in 8 bits (U8): MXFP4
int-quantized          X.weight in I8, X.weight_scale one factor for a row or for all
modelopt               X.weight in U8 with X.weight_scale (F8_E4M3) and X.weight_scale_2: NVFP4

NVFP4 and MXFP4 become GGUF's types of these names, the same bits in another order, with what scales a whole matrix apart. Numbers of 4 bits without zero points in groups of a
multiple of 32 columns become Q4_0, of 8 bits Q8_0, if half precision holds all their factors. Whatever is left becomes BF16 numbers, which hold every difference to a zero point, with
factors by group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _native
from ..errors import ModelError
from ..files.model_file import Tensor
from .scales import FLOAT8, Scales

if TYPE_CHECKING:
    from ..files import ModelFile

PACKED, SCALE, SHAPE, ZEROS, ORDER = ".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx"
GLOBAL, SECOND = ".weight_global_scale", ".weight_scale_2"
SIZES = {"I32": 4, "I64": 8, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E8M0": 1, "BF16": 2, "F16": 2, "F32": 4}  # bytes
PIECE = 1 << 22  # weights unpacked at a time

# What config.json's quantization_config may name that is stored in another way.
REFUSED = {
    "gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes", "hqq": "HQQ", "aqlm": "AQLM", "eetq": "EETQ", "exl2": "EXL2", "exl3": "EXL3",
    "quip": "QuIP#", "vptq": "VPTQ", "spqr": "SpQR", "auto-round": "AutoRound", "torchao": "torchao", "quark": "Quark", "bitnet": "BitNet",
}  # fmt: skip
FP4 = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


class Packed(Tensor):
    """A matrix made of several tensors; its data is made anew each time it is read.

    parts: their names. factors: of the matrix, beside its type's own scales, None where there are none; factor: of all its products.
    """

    def __init__(
        self, name: str, type: str, shape: tuple[int, ...], source: str, parts: tuple[Tensor, ...], make: Callable[[], np.ndarray],
        factors: Scales | None = None, factor: float = 1.0,
    ) -> None:  # fmt: skip
        values = dict(name=name, type=type, shape=shape, source=source, parts=tuple(p.name for p in parts), factors=factors, factor=factor)
        for key, value in {**values, "_parts": parts, "_make": make}.items():
            object.__setattr__(self, key, value)

    parts: tuple[str, ...]
    factors: Scales | None
    factor: float

    @property
    def data(self) -> np.ndarray:  # type: ignore[override]
        made = np.ascontiguousarray(self._make()).view(np.uint8).reshape(-1)  # type: ignore[attr-defined]
        for part in self._parts:  # type: ignore[attr-defined]
            _native.check_mapped(part.data)
        return made


def tensors_of(file: ModelFile) -> Mapping[str, Tensor]:
    """The file's tensors, and X.weight for each matrix that is packed. ModelError for forms that cannot be read."""
    if file.format == "gguf":
        return file.tensors
    refuse_methods(file)
    made: dict[str, Tensor] = {}
    for name, tensor in file.tensors.items():
        if name.endswith(PACKED):
            base = name.removesuffix(PACKED)
            made[base + ".weight"] = _Matrix(file, base, tensor).read()
        elif tensor.type in ("U8", "I8") and name.endswith(".weight") and name.removesuffix(".weight") + SCALE in file.tensors:
            made[name] = _Matrix(file, name.removesuffix(".weight"), tensor).read()
    return {**file.tensors, **made} if made else file.tensors


def refuse_methods(file: ModelFile) -> None:
    method = file.config.get("quantization_config")
    name = method.get("quant_method") if isinstance(method, dict) else None
    known = REFUSED.get(name.lower()) if isinstance(name, str) else None
    if known is None and any(n.endswith(".qweight") for n in file.tensors):
        known = "GPTQ or AWQ"
    if known:
        raise ModelError(
            f"{file.name}: its weights are packed as {known} does it (config.json: quantization_config), which Skipstone cannot run; "
            "expected BF16, FP8, NVFP4 or compressed-tensors weights. Choose such a checkpoint or a GGUF file"
        )


class _Matrix:
    """One packed matrix: its tensors, checked against each other."""

    def __init__(self, file: ModelFile, base: str, packed: Tensor) -> None:
        self.file, self.base = file, base
        self.parts: list[Tensor] = []
        self.packed = self.checked(packed)

    def checked(self, tensor: Tensor) -> Tensor:
        """Of a type and shape that its bytes are of, and not empty."""
        shape = [int(n) for n in tensor.shape]
        if tensor.type not in SIZES or 0 in shape or SIZES[tensor.type] * math.prod(shape) != tensor.data.nbytes:
            raise self.fail(tensor, f"a tensor of {tensor.data.nbytes} bytes in one of {', '.join(SIZES)}")
        self.parts.append(tensor)
        return tensor

    def fail(self, tensor: Tensor, expected: str) -> ModelError:
        return ModelError(f"{self.file.name}: tensor {tensor.name} has type {tensor.type} and shape {tuple(tensor.shape)}; expected {expected}")

    def part(self, ending: str) -> Tensor | None:
        tensor = self.file.tensors.get(self.base + ending)
        return self.checked(tensor) if tensor is not None else None

    def needed(self, ending: str) -> Tensor:
        if (tensor := self.part(ending)) is None:
            raise ModelError(f"{self.file.name}: tensor {self.base + ending} is missing; expected it beside {self.packed.name}")
        return tensor

    def made(self, type: str, shape: tuple[int, ...], make: Callable[[], np.ndarray], factors: Scales | None = None, factor: float = 1.0) -> Packed:
        return Packed(self.base + ".weight", type, shape, self.packed.source, tuple(self.parts), make, factors, factor)

    def read(self) -> Packed:
        if len(self.packed.shape) != 2:
            raise self.fail(self.packed, "a matrix")
        scale = self.needed(SCALE)
        if self.packed.type == "U8":
            return self.four_bit_floats(scale)
        if self.packed.type == "I8":
            rows, columns = (int(n) for n in self.packed.shape)
            codes = self.packed.data.view(np.int8).reshape(rows, columns)
            return self.whole_numbers(scale, rows, columns, lambda first, last: codes[first:last], 8)
        if self.packed.type != "I32":
            raise self.fail(self.packed, "I32 or U8")
        return self.bits(scale)

    def four_bit_floats(self, scale: Tensor) -> Packed:
        rows, half = (int(n) for n in self.packed.shape)
        codes = self.packed.data.reshape(rows, half)
        if scale.type in ("U8", "F8_E8M0") and scale.shape == (rows, 2 * half // 32) and half % 16 == 0:
            return self.made("MXFP4", (rows, 2 * half), lambda: mxfp4(codes, scale.data.reshape(rows, -1)))
        if scale.type != "F8_E4M3" or scale.shape != (rows, 2 * half // 16) or half % 8:
            raise self.fail(scale, f"F8_E4M3 of shape {(rows, 2 * half // 16)}, a scale for each 16 of {2 * half} columns, or U8 for each 32")
        divisor, second = self.part(GLOBAL), self.part(SECOND)
        factor = 1 / self.number(divisor) if divisor else self.number(second) if second else 1.0
        if half % 32 == 0:
            return self.made("NVFP4", (rows, 2 * half), lambda: nvfp4(codes, self.positive(scale)), factor=factor)
        scales = self.positive(scale)
        with np.errstate(over="ignore"):
            values = (FLOAT8["F8_E4M3"][scales].astype(np.uint32) << 16).view(np.float32) * np.float32(factor)
        if not np.isfinite(values).all():
            raise ModelError(f"{self.file.name}: tensor {scale.name} times the factor {factor:g} beside it is not finite; expected finite scales")
        return self.made("BF16", (rows, 2 * half), lambda: bf16(FP4[nibbles(codes)]), Scales(values[None], 16))

    def positive(self, scale: Tensor) -> np.ndarray:
        """The codes of 8-bit floats of which none is below zero, (rows, groups)."""
        if (scale.data >= 0x7F).any():
            raise ModelError(f"{self.file.name}: tensor {scale.name} holds negative or not finite scales; expected positive ones")
        return scale.data.reshape(scale.shape)

    def number(self, tensor: Tensor) -> float:
        if tensor.type != "F32" or tensor.data.nbytes != 4:
            raise self.fail(tensor, "one F32 number")
        value = float(tensor.data.view(np.float32)[0])
        if not (np.isfinite(value) and value > 0 and np.isfinite(np.float32(1 / value))):
            raise ModelError(f"{self.file.name}: tensor {tensor.name} is {value:g}; expected a positive finite number")
        return value

    def bits(self, scale: Tensor) -> Packed:
        """Whole numbers of up to 8 bits, 32 / bits of them in an I32, maybe across two; an offset makes them positive."""
        shape = self.needed(SHAPE)
        if shape.type not in ("I64", "I32") or shape.data.nbytes != 2 * (8 if shape.type == "I64" else 4):
            raise self.fail(shape, "two whole numbers, rows and columns")
        rows, columns = (int(n) for n in shape.data.view(np.int64 if shape.type == "I64" else np.int32))
        words = int(self.packed.shape[1])
        width = next((b for b in (4, 8, 1, 2, 3, 5, 6, 7) if -(-columns * b // 32) == words), 0) if 0 < columns <= 1 << 24 else 0
        if rows != self.packed.shape[0] or not width:
            raise ModelError(
                f"{self.file.name}: tensor {shape.name} says {rows} rows of {columns}, and {self.packed.name} has shape {tuple(self.packed.shape)}; "
                "expected as many rows, and 1 to 8 bits for each column"
            )
        if (order := self.part(ORDER)) is not None:
            self.check_order(order, columns, scale)
        data = self.packed.data.reshape(rows, 4 * words)
        zeros = self.zeros(rows, scale, width)
        return self.whole_numbers(
            scale, rows, columns, lambda first, last: unpack_bits(data[first:last], columns, width), width, zeros, data if width == 4 else None
        )

    def check_order(self, order: Tensor, columns: int, scale: Tensor) -> None:
        groups = int(scale.shape[1]) if len(scale.shape) == 2 else 1
        own = np.arange(columns) // max(1, columns // groups)
        if order.type != "I32" or order.data.nbytes != 4 * columns or not np.array_equal(order.data.view(np.int32), own):
            raise ModelError(f"{self.file.name}: tensor {order.name} gives columns to groups in another order than theirs, which Skipstone cannot run yet")

    def zeros(self, rows: int, scale: Tensor, width: int) -> np.ndarray | None:
        """(rows, groups), None where there are none."""
        if (tensor := self.part(ZEROS)) is None:
            return None
        groups = int(scale.shape[1]) if len(scale.shape) == 2 else 1
        if tensor.type == "I8" and tensor.data.nbytes == rows * groups:
            return tensor.data.view(np.int8).reshape(rows, groups)
        words = -(-rows * width // 32)
        if tensor.type != "I32" or tensor.shape != (words, groups):
            raise self.fail(tensor, f"I32 of shape {(words, groups)}")
        columns = np.ascontiguousarray(tensor.data.view(np.int32).reshape(words, groups).T)
        return unpack_bits(columns.view(np.uint8), rows, width).T

    def whole_numbers(
        self, scale: Tensor, rows: int, columns: int, codes: Callable[[int, int], np.ndarray], width: int, zeros: np.ndarray | None = None,
        nibbled: np.ndarray | None = None,
    ) -> Packed:  # fmt: skip
        """codes(first, last): int8, those rows. nibbled: the same as they are packed, two in a byte."""
        factors = self.factors(scale, rows, columns)
        groups = factors.shape[1]
        group, step = columns // groups, max(1, PIECE // columns)
        if zeros is None and width in (4, 8) and group % 32 == 0:
            with np.errstate(over="ignore"):
                exact = np.array_equal(factors.astype(np.float16).astype(np.float32), factors)
            if exact:

                def halves() -> np.ndarray:  # read again: all of a model's at once are too many to keep
                    return self.factors(scale, rows, columns).astype(np.float16)

                if nibbled is not None:
                    return self.made("Q4_0", (rows, columns), lambda: q4_0(nibbled, halves(), columns))
                if width == 8:
                    return self.made("Q8_0", (rows, columns), lambda: q8_0(codes(0, rows), halves()))

        def numbers() -> np.ndarray:
            made = np.empty((rows, columns), np.uint16)
            for first in range(0, rows, step):
                part = codes(first, first + step).astype(np.float32)
                if zeros is not None:
                    part -= np.repeat(zeros[first : first + step].astype(np.float32), group, axis=1)
                made[first : first + step] = bf16(part)
            return made

        return self.made("BF16", (rows, columns), numbers, Scales(factors[None], group))

    def factors(self, scale: Tensor, rows: int, columns: int) -> np.ndarray:
        """float32 (rows, groups)"""
        if scale.type not in ("F32", "F16", "BF16"):
            raise self.fail(scale, "F32, F16 or BF16")
        values = np.asarray(_native.dequantize(scale.type, scale.data), np.float32)
        if not np.isfinite(values).all():
            raise ModelError(f"{self.file.name}: tensor {scale.name} holds values that are not finite; expected finite numbers")
        if values.size == 1:
            return np.full((rows, 1), values[0], np.float32)
        if values.size % rows or scale.shape[0] != rows or columns % (values.size // rows):
            raise self.fail(scale, f"a factor for each group of columns or one for each of {rows} rows of {columns}")
        return values.reshape(rows, -1)


def bf16(values: np.ndarray) -> np.ndarray:
    """Of float32 numbers that it holds exactly."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def nibbles(codes: np.ndarray) -> np.ndarray:
    """uint8 (rows, bytes) -> (rows, 2 * bytes), the low half of each byte first"""
    return np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1)


def unpack_bits(data: np.ndarray, count: int, width: int) -> np.ndarray:
    """uint8 (rows, bytes) -> int8 (rows, count): numbers of `width` bits one after the other, less half their range"""
    if width == 8:
        return (data[:, :count] ^ 0x80).view(np.int8)
    if width == 4:
        return nibbles(data)[:, :count].view(np.int8) - np.int8(8)
    bits = np.unpackbits(data, axis=1, count=count * width, bitorder="little").reshape(len(data), count, width)
    return (bits @ (1 << np.arange(width, dtype=np.int16)) - (1 << (width - 1))).astype(np.int8)


def joined(halves: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Blocks of `head` bytes and then nibbles: `halves` (..., 2, bytes), of which the first become the low ones."""
    return np.concatenate([head, halves[..., 0, :] | halves[..., 1, :] << 4], axis=-1)


def q4_0(data: np.ndarray, factors: np.ndarray, columns: int) -> np.ndarray:
    rows, step = len(data), max(1, PIECE // columns)
    made = np.empty((rows, columns // 32, 18), np.uint8)
    for first in range(0, rows, step):
        codes = nibbles(data[first : first + step])[:, :columns].reshape(-1, columns // 32, 2, 16)
        scales = np.repeat(factors[first : first + step], columns // 32 // factors.shape[1], axis=1)
        made[first : first + step] = joined(codes, np.ascontiguousarray(scales).view(np.uint8).reshape(len(codes), -1, 2))
    return made


def q8_0(codes: np.ndarray, factors: np.ndarray) -> np.ndarray:
    rows, columns = codes.shape
    scales = np.ascontiguousarray(np.repeat(factors, columns // 32 // factors.shape[1], axis=1))
    return np.concatenate([scales.view(np.uint8).reshape(rows, -1, 2), codes.view(np.uint8).reshape(rows, -1, 32)], axis=-1)


def nvfp4(data: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Blocks of four scales and, for each 16 weights, eight bytes."""
    rows, step = len(data), max(1, PIECE // data.shape[1])
    made = np.empty((rows, data.shape[1] // 32, 36), np.uint8)
    made[..., :4] = scales.reshape(rows, -1, 4)
    for first in range(0, rows, step):
        codes = nibbles(data[first : first + step]).reshape(-1, data.shape[1] // 32, 4, 2, 8)
        made[first : first + step, :, 4:] = joined(codes, np.empty((*codes.shape[:3], 0), np.uint8)).reshape(len(codes), -1, 32)
    return made


def mxfp4(data: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    codes = nibbles(data).reshape(len(data), -1, 2, 16)
    return joined(codes, exponents[..., None])
