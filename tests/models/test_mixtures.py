"""Mixtures of experts: native passes against the interpreter's, the forms that their tensors come in, and files that are wrong about them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import make
import mixtures
import numpy as np
import pytest
import skipstone
from mixtures import MIXTURES
from oracles.interpreter import Interpreter, Weight
from runs import FORMATS, Run, rounding, written
from skipstone.files import ModelFile
from skipstone.models import build_drafter, build_network
from test_against_interpreter import TOKENS, rms
from test_what_matters import with_key
from test_wrong_files import refused, with_tensor, with_value

PROMPT = TOKENS[:50]


@pytest.mark.parametrize("family", MIXTURES)
def test_native(family: str, tmp_path: Path) -> None:
    """Any cut of the text, float32 and, with the rounding of activations that quantized weights mean, Q8_0."""
    file = written(MIXTURES[family](31), tmp_path, "safetensors", "BF16")
    want, native, bound = Run(file, dtype=np.float64).logits(TOKENS)[0], Run(file), rounding(file, TOKENS)
    whole = native.logits(TOKENS)[0]
    assert np.abs(whole - want).max() <= bound
    for pieces in (3, len(TOKENS)):
        assert native.logits(TOKENS, pieces)[0].tobytes() == whole.tobytes()
    file = written(MIXTURES[family](32), tmp_path, "gguf", "Q8_0")
    exact = Run(file, dtype=np.float64).logits(PROMPT)[0]
    allowed = rms(Run(file, dtype=np.float64, quantize=True).logits(PROMPT)[0], exact)
    assert 0 < allowed < 0.5 * exact.std()
    assert rms(Run(file).logits(PROMPT)[0], exact) <= 1.5 * allowed


@pytest.mark.parametrize("family", MIXTURES)
def test_rows_of_several_texts(family: str, tmp_path: Path) -> None:
    """Texts in one pass, in any order, have the bits that they have alone."""
    program = Run(written(MIXTURES[family](33), tmp_path, "gguf", "Q4_0")).network.program
    texts = [(np.arange(n) ** 2 * (7 + n) + n).astype(np.int32) % make.VOCABULARY for n in (1, 2, 5, 8, 40)]
    alone = [program.run([(program.sequence("f32"), text)], threads=1)[0] for text in texts]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [3, 4]):
        together = program.run([(program.sequence("f32"), texts[i]) for i in order], threads=2)[0]
        assert together.tobytes() == np.concatenate([alone[i] for i in order]).tobytes()


def apart(tiny: make.Tiny, folder: Path, name: str, type: str = "F32") -> ModelFile:
    """As GGUF, in a folder of its own."""
    (folder / name).mkdir()
    return written(tiny, folder / name, "gguf", type)


@pytest.mark.parametrize("family", ["qwen35moe", "qwen3next", "gemma4moe"])
def test_the_same_text_whatever_is_drafted(family: str, tmp_path: Path) -> None:
    file = written(MIXTURES[family](46), tmp_path, "gguf", "Q5_0")
    draft: Any = written(make.gemma4_assistant(47), tmp_path, "gguf").path if family == "gemma4moe" else "auto"
    model = skipstone.load(file.path, draft=draft, threads=2)
    assert model.drafter is not None
    for way in ({"temperature": 0.0}, {"temperature": 0.9, "top_p": 0.9, "repeat_penalty": 1.1}):
        made = [model.generate(PROMPT.tolist(), max_tokens=60, seed=3, draft_tokens=n, stop_at_eos=False, **way).tokens for n in (0, 1, 3, 8)]
        assert len(made[0]) == 60 and all(tokens == made[0] for tokens in made)


def bits(file: ModelFile) -> bytes:
    run = Run(file)
    logits = run.logits(PROMPT)[0]
    return logits.tobytes() + (run.drafts(PROMPT, 5, 3)[0].tobytes() if run.drafter else b"")


def test_packed_and_per_expert_tensors(tmp_path: Path) -> None:
    for name, forms in {
        "qwen3moe": [mixtures.qwen3moe(34, per_expert=p) for p in (False, True)],
        "qwen35moe": [mixtures.qwen35moe(34, per_expert_mtp=p) for p in (False, True)],
    }.items():
        one, other = (bits(written(tiny, tmp_path / f"{name}{i}", "safetensors")) for i, tiny in enumerate(forms))
        assert one == other


@pytest.mark.parametrize("family", ["qwen35moe", "gemma4moe"])
def test_fused_and_single_tensors_in_gguf(family: str, tmp_path: Path) -> None:
    """Gate and up in one tensor or in two."""
    forms = []
    for fused in (False, True):
        tiny = MIXTURES[family](35)
        tiny.fused = fused
        forms.append(apart(tiny, tmp_path, str(fused), "Q8_0"))
    assert [sum("gate_up_exps" in n for n in f.tensors) > 0 for f in forms] == [False, True]
    assert bits(forms[0]) == bits(forms[1])


def test_joined_projections_in_gguf(tmp_path: Path) -> None:
    """Old files of Qwen3-Next have q, k, v and z in one tensor."""
    old, new = (apart(mixtures.qwen3next(36, value_heads=6, joined=j), tmp_path, str(j), "Q8_0") for j in (True, False))
    assert any("ssm_in" in n for n in old.tensors) and not any("ssm_in" in n for n in new.tensors)
    assert bits(old) == bits(new)


def test_factors_of_experts(tmp_path: Path) -> None:
    """A factor for each expert beside its matrix, as NVFP4 files have it: as if the matrices were multiplied by it, exactly so for powers of two."""
    factors = 2.0 ** (np.arange(mixtures.E) % 3 - 1)
    plain = mixtures.qwen3moe(37)
    beside, inside = (apart(plain, tmp_path, n) for n in ("beside", "inside"))
    for part in ("gate", "up", "down"):
        for i in range(3):
            name = f"blk.{i}.ffn_{part}_exps"
            tensor = inside.tensors[name + ".weight"]
            data = (tensor.data.view(np.float32).reshape(tensor.shape) * factors[:, None, None].astype(np.float32)).view(np.uint8).reshape(-1)
            inside.tensors[name + ".weight"] = dataclasses.replace(tensor, data=data)
            scale = factors.astype(np.float32).view(np.uint8)
            beside.tensors[name + ".scale"] = dataclasses.replace(tensor, name=name + ".scale", shape=(mixtures.E,), data=scale)
    want, got = (Run(f).logits(PROMPT)[0] for f in (inside, beside))
    assert np.abs(want - got).max() <= rounding(inside, PROMPT)
    assert np.abs(want - Run(written(plain, tmp_path, "gguf")).logits(PROMPT)[0]).max() > 0.1
    del beside.tensors["blk.1.ffn_gate_exps.scale"]
    assert "ffn_gate_exps.scale" in refused(lambda: build_all(beside))


def test_a_factor_of_all_experts(tmp_path: Path) -> None:
    file = written(mixtures.qwen3moe(38), tmp_path, "gguf")
    plain, same, twice = (Run(with_key(file, "expert_weights_scale", v)).logits(PROMPT)[0] for v in (0.0, 1.0, 2.0))
    assert plain.tobytes() == same.tobytes() and np.abs(plain - twice).max() > 0.1


CHANGES: dict[str, dict[str, Any]] = {
    "qwen3moe": {"norm_topk_prob": False, "num_experts_per_tok": 3},
    "qwen35moe": {"num_experts_per_tok": 3},
    "qwen3next": {"norm_topk_prob": False, "num_experts_per_tok": 1},
    "gemma4moe": {"top_k_experts": 3},
}


@pytest.mark.parametrize("family", MIXTURES)
def test_nothing_is_read_in_vain(family: str, tmp_path: Path) -> None:
    """Every hyper-parameter of the mixture and every tensor of one layer's changes the logits."""
    file = written(MIXTURES[family](39), tmp_path, "safetensors")
    plain, bound = Run(file).logits(TOKENS)[0], rounding(file, TOKENS)
    ignored = [k for k, v in CHANGES[family].items() if np.abs(Run(with_key(file, k, v)).logits(TOKENS)[0] - plain).max() <= 10 * bound]
    for name, tensor in file.tensors.items():
        if ".layers.1." not in name or "attn" in name:
            continue
        old = tensor.data.view(np.float32)
        noise = old + make.values(name, 1, (len(old),), 0.0, 0.3 * max(float(old.std()), 0.1))
        if np.abs(Run(with_tensor(file, name, data=noise.view(np.uint8))).logits(TOKENS)[0] - plain).max() <= 10 * bound:
            ignored.append(name)
    assert not ignored


