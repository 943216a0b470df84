"""A hundred files that look real and are wrong, written to disk and loaded as a user would: each error names what is wrong.

Every mistake is one that people make or meet: conversions that stopped, files of two models mixed, configurations edited by hand.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import make
import mixtures
import numpy as np
import pytest

import skipstone
from skipstone.errors import FileError

TARGETS: dict[str, Callable[[int], make.Tiny]] = {
    "qwen3": make.qwen3,
    "qwen35": make.qwen35,
    "gemma3": make.gemma3,
    "gemma4": make.gemma4,
    "gemma4e": make.gemma4e,
    "qwen3moe": mixtures.qwen3moe,
    "qwen35moe": mixtures.qwen35moe,
    "qwen3next": mixtures.qwen3next,
    "gemma4moe": mixtures.gemma4moe,
    "orthrus": partial(make.qwen3, orthrus=True),
}
DRAFTERS: dict[str, tuple[str, Callable[[int], make.Tiny]]] = {
    "assistant": ("gemma4", make.gemma4_assistant),
    "ordered": ("gemma4e", partial(make.gemma4_assistant, keys_are_values=False, ordered=True)),
    "dflash": ("qwen3", make.dflash),
    "dflash2": ("qwen3", partial(make.dflash, second=True, causal=False)),
}

# What is wrong with a model: changes it and says what the message must name (one of them).
Mistake = Callable[[random.Random, make.Tiny, str], list[str] | None]


def in_file(tiny: make.Tiny, name: str, kind: str) -> list[str]:
    """What the tensor may be called in the message: its name in this format, or that of the tensor it is part of."""
    if kind == "safetensors":
        return [name]
    to = tiny.names[name].partition("#")[0]
    both = [to.replace("gate_up", part) for part in ("gate", "up")] if "gate_up_exps" in to else [to]
    joined = [to.replace("ssm_in", part) for part in ("attn_qkv", "attn_gate")] if "ssm_in" in to else []
    return [*both, *joined]


def layer_tensors(tiny: make.Tiny, kind: str, dims: tuple[int, ...] = (1, 2, 3)) -> list[str]:
    """Tensors of the model's layers that are in the file and not drafting heads."""
    return [n for n, a in tiny.tensors.items() if "layers." in n and a.ndim in dims and not n.startswith("mtp.") and (kind == "safetensors" or tiny.names[n])]


