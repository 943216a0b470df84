"""Nothing in a file is read in vain: every hyper-parameter and every tensor changes the logits."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import make
import numpy as np
import pytest
from runs import FORMATS, Run, distance, rounding, written

from skipstone.files import ModelFile

TOKENS = (np.arange(60) ** 2 * 43 + 5) % make.VOCABULARY

FULL, SLIDING = "rope_parameters.full_attention.", "rope_parameters.sliding_attention."

# family -> other values of keys in config.json's language part; what changes a shape is in test_wrong_files
CONFIG: dict[str, dict[str, Any]] = {
    "qwen3": {
        "rms_norm_eps": 1e-2,
        "rope_parameters.rope_theta": 900.0,
        "num_attention_heads/head_dim": (2, 48),
        "rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 5000.0},
    },
    "qwen35": {"rms_norm_eps": 1e-2, "rope_parameters.rope_theta": 900.0, "rope_parameters.partial_rotary_factor": 0.5},
    "gemma3": {
        "rms_norm_eps": 1e-2,
        "query_pre_attn_scalar": 24,
        "sliding_window": 15,
        FULL + "rope_theta": 900.0,
        SLIDING + "rope_theta": 900.0,
        FULL + "factor": 4.0,
        "layer_types": ["sliding_attention"] * 7,
        "final_logit_softcapping": 5.0,
    },
    "gemma4": {
        "rms_norm_eps": 1e-2,
        "sliding_window": 17,
        FULL + "rope_theta": 900.0,
        SLIDING + "rope_theta": 900.0,
        FULL + "partial_rotary_factor": 0.5,
        "final_logit_softcapping": 6.0,
    },
}
CONFIG["gemma4e"] = CONFIG["gemma4"]
KEYS: dict[str, dict[str, Any]] = {
    "qwen3": {"attention.layer_norm_rms_epsilon": 1e-2, "rope.freq_base": 900.0},
    "qwen35": {"attention.layer_norm_rms_epsilon": 1e-2, "rope.freq_base": 900.0, "rope.dimension_count": 16},
    "gemma3": {
        "attention.layer_norm_rms_epsilon": 1e-2,
        "attention.sliding_window": 17,
        "rope.freq_base": 900.0,
        "rope.freq_base_swa": 900.0,
        "rope.scaling.factor": 4.0,
        "rope.scaling.type": "none",
        "attention.sliding_window_pattern": 3,
        "final_logit_softcapping": 5.0,
    },
    "gemma4": {
        "attention.layer_norm_rms_epsilon": 1e-2,
        "attention.sliding_window": 15,
        "rope.freq_base": 900.0,
        "rope.freq_base_swa": 900.0,
        "final_logit_softcapping": 6.0,
    },
}
KEYS["gemma4e"] = KEYS["gemma4"]


def with_key(file: ModelFile, key: str, value: Any) -> ModelFile:
    """The same file with another value under a key of its language part."""
    if file.format == "gguf":
        return dataclasses.replace(file, metadata={**file.metadata, f"{file.architecture}.{key}": value})
    config = copy.deepcopy(file.config)
    at = config.get("text_config", config)
    *path, last = key.split(".")
    for part in path:
        at = at[part]
    at[last] = value
    return dataclasses.replace(file, config=config)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("family", make.FAMILIES)
def test_hyper_parameters(family: str, kind: str, tmp_path: Path) -> None:
    file = written(make.FAMILIES[family](51), tmp_path, kind)
    plain, bound = Run(file).logits(TOKENS)[0], rounding(file, TOKENS)
    ignored = []
    for key, value in (CONFIG if kind == "safetensors" else KEYS)[family].items():
        changed = with_key(file, key, value) if "/" not in key else file
        for one, other in zip(key.split("/"), value) if "/" in key else ():
            changed = with_key(changed, one, other)
        if "head_dim" in key:  # the same matrices cut into other heads: the norms of a head must fit
            norms = {
                n: dataclasses.replace(t, shape=(48,), data=np.tile(t.data, 2))
                for n, t in file.tensors.items()
                if "_norm.weight" in n and "self_attn" in n
            }
            changed = with_key(dataclasses.replace(changed, tensors={**file.tensors, **norms}), "num_key_value_heads", 1)
        if np.abs(Run(changed).logits(TOKENS)[0] - plain).max() <= 10 * bound:
            ignored.append(key)
    assert not ignored


def test_the_sliding_layers_matter(tmp_path: Path) -> None:
    """Which of two layers slides, where their heads have one shape."""
    tiny = make.gemma4(52, keys_are_values=False)
    tiny.text.update(global_head_dim=16)
    d = tiny.text["head_dim"]
    for name, array in tiny.tensors.items():
        if ".layers.2." in name or ".layers.6." in name:
            shape = {"q_proj": (4 * d, 64), "k_proj": (2 * d, 64), "v_proj": (2 * d, 64), "o_proj": (64, 4 * d), "q_norm": (d,), "k_norm": (d,)}.get(
                name.split(".")[-2]
            )
            if shape:
                tiny.tensors[name] = make.values(name, 1, shape, 1.0 if len(shape) == 1 else 0.0, 0.2)
    file = written(tiny, tmp_path, "safetensors")
    types = tiny.text["layer_types"]
    other = with_key(file, "layer_types", [types[2], *types[1:2], types[0], *types[3:]])
    assert np.abs(Run(file).logits(TOKENS)[0] - Run(other).logits(TOKENS)[0]).max() > 10 * rounding(file, TOKENS)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("family", make.FAMILIES)
def test_tensors(family: str, kind: str, tmp_path: Path) -> None:
    """Each tensor in turn gets other values."""
    drafts = family in ("gemma4", "gemma4e", "qwen35")
    file = written(make.FAMILIES[family](53), tmp_path, kind)
    e = family == "gemma4e"
    drafter = written(make.gemma4_assistant(54, keys_are_values=not e, ordered=e), tmp_path, kind) if "gemma4" in family else None
    plain = Run(file, drafter)
    logits, bound = plain.logits(TOKENS)[0], rounding(file, TOKENS, drafter, 3, 2 if drafts else 0)
    rows = plain.drafts(TOKENS, 3, 2)[0] if drafts else None
    ignored = []
    for source in (file, drafter) if drafter else (file,):
        for name, tensor in source.tensors.items():
            if "order" in name:
                noise = tensor.data.view(np.int64)[::-1] ^ 1
            elif name == "rope_freqs.weight":
                noise = np.linspace(1.0, 3.0, tensor.shape[0], dtype=np.float32)
            else:
                old = tensor.data.view(np.float32)
                noise = old + make.values(name, 1, (len(old),), 0.0, 0.3 * max(float(old.std()), 0.1))
            other = dataclasses.replace(
                source, tensors={**source.tensors, name: dataclasses.replace(tensor, data=noise.astype(noise.dtype if "order" in name else np.float32).view(np.uint8))}
            )
            run = Run(other, drafter) if source is file else Run(file, other)
            head = source is drafter or "mtp." in name or "nextn." in name or name.startswith("blk.5.") and family == "qwen35"
            change = distance(run.drafts(TOKENS, 3, 2)[0], rows) if head else np.abs(run.logits(TOKENS)[0] - logits).max()
            if change <= 10 * bound:
                ignored.append(name)
    # The last layer's scale meets the final norm, which takes it out again.
    last = [n for i in (2, 6) for n in (f"layers.{i}.layer_scalar", f"blk.{i}.layer_output_scale.weight") if "gemma4" in family]
    assert not [n for n in ignored if not n.endswith(tuple(last))]


def test_heads_of_a_delta_net_read_their_key(tmp_path: Path) -> None:
    """The two orders of value heads are not the same where a key head serves several."""
    file = written(make.qwen35(55, 2, 4), tmp_path, "safetensors")
    network = Run(file).network
    orders = [op["key_of_value"] for op in network.spec["ops"] if op["kind"] == "delta_net"]
    assert orders == [[0, 0, 1, 1]] * 3
    dealt = Run(written(make.qwen35(55, 2, 4), tmp_path, "gguf")).network
    assert [op["key_of_value"] for op in dealt.spec["ops"] if op["kind"] == "delta_net"] == [[0, 1, 0, 1]] * 3