def build_all(file: ModelFile) -> None:
    build_drafter(build_network(file, Weight, Interpreter), file, None, Weight, Interpreter)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("family", MIXTURES)
def test_wrong_tensors(family: str, kind: str, tmp_path: Path) -> None:
    """Each tensor of a mixture in turn is missing, of another shape, of a type that cannot be run: the message names it."""
    file = written(MIXTURES[family](40), tmp_path, kind)
    build_all(file)
    wrong = [n for n in file.tensors if "exp" in n or "router" in n or "mlp.gate." in n or "ffn_gate_inp" in n or "_norm_" in n]
    assert len(wrong) >= 12
    for name in wrong[:: 1 if len(wrong) < 60 else 7]:
        tensor = file.tensors[name]
        missing = refused(lambda: build_all(with_tensor(file, name)))
        assert name in missing or name.replace("gate_up", "gate") in missing
        shapes = {(tensor.shape[0] + 1, *tensor.shape[1:]), (*tensor.shape[:-1], tensor.shape[-1] + 32), (0,), (1 << 61, 2)} - {tensor.shape}
        for shape in shapes:
            assert name in refused(lambda: build_all(with_tensor(file, name, shape=shape)))
        assert name in (message := refused(lambda: build_all(with_tensor(file, name, type="I32")))) and "Q4_K" in message


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("family", MIXTURES)
def test_wrong_keys(family: str, kind: str, tmp_path: Path) -> None:
    """The configuration and the tensors disagree, or the numbers make no sense."""
    file = written(MIXTURES[family](41), tmp_path, kind)
    keys = ["expert_count", "expert_used_count", "expert_feed_forward_length"]
    keys += ["expert_shared_feed_forward_length"] if family in ("qwen35moe", "qwen3next") else []
    if kind == "safetensors":
        used = "top_k_experts" if family == "gemma4moe" else "num_experts_per_tok"
        keys = ["num_experts", used, "moe_intermediate_size", *(["shared_expert_intermediate_size"] if len(keys) > 3 else [])]
    for key in keys:
        path = (f"{file.architecture}.{key}",) if kind == "gguf" else (("text_config", key) if "text_config" in file.config else (key,))
        for value in (0, -1, 1 << 40, 2.5, "many", [], True):
            if not (family == "gemma4moe" and kind == "gguf" and key == "expert_count" and value == 0):  # a dense model, then
                assert key in refused(lambda: build_all(with_value(file, path, value)))
        if not (family == "gemma4moe" and kind == "gguf" and key == "expert_count"):
            assert key in (message := refused(lambda: build_all(with_value(file, path, None)))) and "missing" in message
    for key, wrong in ((keys[0], mixtures.E + 1), (keys[0], mixtures.E - 1), (keys[1], mixtures.E + 1), (keys[2], mixtures.F * 2)):
        path = (f"{file.architecture}.{key}",) if kind == "gguf" else (("text_config", key) if "text_config" in file.config else (key,))
        message = refused(lambda: build_all(with_value(file, path, wrong)))
        assert "tensor" in message or key in message


