"""Scales that stand beside a weight's tensor, as factors of its rows or blocks.

FP8 checkpoints hold weights as F8_E4M3 (rarely F8_E5M2) with X.weight_scale_inv, one factor for each block of 128 x 128 (factors, in spite of the
name), or X.weight_scale, one for each row or for all. 8-bit floats become BF16, which holds each of them exactly; the factors stay apart and are applied to sums
in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _native
from ..errors import ModelError

if TYPE_CHECKING:
    from ..files import ModelFile, Tensor

SAFETENSORS = (".weight_scale_inv", ".weight_scale")
# Of activations and caches, for engines that quantize those.
OF_ACTIVATIONS = (".input_scale", ".input_global_scale", ".input_zero_point", ".output_scale", ".activation_scale", ".k_scale", ".v_scale", ".q_scale")


def _bf16(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _e4m3() -> np.ndarray:
    code = np.arange(256)
    exponent, fraction = code >> 3 & 15, code & 7
    magnitude = np.where(exponent == 0, fraction * 2.0**-9, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    return np.where(code & 127 == 127, np.nan, np.where(code > 127, -magnitude, magnitude))


# The BF16 of each code.
FLOAT8 = {"F8_E4M3": _bf16(_e4m3()), "F8_E5M2": _bf16((np.arange(256, dtype=np.uint16) << 8).view(np.float16))}


def widened(type: str, data: np.ndarray) -> np.ndarray:
    """8-bit floats (bytes,) as the bytes of BF16. ValueError where one is no finite number."""
    made = FLOAT8[type][data]
    if ((made & 0x7F80) == 0x7F80).any():
        raise ValueError("holds values that are not finite; expected finite numbers")
    return made.view(np.uint8)


@dataclass(frozen=True)
class Scales:
    """factors: float32 (experts, rows, stretches), a stretch being `columns` columns of a row."""

    factors: np.ndarray
    columns: int


def beside(file: ModelFile, tensor: Tensor) -> Tensor | None:
    """The tensor of `tensor`'s scales, None where there is none that is known. Of an expert tensor without .weight they are X_scale_inv and X_scale too."""
    if file.format == "gguf" or tensor.type not in FLOAT8:
        return None
    base = tensor.name.removesuffix(".weight")
    names = [base + s for s in SAFETENSORS] + [tensor.name + s for s in ("_scale_inv", "_scale")]
    return next((file.tensors[n] for n in names if n in file.tensors), None)


def read(file: ModelFile, tensor: Tensor, found: Tensor) -> Scales:
    """The factors in `found` of `tensor` (rows, columns) or (experts, rows, columns). ModelError where they do not fit."""
    experts, rows, columns = (1, *tensor.shape) if len(tensor.shape) == 2 else tensor.shape
    values = _values(file, found)
    shape = tuple(int(n) for n in found.shape)
    high, wide = _block(file)
    grid = (-(-rows // high), -(-columns // wide))
    stack = (experts,) if len(tensor.shape) == 3 else ()
    if shape == (*stack, *grid) and (found.name.endswith("_inv") or file.config.get("quantization_config")):
        return Scales(np.repeat(values.reshape(experts, *grid), high, axis=1)[:, :rows], min(wide, columns))
    if values.size == 1:
        return Scales(np.full((experts, rows, 1), values.reshape(-1)[0], np.float32), columns)
    if experts > 1 and values.size == experts:
        return Scales(np.repeat(values.reshape(experts, 1, 1), rows, axis=1), columns)
    if shape in ((*stack, rows), (*stack, rows, 1)):
        return Scales(values.reshape(experts, rows, 1), columns)
    known = f"{(*stack, *grid)} for blocks of {high} x {wide}, {(*stack, rows, 1)} for rows or one value"
    raise ModelError(f"{file.name}: tensor {found.name}, the scales of {tensor.name}, has shape {shape}; expected {known}")


def _values(file: ModelFile, found: Tensor) -> np.ndarray:
    if found.type == "F8_E8M0":
        values = np.exp2(found.data.astype(np.float32) - 127)
    elif found.type in ("F32", "F16", "BF16"):
        values = np.asarray(_native.dequantize(found.type, found.data), np.float32)
    else:
        raise ModelError(f"{file.name}: tensor {found.name} has type {found.type}; expected scales in F32, F16, BF16 or F8_E8M0")
    if not np.isfinite(values).all():
        raise ModelError(f"{file.name}: tensor {found.name} holds values that are not finite; expected finite numbers")
    return values


def _block(file: ModelFile) -> tuple[int, int]:
    """Rows and columns of a block, from config.json's quantization_config."""
    method: Any = file.config.get("quantization_config")
    key, size = "weight_block_size", method.get("weight_block_size") if isinstance(method, dict) else None
    groups = method.get("config_groups") if isinstance(method, dict) else None
    for group in groups.values() if isinstance(groups, dict) else ():       # compressed-tensors
        weights = group.get("weights") if isinstance(group, dict) else None
        if size is None and isinstance(weights, dict) and weights.get("block_structure") is not None:
            key, size = "config_groups.*.weights.block_structure", weights["block_structure"]
    if size is None:
        return 128, 128
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and 1 <= n <= 1 << 20 for n in size)):
        raise ModelError(f"{file.name}: config.json: key quantization_config.{key} is {str(size)[:60]}; expected rows and columns of a block")
    return size[0], size[1]