def missing_tensor(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    name = r.choice([n for n in layer_tensors(tiny, kind) if kind == "safetensors" or "#" not in tiny.names[n]])
    del tiny.tensors[name]
    return in_file(tiny, name, kind)


def missing_expert(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    """One of many files of experts was lost."""
    names = [n for n in layer_tensors(tiny, kind) if ".experts." in n and n.split(".experts.")[1].split(".")[0].isdigit()]
    if not names:
        return None
    name = r.choice(names)
    del tiny.tensors[name]
    return in_file(tiny, name, kind) + [name.split(".experts.")[0]]


def too_many_experts(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    """The configuration counts other experts than the file holds."""
    keys = [("expert_count", tiny.keys)] if kind == "gguf" else [(k, tiny.text) for k in ("num_experts", "num_local_experts") if k in tiny.text]
    keys = [(k, values) for k, values in keys if isinstance(values.get(k), int)]
    if not keys:
        return None
    key, values = keys[0]
    values[key] += r.choice((-1, 1, 4))
    return ["expert", "ffn_gate_inp", "mlp.gate", "router"]


def more_used_than_there_are(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    for key, values in (("expert_used_count", tiny.keys), ("num_experts_per_tok", tiny.text), ("top_k_experts", tiny.text)):
        if key in values and (kind == "gguf") == (values is tiny.keys):
            values[key] = 1000
            return [key]
    return None


def another_shape(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    """A tensor of a larger or smaller model."""
    name = r.choice([n for n in layer_tensors(tiny, kind, (1, 2)) if kind == "safetensors" or "#" not in tiny.names[n]])
    array = tiny.tensors[name]
    if "linear_attn" in name and kind == "gguf":
        return None  # the converter would refuse it
    axis = r.randrange(array.ndim)
    if array.shape[axis] < 2:
        return None
    tiny.tensors[name] = np.concatenate([array, array], axis=axis) if r.random() < 0.5 else np.ascontiguousarray(np.take(array, range(array.shape[axis] // 2), axis=axis))
    return in_file(tiny, name, kind)


def transposed(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    name = r.choice([n for n in layer_tensors(tiny, kind, (2,)) if kind == "safetensors" or ("#" not in tiny.names[n] and "linear_attn" not in n)])
    array = tiny.tensors[name]
    if array.shape[0] == array.shape[1] or 1 in array.shape:
        return None
    tiny.tensors[name] = np.ascontiguousarray(array.T)
    return in_file(tiny, name, kind)


def unknown_tensor(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    name = r.choice(layer_tensors(tiny, kind, (2,)))
    layer = name.split("layers.")[0] + "layers." + name.split("layers.")[1].split(".")[0]
    extra = layer + r.choice((".self_attn.sinks", ".mlp.extra_norm.weight", ".self_attn.relative_bias.weight", ".adapter.down.weight"))
    tiny.tensors[extra], tiny.names[extra] = np.ones(8, np.float32), "blk.0." + extra.rpartition("layers.")[2].partition(".")[2]
    return [extra] if kind == "safetensors" else [tiny.names[extra]]


def bias_beside(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    name = r.choice([n for n in layer_tensors(tiny, kind, (2,)) if n.endswith("_proj.weight") and ".experts." not in n])
    other = name.removesuffix("weight") + "bias"
    tiny.tensors[other], tiny.names[other] = np.zeros(len(tiny.tensors[name]), np.float32), tiny.names[name].removesuffix("weight") + "bias"
    return [other] if kind == "safetensors" else [tiny.names[other]]


def not_finite(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    """A training run that broke."""
    name = r.choice([n for n in layer_tensors(tiny, kind, (1,)) if n.endswith("norm.weight")])
    tiny.tensors[name] = tiny.tensors[name].copy()
    tiny.tensors[name][r.randrange(len(tiny.tensors[name]))] = r.choice((np.nan, np.inf))
    return in_file(tiny, name, kind)


def fewer_layers(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    """The configuration of a smaller sibling."""
    key, values = ("block_count", tiny.keys) if kind == "gguf" else ("num_hidden_layers", tiny.text)
    change = r.choice((-1, 1))
    values[key] += change
    return ["layer", "blk.", key]


def another_width(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    pairs = (("embedding_length", "hidden_size"), ("feed_forward_length", "intermediate_size"), ("attention.key_length", "head_dim"),
             ("attention.head_count", "num_attention_heads"))  # fmt: skip
    gguf, config = r.choice(pairs)
    key, values = (gguf, tiny.keys) if kind == "gguf" else (config, tiny.text)
    if not isinstance(values.get(key), int) or key == "feed_forward_length" and "moe" in tiny.architecture:
        return None
    if values is tiny.text and "moe" in str(tiny.text.get("model_type")) and key == "intermediate_size":
        return None  # unused where all layers are sparse
    values[key] *= 2
    return ["tensor", key, "attention.value_length", "head size"]


def another_vocabulary(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    if kind == "gguf":
        return None  # it says nothing of it
    if "vocab_size" not in tiny.text:
        return None
    tiny.text["vocab_size"] += r.choice((-1, 64))
    return ["embed_tokens", "vocab"]


def missing_key(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    needed = (("block_count", "num_hidden_layers"), ("embedding_length", "hidden_size"), ("attention.head_count", "num_attention_heads"),
              ("attention.layer_norm_rms_epsilon", "rms_norm_eps"))  # fmt: skip
    gguf, config = r.choice(needed)
    key, values = (gguf, tiny.keys) if kind == "gguf" else (config, tiny.text)
    if key == "embedding_length" and tiny.architecture == "qwen3next":
        return None  # the converter needs it
    del values[key]
    return [key]


def nonsense_under_a_key(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    needed = (("block_count", "num_hidden_layers"), ("embedding_length", "hidden_size"), ("attention.head_count", "num_attention_heads"))
    gguf, config = r.choice(needed)
    key, values = (gguf, tiny.keys) if kind == "gguf" else (config, tiny.text)
    values[key] = r.choice(("many", -3 if kind == "safetensors" else "-3", 0))
    return [key]


def another_family(r: random.Random, tiny: make.Tiny, kind: str) -> list[str] | None:
    """The configuration of another model beside these tensors."""
    if kind == "gguf":
        return None
    tiny.config["architectures"] = ["LlamaForCausalLM"]
    for values in (tiny.config, tiny.text):
        values["model_type"] = "llama"
    return ["llama"]


MISTAKES: tuple[Mistake, ...] = (
    missing_tensor, missing_expert, too_many_experts, more_used_than_there_are, another_shape, transposed, unknown_tensor, bias_beside, not_finite,
    fewer_layers, another_width, another_vocabulary, missing_key, nonsense_under_a_key, another_family,
)  # fmt: skip


def wrong(seed: int) -> tuple[str, str, make.Tiny, str, str, list[str]]:
    """name, kind, the changed model, the right target's name (of a drafter, else ""), the mistake, the words of which the message names one"""
    r = random.Random(seed)
    while True:
        name, kind = r.choice([*TARGETS, *DRAFTERS]), r.choice(("safetensors", "gguf"))
        if name == "orthrus" and kind == "gguf":
            continue
        target, family = DRAFTERS.get(name, ("", TARGETS.get(name)))
        assert family is not None
        tiny, mistake = family(900 + seed % 7), r.choice(MISTAKES)
        try:
            words = mistake(r, tiny, kind)
        except (IndexError, KeyError):
            continue  # nothing in this model to do that to
        if words:
            return name, kind, tiny, target, mistake.__name__, words


def on_disk(tiny: make.Tiny, path: Path, kind: str) -> Path:
    if kind == "safetensors":
        return tiny.safetensors(path)
    return tiny.gguf(path.with_suffix(".gguf"))


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("targets")
    return {(name, kind): on_disk(TARGETS[name](900), folder / name, kind) for name in {t for t, _ in DRAFTERS.values()} for kind in ("safetensors", "gguf")}


@pytest.mark.parametrize("seed", range(110))
def test_a_wrong_file_is_refused_by_name(seed: int, tmp_path: Path, targets: dict[tuple[str, str], Path]) -> None:
    name, kind, tiny, target, mistake, words = wrong(seed)
    path = on_disk(tiny, tmp_path / name, kind)
    with pytest.raises(FileError) as caught:
        skipstone.load(targets[target, kind] if target else path, draft=path if target else "auto", device="cpu", threads=1)
    message = str(caught.value)
    assert any(word in message for word in words), f"{name} {kind} {mistake}: {message!r} names none of {words}"
    assert path.name in message and len(message) < 600


def sharded(folder: Path, tiny: make.Tiny, lost: int | None = None) -> list[str]:
    """In three files with an index, one of them maybe lost; the tensors of that one."""
    import json

    folder.mkdir()
    names = sorted(tiny.tensors)
    files = [f"model-{i + 1:05d}-of-00003.safetensors" for i in range(3)]
    for i, file in enumerate(files):
        part = dataclasses.replace(tiny, tensors={n: tiny.tensors[n] for n in names[i::3]})
        part.safetensors(folder / "part")
        if i != lost:
            shutil.move(folder / "part" / "model.safetensors", folder / file)
    shutil.move(folder / "part" / "config.json", folder / "config.json")
    shutil.rmtree(folder / "part")
    index = {"metadata": {}, "weight_map": {n: files[i] for i in range(3) for n in names[i::3]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return files


@pytest.mark.parametrize("lost", range(3))
def test_a_lost_part_is_named(lost: int, tmp_path: Path) -> None:
    files = sharded(tmp_path / "model", mixtures.qwen3moe(7), lost)
    with pytest.raises(FileError, match=files[lost]):
        skipstone.load(tmp_path / "model", device="cpu")