def test_experts_that_do_not_fit_each_other(tmp_path: Path) -> None:
    """Per-expert tensors: one too many, one of another type, one missing in the middle."""
    file = written(mixtures.qwen3moe(42), tmp_path, "safetensors")
    name = "model.layers.1.mlp.experts.{}.up_proj.weight"
    beyond = dataclasses.replace(file, tensors={**file.tensors, name.format(mixtures.E): file.tensors[name.format(0)]})
    assert name.format(mixtures.E) in (message := refused(lambda: build_all(beyond))) and "5 experts" in message
    half = file.tensors[name.format(3)]
    other = with_tensor(file, name.format(3), type="F16", data=half.data[: len(half.data) // 2])
    assert name.format(3) in (message := refused(lambda: build_all(other))) and "F16" in message and "F32" in message
    assert name.format(3) in refused(lambda: build_all(with_tensor(file, name.format(3))))
    none = dataclasses.replace(file, tensors={n: t for n, t in file.tensors.items() if ".layers.1.mlp.experts." not in n})
    message = refused(lambda: build_all(none))
    assert "model.layers.1.mlp.experts.gate_up_proj" in message and "experts.0.gate_proj" in message
    scaled = dataclasses.replace(file, tensors={**file.tensors, "model.layers.1.mlp.experts.2.up_proj.weight_scale_inv": half})
    assert "weight_scale_inv" in refused(lambda: build_all(scaled))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("family", MIXTURES)
def test_info_and_bytes(family: str, kind: str, tmp_path: Path) -> None:
    """`info` records the network without a weight; a pass over one row reads of the experts those that a row uses."""
    from skipstone.cli.info import describe

    file = written(MIXTURES[family](45), tmp_path, kind)
    assert describe(file)["runs"], describe(file)["reason"]
    used = "expert_used_count" if kind == "gguf" else "top_k_experts" if family == "gemma4moe" else "num_experts_per_tok"
    two, three = (build_network(with_key(file, used, n), Weight, Interpreter).bytes_per_row for n in (2, 3))
    layers = {"qwen3moe": 3, "gemma4moe": 7}.get(family, 5)
    assert three - two == layers * 3 * mixtures.F * 64 * 4


@pytest.mark.parametrize("value", [[-1], ["a"], 1, [True], {"a": 1}])
def test_wrong_lists_of_dense_layers(value: Any, tmp_path: Path) -> None:
    file = written(mixtures.qwen3moe(43), tmp_path, "safetensors")
    assert "mlp_only_layers" in refused(lambda: build_all(with_key(file, "mlp_only_layers", value)))


def test_sparse_steps(tmp_path: Path) -> None:
    """decoder_sparse_step 2: layers 1, 3, ... have experts, the others are dense."""
    tiny = mixtures.qwen3moe(44, dense=(0, 2))
    listed = written(tiny, tmp_path, "safetensors")
    stepped = with_key(with_key(listed, "mlp_only_layers", []), "decoder_sparse_step", 2)
    assert bits(listed) == bits(stepped)


def test_other_spelling_of_the_count(tmp_path: Path) -> None:
    """Recent transformers save Qwen3-MoE's num_experts as num_local_experts."""
    file = written(mixtures.qwen3moe(48), tmp_path, "safetensors")
    config = {("num_local_experts" if k == "num_experts" else k): v for k, v in file.config.items()}
    assert bits(dataclasses.replace(file, config=config)) == bits(file)
    assert "num_local_experts" in refused(lambda: build_all(dataclasses.replace(file, config={**config, "num_local_experts": 0})))


def test_companion_file(tmp_path: Path) -> None:
    """The MTP head with its experts in a file of its own."""
    file = written(mixtures.qwen35moe(49), tmp_path, "gguf")
    head = {n for n in file.tensors if n.startswith("blk.5.")}
    target = dataclasses.replace(file, tensors={n: t for n, t in file.tensors.items() if n not in head})
    companion = dataclasses.replace(file, tensors={n: t for n, t in file.tensors.items() if n in head or not n.startswith("blk.")})
    assert Run(target, companion).drafts(PROMPT, 5, 3)[0].tobytes() == Run(file).drafts(PROMPT, 5, 3)[0].tobytes()
    assert Run(target).drafter is None
    assert "MTP head alone" in refused(lambda: build_all(companion))
