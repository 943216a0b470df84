"""Scales beside weights: FP8 checkpoints and GGUF's .scale tensors, against the same weights with the scales multiplied in."""

from __future__ import annotations

import copy
import dataclasses
import json
import struct
from functools import partial
from pathlib import Path
from typing import Any

import make
import ml_dtypes
import mixtures
import numpy as np
import pytest
from oracles.interpreter import Interpreter, Weight
from runs import Run, written

from skipstone import ModelError
from skipstone.files import ModelFile, open_model
from skipstone.models import build_network

TOKENS = (np.arange(50) ** 2 * 41 + 7) % make.VOCABULARY
BLOCK = (24, 40)  # neither divides the matrices


def fp8(tiny: make.Tiny, folder: Path, form: str, dtype: Any = ml_dtypes.float8_e4m3fn) -> tuple[ModelFile, make.Tiny]:
    """The model with its layers' matrices as 8-bit floats and scales in that form, and the plain model of the same values."""
    plain, parts = copy.deepcopy(tiny), {}
    for name, array in tiny.tensors.items():
        if array.ndim != 2 or "layers." not in name or "router" in name:
            parts[name] = array
            continue
        rows, columns = array.shape
        largest = np.abs(array).max()
        grid = {
            "block": make.values(name + "s", 1, (-(-rows // BLOCK[0]), -(-columns // BLOCK[1])), largest / 300, largest / 2000),
            "row": make.values(name + "s", 1, (rows, 1), largest / 300, largest / 2000),
            "tensor": np.float32(largest / 300).reshape(()),
        }[form].astype(ml_dtypes.bfloat16)
        factors = grid.astype(np.float32)
        if form == "block":
            factors = np.repeat(np.repeat(factors, BLOCK[0], 0), BLOCK[1], 1)[:rows, :columns]
        codes = (array / factors).astype(dtype)
        parts[name] = codes
        parts[name.removesuffix(".weight") + (".weight_scale_inv" if form == "block" else ".weight_scale")] = grid
        plain.tensors[name] = codes.astype(np.float32) * factors
    if form == "tensor":
        parts.update({n.removesuffix(".weight") + ".input_scale": np.ones((), np.float32) for n in tiny.tensors if n.endswith("q_proj.weight")})
    config = {**tiny.config, "quantization_config": {"quant_method": "fp8", **({"weight_block_size": list(BLOCK)} if form == "block" else {})}}
    return write(folder, config, parts), plain


def write(folder: Path, config: dict[str, Any], parts: dict[str, Any]) -> ModelFile:
    names = {"float32": "F32", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header, at = {}, 0
    for name, array in parts.items():
        header[name] = {"dtype": names[array.dtype.name], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in parts.values()))
    return open_model(folder)


MODELS = {"qwen3": make.qwen3, "gemma4e": make.gemma4e, "qwen35": make.qwen35, "qwen3moe": mixtures.qwen3moe}


@pytest.mark.parametrize("form", ["block", "row", "tensor"])
@pytest.mark.parametrize("name", MODELS)
def test_fp8_is_its_values(name: str, form: str, tmp_path: Path) -> None:
    """The difference to the multiplied weights is rounding alone; natively and by the interpreter."""
    file, plain = fp8(MODELS[name](201), tmp_path / "fp8", form)
    want = Run(written(plain, tmp_path, "safetensors"), dtype=np.float64).logits(TOKENS)[0]
    bound = 16 * np.abs(Run(file, dtype=np.float32).logits(TOKENS)[0] - Run(file, dtype=np.float64).logits(TOKENS)[0]).max()
    assert np.abs(Run(file, dtype=np.float64).logits(TOKENS)[0] - want).max() < 1e-5 + bound / 8
    got = Run(file)
    rows = got.logits(TOKENS)[0]
    assert np.abs(rows - want).max() <= bound and np.array_equal(rows, got.logits(TOKENS, 7)[0])


def test_other_8_bit_floats(tmp_path: Path) -> None:
    file, plain = fp8(make.qwen3(202), tmp_path / "e5m2", "row", ml_dtypes.float8_e5m2)
    want = Run(written(plain, tmp_path, "safetensors"), dtype=np.float64).logits(TOKENS)[0]
    assert np.abs(Run(file).logits(TOKENS)[0] - want).max() < 1e-3


def test_every_code(tmp_path: Path) -> None:
    """All 254 finite numbers, as ml_dtypes has them."""
    from skipstone.models.scales import widened

    for name, dtype in (("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2)):
        codes = np.arange(256, dtype=np.uint8)
        values = codes.view(dtype).astype(np.float32)
        finite = codes[np.isfinite(values)]
        made = widened(name, finite).view(np.uint16).astype(np.uint32) << 16
        assert np.array_equal(made.view(np.float32), values[np.isfinite(values)])
        for code in codes[~np.isfinite(values)]:
            with pytest.raises(ValueError, match="finite"):
                widened(name, np.array([0, code], np.uint8))


@pytest.mark.parametrize("type", ["F32", "Q8_0", "Q4_0"])
def test_gguf_scale_multiplies(type: str, tmp_path: Path) -> None:
    """One factor for a whole matrix, the head's and the table's too. A power of two is exact, so the bits are those of the scaled model."""
    tiny = make.qwen3(203)
    scaled = {n: a for n, a in tiny.converted().items() if a.ndim == 2}
    file = written(tiny, tmp_path, "gguf", type)
    halved = dataclasses.replace(tiny, extra={n.removesuffix(".weight") + ".scale": np.array([0.5], np.float32) for n in scaled}, seed=204)
    halved.tensors = {n: a * np.float32(2) if a.ndim == 2 else a for n, a in tiny.tensors.items()}
    other = written(halved, tmp_path, "gguf", type)
    assert sum(n.endswith(".scale") for n in other.tensors) == len(scaled)
    assert Run(other).logits(TOKENS)[0].tobytes() == Run(file).logits(TOKENS)[0].tobytes()


def refused(file: ModelFile) -> str:
    with pytest.raises(ModelError) as caught:
        build_network(file, Weight, Interpreter)
    return str(caught.value)


def test_scales_that_do_not_fit(tmp_path: Path) -> None:
    file, _ = fp8(make.qwen3(206), tmp_path / "fp8", "block")
    name = "model.layers.1.self_attn.o_proj.weight_scale_inv"
    scale, weight = file.tensors[name], file.tensors["model.layers.1.self_attn.o_proj.weight"]

    def change(**of: Any) -> ModelFile:
        return dataclasses.replace(file, tensors={**file.tensors, name: dataclasses.replace(scale, **of)})

    assert name in (message := refused(change(shape=(2, 3)))) and "(3, 3) for blocks of 24 x 40" in message and weight.name in message
    assert name in refused(change(type="I32"))
    assert name in (message := refused(change(data=np.full_like(scale.data, 0xFF)))) and "finite" in message
    config = {**file.config, "quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 128]}}
    assert "weight_block_size" in refused(dataclasses.replace(file, config=config))
    nan = dataclasses.replace(weight, data=np.full_like(weight.data, 0x7F))
    assert weight.name in (message := refused(dataclasses.replace(file, tensors={**file.tensors, weight.name: nan}))) and "finite" in message
    plain = written(make.qwen3(207), tmp_path, "safetensors")
    assert name in refused(dataclasses.replace(plain, tensors={**plain.tensors, name: scale}))  # beside a weight that is no FP8


def test_info_knows_that_fp8_runs(tmp_path: Path) -> None:
    from skipstone.cli.info import _runs

    assert _runs(fp8(make.qwen3(211), tmp_path, "block")[0]) == (True, None)


def test_blocks_as_compressed_tensors_declares_them(tmp_path: Path) -> None:
    file, _ = fp8(make.qwen3(212), tmp_path, "block")
    groups = {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": list(BLOCK)}}}
    other = dataclasses.replace(file, config={**file.config, "quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}})
    assert Run(other).logits(TOKENS)[0].tobytes() == Run(file).logits(TOKENS)[0].tobytes()
    groups["group_0"]["weights"]["block_structure"] = [24, "40"]
    assert "block_structure" in refused(other)


@pytest.mark.parametrize("form", ["block", "row", "tensor", "expert"])
@pytest.mark.parametrize("family", [mixtures.gemma4moe, partial(mixtures.qwen3moe, per_expert=False)], ids=["gemma4moe", "qwen3moe"])
def test_packed_experts(family: Any, form: str, tmp_path: Path) -> None:
    """All experts of a layer in one tensor without .weight, its scales in X_scale_inv or X_scale."""
    tiny = family(213)
    plain, parts = copy.deepcopy(tiny), dict(tiny.tensors)
    names = [n for n, a in tiny.tensors.items() if a.ndim == 3 and "conv1d" not in n]
    assert len(names) > 3
    for name in names:
        array = tiny.tensors[name]
        experts, rows, columns = array.shape
        largest = float(np.abs(array).max())
        shape = {"block": (experts, -(-rows // BLOCK[0]), -(-columns // BLOCK[1])), "row": (experts, rows, 1), "tensor": (1,), "expert": (experts, 1, 1)}[form]
        grid = make.values(name + "s", 1, shape, largest / 300, largest / 2000)
        factors = np.repeat(np.repeat(grid, BLOCK[0], 1), BLOCK[1], 2)[:, :rows, :columns] if form == "block" else grid
        codes = (array / factors).astype(ml_dtypes.float8_e4m3fn)
        parts[name], parts[name + ("_scale_inv" if form == "block" else "_scale")] = codes, grid
        plain.tensors[name] = (codes.astype(np.float32) * factors).astype(np.float32)
    config = {**tiny.config, "quantization_config": {"quant_method": "fp8", **({"weight_block_size": list(BLOCK)} if form == "block" else {})}}
    file = write(tmp_path / "fp8", config, parts)
    want = Run(written(plain, tmp_path, "safetensors"), dtype=np.float64).logits(TOKENS)[0]
    assert np.abs(Run(file, dtype=np.float64).logits(TOKENS)[0] - want).max() < 5e-5
    assert np.abs(Run(file).logits(TOKENS)[0] - want).max() < 1e-3
