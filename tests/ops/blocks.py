"""Weight matrices of every type from random bits, and from one byte repeated."""
from __future__ import annotations

import gguf
import numpy as np


def random_blocks(rng: np.random.Generator, name: str, values: int) -> np.ndarray:
    """Blocks of random bits whose float16 scales are finite and moderate."""
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    data = rng.integers(0, 256, (values // size[0], size[1]), dtype=np.uint8)
    if name == "F32":
        return rng.standard_normal(values).astype(np.float32).view(np.uint8)
    if name == "F16":
        return rng.standard_normal(values).astype(np.float16).view(np.uint8)
    if name == "BF16":
        return (rng.standard_normal(values).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    small = lambda: rng.uniform(-0.05, 0.05, len(data)).astype(np.float16).view(np.uint8).reshape(-1, 2)  # noqa: E731
    first = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
             "IQ1_S": [0], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64]}
    for at in first.get(name, []):
        data[:, at:at + 2] = small()
    if name == "IQ1_M":                       # its float16 scale is spread over the top nibbles of four words
        half = rng.uniform(0.01, 0.05, len(data)).astype(np.float16).view(np.uint16)
        for i in range(4):
            data[:, 48 + 2 * i + 1] = (data[:, 48 + 2 * i + 1] & 15) | (((half >> (4 * i)) & 15) << 4).astype(np.uint8)
    if name == "MXFP4":
        data[:, 0] = np.where(rng.random(len(data)) < 0.1, rng.integers(0, 2, len(data)), rng.integers(110, 130, len(data)))      # 0 and 1: subnormal scales
    if name == "NVFP4":
        data[:, :4] = rng.integers(0, 127, (len(data), 4))
    return np.ascontiguousarray(data).reshape(-1)


def filled_blocks(rng: np.random.Generator, name: str, values: int, fill: int) -> np.ndarray:
    """Blocks of a quantized type whose every byte is `fill`, but for random scales as above."""
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    data = random_blocks(rng, name, values)
    scales = data.copy()
    data[:] = fill
    keep = {"Q2_K": slice(80, 84), "Q3_K": slice(108, 110), "Q6_K": slice(208, 210), "TQ1_0": slice(52, 54), "TQ2_0": slice(64, 66), "IQ1_M": slice(48, 56), "MXFP4": slice(0, 1),
            "NVFP4": slice(0, 4), "Q4_1": slice(0, 4), "Q5_1": slice(0, 4), "Q4_K": slice(0, 4), "Q5_K": slice(0, 4)}.get(name, slice(0, 2))
    data.reshape(-1, size[1])[:, keep] = scales.reshape(-1, size[1])[:, keep]
    return data
