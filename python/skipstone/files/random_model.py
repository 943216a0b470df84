"""Models with random weights in a released model's exact shape, written nowhere: to measure a machine before 20 GB are downloaded.

`open_model("random:qwen3-8b:Q4_K_M")` gives what the GGUF file would give, but for a tokenizer. The tensors of a type are views of one piece of memory as
large as the largest of them; laid out for the machine each weight gets memory of its own, so that a pass reads what a pass over the real model reads.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import _native
from ..errors import ArgumentError
from .gguf_types import TYPES
from .messages import shown
from .model_file import ModelFile, Tensor
from .shapes import SHAPES, Shape

PREFIX = "random:"
DEFAULT_TYPE = "Q4_K_M"
MIXES = {"Q4_K_M": ("Q4_K", "Q6_K"), "Q5_K_M": ("Q5_K", "Q6_K")}      # llama.cpp's: most tensors, those that matter more

# What llama.cpp takes where rows are no multiple of 256.
FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q2_K": "Q4_0", "Q3_K": "Q4_0", "TQ1_0": "Q4_0", "TQ2_0": "Q4_0"}
FLOAT32 = ("ffn_gate_inp", "ssm_conv1d", "ssm_alpha", "ssm_beta")        # matrices that files keep in F32


def open_random(name: str) -> ModelFile:
    """The model that `name` asks for: random:SHAPE or random:SHAPE:TYPE, a type of GGUF or one of MIXES. ArgumentError."""
    shape_name, _, type_name = name.removeprefix(PREFIX).partition(":")
    type_name = type_name or DEFAULT_TYPE
    if shape_name not in SHAPES:
        raise ArgumentError(f"random model: shape {shown(repr(shape_name))} is unknown; expected one of {', '.join(SHAPES)}")
    blocks = _blocks()
    if type_name not in MIXES and type_name not in blocks:
        raise ArgumentError(f"random model: type {shown(repr(type_name))} is unknown; expected one of {', '.join([*MIXES, *blocks])}")
    shape, source = SHAPES[shape_name], f"{PREFIX}{shape_name}:{type_name}"
    types = {tensor: _type(shape, tensor, size, type_name) for tensor, size in shape.tensors}
    sizes = {tensor: int(np.prod(size)) // blocks[types[tensor]][0] * blocks[types[tensor]][1] for tensor, size in shape.tensors if len(size) > 1}
    memory = {kind: _random_bytes(kind, max(n for tensor, n in sizes.items() if types[tensor] == kind)) for kind in {types[tensor] for tensor in sizes}}
    tensors = {}
    for tensor, size in shape.tensors:
        data = memory[types[tensor]][:sizes[tensor]] if tensor in sizes else _vector(tensor, size[0]).view(np.uint8)
        tensors[tensor] = Tensor(tensor, types[tensor], size, data, source)
    metadata = {"general.architecture": shape.architecture, "general.name": f"{shape_name} in {type_name}, random weights", "tokenizer.ggml.model": "no_vocab",
                **{f"{shape.architecture}.{key}": value for key, value in shape.keys.items()}}
    return ModelFile(Path(source), "gguf", shape.architecture, tensors, metadata)


def _blocks() -> dict[str, tuple[int, int]]:
    """Weights and bytes a block of the types that can be run."""
    runs = {t["name"] for t in _native.types()}
    return {t.name: (t.block, t.bytes) for t in TYPES.values() if t.name in runs}


def _type(shape: Shape, tensor: str, size: tuple[int, ...], wanted: str) -> str:
    """Of one tensor: F32 for vectors, the wanted type for matrices, or what its mix gives it."""
    if len(size) == 1 or any(part in tensor for part in FLOAT32):
        return "F32"
    kind, better = MIXES.get(wanted, (wanted, wanted))
    head = "output.weight" if any(name == "output.weight" for name, _ in shape.tensors) else "token_embd.weight"
    if tensor == head or (("attn_v." in tensor or "ffn_down" in tensor) and _matters(shape, int(tensor.split(".")[1]))):
        kind = better
    if size[-1] % _blocks()[kind][0]:
        kind = FALLBACKS.get(kind, "IQ4_NL")
    return kind if size[-1] % _blocks()[kind][0] == 0 else "F16"


def _matters(shape: Shape, layer: int) -> bool:
    """The layers whose attn_v and ffn_down get the better type: the first and last eighth, and every third between."""
    layers = shape.keys["block_count"]
    return bool(layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2)


def _random_bytes(kind: str, size: int) -> np.ndarray:
    """Blocks of random weights around 0, about 0.02 large; a pattern that no row's length divides, repeated."""
    block, block_bytes = _blocks()[kind]
    count = -(-min(1 << 18, size // block_bytes * block) // block) | 1
    rng = np.random.default_rng(0)
    if next(t for t in _native.types() if t["name"] == kind)["can_quantize"]:
        pattern = _native.quantize(kind, 0.02 * rng.standard_normal(count * block, dtype=np.float32))
    else:                                                          # codebooks: every code is valid; small bytes keep the scales finite
        pattern = rng.integers(0, 0x30, count * block_bytes, dtype=np.uint8)
    made = np.resize(pattern, size)
    made.flags.writeable = False
    return made


def random_matrix(kind: str, rows: int, columns: int) -> np.ndarray:
    """The bytes of a random matrix of a type, uint8 (bytes,), read-only."""
    block, block_bytes = _blocks()[kind]
    return _random_bytes(kind, rows * columns // block * block_bytes)


def _vector(name: str, length: int) -> np.ndarray:
    """Norms and scales of 1; what a delta-net and a rotary embedding need to be sane."""
    special = {"ssm_a": -0.5, "ssm_dt.bias": 0.5}
    values = np.full(length, special.get(name.split(".", 2)[-1], 1.0), np.float32)
    if name == "rope_freqs.weight":
        values[length // 4:] = 1e30                                # pairs that do not turn
    return values
