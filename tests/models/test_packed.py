"""Packed safetensors matrices: against compressed-tensors' own dequantization (tests/data/packed.npz, made by golden_packed.py), and whole models of them."""

from __future__ import annotations

import copy
import json
import struct
from pathlib import Path
from typing import Any

import make
import mixtures
import ml_dtypes
import numpy as np
import pytest
from golden_packed import FORMS
from oracles.interpreter import Interpreter, Weight
from runs import Run, written

from skipstone import ModelError, _native
from skipstone.files import ModelFile, open_model
from skipstone.models import build_network
from skipstone.models.packed import FP4, Packed, tensors_of

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "packed.npz")
TYPES = {"w4_32": "Q4_0", "w4_128": "Q4_0", "w4_16": "BF16", "w4_row": "Q4_0", "w4_f32": "BF16", "w4_zeros": "BF16", "w8_32": "Q8_0", "w8_row": "BF16",
         "w3_32": "BF16", "w5_zeros": "BF16", "nvfp4": "NVFP4", "nvfp4_48": "BF16", "mxfp4": "MXFP4"}  # fmt: skip
NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "int8": "I8", "uint8": "U8", "int32": "I32", "int64": "I64"}


def write(folder: Path, config: dict[str, Any], parts: dict[str, Any]) -> ModelFile:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header, at = {}, 0
    for name, array in parts.items():
        header[name] = {"dtype": NAMES[array.dtype.name], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in parts.values()))
    return open_model(folder)


def parts_of(name: str) -> dict[str, np.ndarray]:
    parts = {key.partition("/")[2]: GOLDEN[key] for key in GOLDEN.files if key.startswith(name + "/")}
    if FORMS[name][3] == "bfloat16":
        parts["weight_scale"] = parts["weight_scale"].view(ml_dtypes.bfloat16)
    if name.startswith("nvfp4"):
        parts["weight_scale"] = parts["weight_scale"].view(ml_dtypes.float8_e4m3fn)
    return parts


def values(tensor: Packed) -> np.ndarray:
    made = np.asarray(_native.dequantize(tensor.type, tensor.data), np.float32).reshape(tensor.shape)
    if tensor.factors is not None:
        made = made * np.repeat(tensor.factors.factors[0], tensor.factors.columns, axis=1)[:, : tensor.shape[1]]
    return made * np.float32(tensor.factor)


@pytest.mark.parametrize("name", FORMS)
def test_a_matrix_is_what_compressed_tensors_makes_of_it(name: str, tmp_path: Path) -> None:
    file = write(tmp_path, {"model_type": "qwen3"}, {f"x.{part}": array for part, array in parts_of(name).items()})
    tensor = tensors_of(file)["x.weight"]
    assert isinstance(tensor, Packed) and set(tensor.parts) == set(file.tensors)
    assert tensor.type == TYPES[name] and tensor.shape == GOLDEN[name].shape
    difference = np.abs(values(tensor) - GOLDEN[name]).max()
    assert difference <= (2e-7 * np.abs(GOLDEN[name]).max() if name.startswith("nvfp4") else 0)   # which divides the scales first


def test_modelopt_multiplies_where_compressed_tensors_divides(tmp_path: Path) -> None:
    parts = parts_of("nvfp4")
    renamed = {"x.weight": parts["weight_packed"], "x.weight_scale": parts["weight_scale"], "x.weight_scale_2": 1 / parts["weight_global_scale"].reshape(())}
    tensor = tensors_of(write(tmp_path, {"model_type": "qwen3"}, renamed))["x.weight"]
    assert tensor.type == "NVFP4" and np.abs(values(tensor) - GOLDEN["nvfp4"]).max() <= 2e-7 * np.abs(GOLDEN["nvfp4"]).max()


@pytest.mark.parametrize("rows", [1, 8])
def test_whole_bytes_with_a_factor_a_row_or_one(rows: int, tmp_path: Path) -> None:
    codes = np.random.default_rng(1).integers(-128, 128, (8, 64)).astype(np.int8)
    scale = np.linspace(0.5, 2, rows, dtype=np.float32).reshape(rows, 1).astype(ml_dtypes.bfloat16)
    tensor = tensors_of(write(tmp_path, {"model_type": "qwen3"}, {"x.weight": codes, "x.weight_scale": scale}))["x.weight"]
    assert tensor.type == "Q8_0" and np.array_equal(values(tensor), codes * scale.astype(np.float32))


def packed(tiny: make.Tiny, folder: Path, form: str) -> tuple[ModelFile, make.Tiny]:
    """The model with its layers' matrices packed, and the plain model of the same values."""
    plain, parts = copy.deepcopy(tiny), {}
    for name, array in tiny.tensors.items():
        if array.ndim != 2 or "layers." not in name or "router" in name or name.endswith("mlp.gate.weight"):
            parts[name] = array
            continue
        base, (rows, columns) = name.removesuffix(".weight"), array.shape
        group = 16 if form == "nvfp4" else 32 if columns % 32 == 0 else 8
        largest = np.abs(array.reshape(rows, -1, group)).max(axis=2)
        if form == "nvfp4":
            second = np.float32(largest.max() / 6 / 448)
            scale = (largest / 6 / second).astype(ml_dtypes.float8_e4m3fn)
            factors = np.repeat(scale.astype(np.float32) * second, group, axis=1)
            codes = np.abs(array[..., None] / factors[..., None] - FP4).argmin(axis=-1).astype(np.uint8)
            plain.tensors[name] = FP4[codes] * factors
            parts |= {name: codes[:, ::2] | codes[:, 1::2] << 4, base + ".weight_scale": scale, base + ".weight_scale_2": second.reshape(()),
                      base + ".input_scale": np.ones((), np.float32)}  # fmt: skip
            continue
        scale = (largest / 7).astype(ml_dtypes.bfloat16)
        factors = np.repeat(scale.astype(np.float32), group, axis=1)
        codes = np.clip(np.rint(array / factors), -8, 7)
        plain.tensors[name] = (codes * factors).astype(np.float32)
        nibbles = (codes + 8).astype(np.uint8)
        parts |= {base + ".weight_packed": (nibbles[:, ::2] | nibbles[:, 1::2] << 4).view(np.int32), base + ".weight_scale": scale,
                  base + ".weight_shape": np.asarray(array.shape, np.int64)}  # fmt: skip
    return write(folder, {**tiny.config, "quantization_config": {"quant_method": "compressed-tensors"}}, parts), plain


