"""Writes tests/data/packed.npz: packed matrices and what compressed-tensors makes of them.

    pip install torch compressed-tensors==0.20.0 && python tests/models/golden_packed.py

Per form NAME: NAME/weight_packed and so on, as stored (BF16 and 8-bit floats as their bits), and NAME, the dequantized float32 matrix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

# name -> rows, columns, arguments of the weights' quantization, type of the scales
FORMS: dict[str, tuple[int, int, dict[str, Any], str]] = {
    "w4_32": (24, 96, dict(num_bits=4, strategy="group", group_size=32), "bfloat16"),
    "w4_128": (8, 256, dict(num_bits=4, strategy="group", group_size=128), "float16"),
    "w4_16": (24, 64, dict(num_bits=4, strategy="group", group_size=16), "bfloat16"),
    "w4_row": (9, 64, dict(num_bits=4, strategy="channel"), "bfloat16"),
    "w4_f32": (8, 64, dict(num_bits=4, strategy="group", group_size=32), "float32"),
    "w4_zeros": (24, 96, dict(num_bits=4, strategy="group", group_size=32, symmetric=False), "bfloat16"),
    "w8_32": (8, 96, dict(num_bits=8, strategy="group", group_size=32), "bfloat16"),
    "w8_row": (8, 40, dict(num_bits=8, strategy="channel"), "bfloat16"),
    "w3_32": (8, 96, dict(num_bits=3, strategy="group", group_size=32), "bfloat16"),
    "w5_zeros": (7, 64, dict(num_bits=5, strategy="group", group_size=32, symmetric=False), "bfloat16"),
    "nvfp4": (16, 128, dict(num_bits=4, type="float", strategy="tensor_group", group_size=16, scale_dtype="torch.float8_e4m3fn"), "float32"),
    "nvfp4_48": (16, 48, dict(num_bits=4, type="float", strategy="tensor_group", group_size=16, scale_dtype="torch.float8_e4m3fn"), "float32"),
    "mxfp4": (16, 96, dict(num_bits=4, type="float", strategy="group", group_size=32, scale_dtype="torch.uint8"), "float32"),
}


def main() -> None:
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    made: dict[str, np.ndarray] = {}
    generator = torch.Generator().manual_seed(7)
    for name, (rows, columns, of, kind) in FORMS.items():
        args = QuantizationArgs(**of)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        format = "pack-quantized" if args.type == "int" else "nvfp4-pack-quantized" if args.group_size == 16 else "mxfp4-pack-quantized"
        group = args.group_size or columns
        weight = torch.randn(rows, columns, generator=generator)
        largest = weight.view(rows, -1, group).abs().amax(-1)
        state = {"weight": weight}
        if format.startswith("nv"):
            state["weight_global_scale"] = (448 * 6 / weight.abs().max()).reshape(1)
            scale = (largest / 6 * state["weight_global_scale"]).to(torch.float8_e4m3fn).float()
        elif format.startswith("mx"):
            scale = 2.0 ** torch.floor(torch.log2(largest / 4))
        else:
            scale = (largest / 2 ** (args.num_bits - 1) * 1.1).to(getattr(torch, kind)).float()
        state["weight_scale"] = scale.to(getattr(torch, kind))
        if not args.symmetric:
            top = 2 ** (args.num_bits - 1)
            state["weight_zero_point"] = torch.randint(-top, top, scale.shape, generator=generator).to(torch.int8)
        compressor = BaseCompressor.get_value_from_registry(format)
        packed = compressor.compress(state, scheme)
        if args.type == "int":
            plain = compressor.decompress({**packed, "weight_scale": packed["weight_scale"].float()}, scheme)["weight"]
        else:  # as its decompress does it, but for its bfloat16
            codes = unpack_fp4_from_uint8(packed["weight_packed"], rows, columns, torch.float32)
            plain = dequantize(codes, compressor._decompress_scale(packed["weight_scale"], torch.float32), args=args, dtype=torch.float32,
                               global_scale=packed.get("weight_global_scale"))  # fmt: skip
        made[name] = plain.float().numpy()
        for part, tensor in packed.items():
            bits = {torch.bfloat16: torch.uint16, torch.float8_e4m3fn: torch.uint8}.get(tensor.dtype)
            made[f"{name}/{part}"] = (tensor.view(bits) if bits else tensor).numpy()
        print(name, format, {k: (tuple(v.shape), v.dtype) for k, v in packed.items()}, float((plain - weight).abs().mean()))
    np.savez_compressed(Path(__file__).parents[1] / "data" / "packed.npz", **made)


if __name__ == "__main__":
    main()