TOKENS = (np.arange(40) ** 2 * 41 + 7) % make.VOCABULARY
MODELS = {"qwen3": make.qwen3, "gemma4": make.gemma4, "qwen35": make.qwen35, "qwen3moe": mixtures.qwen3moe}


@pytest.mark.parametrize("form", ["w4", "nvfp4"])
@pytest.mark.parametrize("name", MODELS)
def test_models_of_packed_matrices_are_their_values(name: str, form: str, tmp_path: Path) -> None:
    file, plain = packed(MODELS[name](301), tmp_path / "packed", form)
    want = Run(written(plain, tmp_path, "safetensors"), dtype=np.float64).logits(TOKENS)[0]
    assert np.abs(Run(file, dtype=np.float64).logits(TOKENS)[0] - want).max() < 2e-5
    quantized = Run(file, dtype=np.float64, quantize=True).logits(TOKENS)[0]   # matrices of blocks see rows of int8
    got = Run(file)
    rows = got.logits(TOKENS)[0]
    assert np.abs(rows - quantized).max() < 0.02 + 0.1 * np.abs(quantized - want).max()
    assert np.array_equal(rows, got.logits(TOKENS, 7)[0])


def refused(file: ModelFile) -> str:
    with pytest.raises(ModelError) as caught:
        build_network(file, Weight, Interpreter)
    return str(caught.value)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "AWQ"])
def test_other_packings_are_refused_by_name(method: str, tmp_path: Path) -> None:
    tiny = make.qwen3(302)
    parts: dict[str, Any] = dict(tiny.tensors)
    parts["model.layers.0.mlp.up_proj.qweight"] = np.zeros((8, 96), np.int32)
    del parts["model.layers.0.mlp.up_proj.weight"]
    message = refused(write(tmp_path / "a", {**tiny.config, "quantization_config": {"quant_method": method}}, parts))
    assert {"gptq": "GPTQ", "awq": "AWQ"}.get(method.lower(), method) in message and "GGUF" in message
    assert "GPTQ or AWQ" in refused(write(tmp_path / "b", tiny.config, parts))


def test_parts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    file, _ = packed(make.qwen3(303), tmp_path / "packed", "w4")
    x = "model.layers.1.mlp.up_proj."
    parts = {n: np.frombuffer(t.data.tobytes(), {"I32": np.int32, "I64": np.int64, "BF16": ml_dtypes.bfloat16, "F32": np.float32}[t.type]).reshape(t.shape)
             for n, t in file.tensors.items()}  # fmt: skip
    wrong: list[tuple[str, Any, str]] = [
        (x + "weight_scale", None, x + "weight_scale is missing"),
        (x + "weight_shape", None, x + "weight_shape is missing"),
        (x + "weight_shape", np.asarray([96, 63], np.int64), "63"),
        (x + "weight_shape", np.asarray([95, 64], np.int64), "95 rows"),
        (x + "weight_shape", np.asarray([96, -64], np.int64), "-64"),
        (x + "weight_shape", np.asarray([96, 64, 1], np.int64), "two whole numbers"),
        (x + "weight_scale", parts[x + "weight_scale"][:, :1].repeat(3, 1), "weight_scale"),
        (x + "weight_scale", np.full((96, 2), np.nan, np.float32), "not finite"),
        (x + "weight_scale", np.ones((96, 2), np.int32), "I32"),
        (x + "weight_packed", parts[x + "weight_packed"].astype(np.int64), "I64"),
        (x + "weight_zero_point", np.zeros((96, 2), np.int32), "weight_zero_point"),
        (x + "weight_g_idx", np.arange(64, dtype=np.int32)[::-1].copy(), "weight_g_idx"),
        ("model.norm.weight_packed", np.zeros((8, 8), np.int32), "model.norm"),
    ]
    for i, (name, array, expected) in enumerate(wrong):
        changed = {**parts, name: array}
        assert expected in refused(write(tmp_path / str(i), file.config, {n: a for n, a in changed.items() if a is not None})), name


def test_parts_of_nvfp4_that_do_not_fit_are_named(tmp_path: Path) -> None:
    parts = parts_of("nvfp4")
    for name, array, expected in (
        ("weight_scale", parts["weight_scale"][:, :4], "x.weight_scale"),
        ("weight_scale", np.full((16, 8), -1, ml_dtypes.float8_e4m3fn), "negative"),
        ("weight_global_scale", np.zeros(1, np.float32), "positive"),
        ("weight_global_scale", np.ones(2, np.float32), "one F32"),
    ):
        with pytest.raises(ModelError, match=expected):
            made = tensors_of(write(tmp_path, {"model_type": "qwen3"}, {f"x.{n}": a for n, a in {**parts, name: array}.items()}))
            assert made["x.weight"].data is None


def test_info_converts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skipstone.cli.info import _runs

    monkeypatch.setattr(Packed, "data", property(lambda self: pytest.fail("was read")))
    for form in ("w4", "nvfp4"):
        assert _runs(packed(mixtures.qwen3moe(304), tmp_path / form, form)[0]) == (True, None)
