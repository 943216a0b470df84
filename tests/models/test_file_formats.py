"""One model, many ways to write it down: GGUF and safetensors, old and new configurations, other prefixes. The logits must be the same."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import make
import mixtures
import numpy as np
import pytest
from runs import Run, rounding, written

from skipstone import ModelError

TOKENS = (np.arange(60) ** 2 * 41 + 7) % make.VOCABULARY


def logits(tiny: make.Tiny, folder: Path, kind: str = "safetensors", type: str = "F32") -> np.ndarray:
    return Run(written(tiny, folder, kind, type)).logits(TOKENS)[0]


@pytest.mark.parametrize("type", ["F32", "BF16"])
@pytest.mark.parametrize(
    "tiny",
    [
        make.qwen3(31),
        make.qwen3(32, tied=True),
        make.gemma3(33, query_scale=None),
        make.gemma4(34),
        make.gemma4(35, keys_are_values=False),
        make.gemma4e(35),
        make.gemma4e(35, tied=False),
        make.qwen35(36, 2, 2),
    ],
    ids=["qwen3", "qwen3_tied", "gemma3", "gemma4", "gemma4_values", "gemma4e", "gemma4e_untied", "qwen35_1"],
)
def test_gguf_gives_the_same_bits(tiny: make.Tiny, type: str, tmp_path: Path) -> None:
    """In BF16 the vectors are rounded in safetensors and not in GGUF; so all weights are rounded first."""
    if type == "BF16":
        tiny = copy.deepcopy(tiny)
        tiny.tensors = {n: (a.view(np.uint32) & 0xFFFF0000).view(np.float32) for n, a in tiny.tensors.items()}
    assert logits(tiny, tmp_path, "gguf", type).tobytes() == logits(tiny, tmp_path, "safetensors", type).tobytes()


@pytest.mark.parametrize("heads", [(2, 4), (2, 6), (2, 8), (1, 4), (4, 4)])
def test_value_heads_dealt_out(heads: tuple[int, int], tmp_path: Path) -> None:
    """GGUF holds the value heads in another order, which only changes the order of one sum."""
    tiny = make.qwen35(37, *heads)
    safetensors, gguf = (written(tiny, tmp_path, kind) for kind in ("safetensors", "gguf"))
    bound = rounding(safetensors, TOKENS, None, 3, 3)
    assert np.abs(Run(safetensors).logits(TOKENS)[0] - Run(gguf).logits(TOKENS)[0]).max() <= bound
    (one, chain), (other, same) = (Run(file).drafts(TOKENS, 3, 3) for file in (safetensors, gguf))
    assert np.abs(one - other).max() <= bound and chain == same


def change(at: Callable[[make.Tiny], Any]) -> Callable[[make.Tiny], make.Tiny]:
    def changed(tiny: make.Tiny) -> make.Tiny:
        tiny = copy.deepcopy(tiny)
        at(tiny)
        return tiny

    return changed


def renamed(tiny: make.Tiny, old: str, new: str) -> None:
    tiny.tensors = {n.replace(old, new, 1) if n.startswith(old) else n: a for n, a in tiny.tensors.items()}


def flat(tiny: make.Tiny, model_type: str, cls: str) -> None:
    tiny.config = {**tiny.text, "model_type": model_type, "architectures": [cls]}


def old_gemma3(tiny: make.Tiny) -> None:
    rope = tiny.text.pop("rope_parameters")
    tiny.text.update(
        rope_theta=rope["full_attention"]["rope_theta"],
        rope_local_base_freq=rope["sliding_attention"]["rope_theta"],
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        sliding_window_pattern=6,
    )
    del tiny.text["layer_types"]


def re_saved_gemma4(tiny: make.Tiny) -> None:
    d, kv = tiny.text.pop("global_head_dim"), tiny.text.pop("num_global_key_value_heads")
    other = {"head_dim": d, **({"num_key_value_heads": kv} if kv else {})}
    tiny.text["per_layer_config"] = {
        str(i): other for i, t in enumerate(tiny.text["layer_types"]) if t == "full_attention"
    }


def unused_keys(tiny: make.Tiny) -> None:
    """As in released files: the layers that share have projections of their own, which were never trained."""
    for i in range(3, 7):
        d = 32 if i == 6 else 16
        for part in ("k_proj", "v_proj"):
            tiny.matrix(f"model.language_model.layers.{i}.self_attn.{part}.weight", f"blk.{i}.attn_{part[0]}.weight", 2 * d, 64)
        tiny.norm(f"model.language_model.layers.{i}.self_attn.k_norm.weight", f"blk.{i}.attn_k_norm.weight", d)


SAME = {
    "gemma3 text only": (make.gemma3, change(lambda t: (flat(t, "gemma3_text", "Gemma3ForCausalLM"), renamed(t, "language_model.", "")))),
    "gemma3 old configuration": (make.gemma3, change(old_gemma3)),
    "gemma3 duplicate head": (make.gemma3, change(lambda t: t.matrix("lm_head.weight", "", make.VOCABULARY, 64))),
    "gemma4 text only": (make.gemma4, change(lambda t: (flat(t, "gemma4_text", "Gemma4ForCausalLM"), renamed(t, "model.language_model.", "model.")))),
    "gemma4 without prefix": (make.gemma4, change(lambda t: renamed(t, "model.language_model.", ""))),
    "gemma4 re-saved": (make.gemma4, change(re_saved_gemma4)),
    "gemma4 last layer said to slide": (make.gemma4, change(lambda t: t.text["layer_types"].__setitem__(-1, "sliding_attention"))),
    "gemma4 by its class": (make.gemma4, change(lambda t: t.config.update(model_type="gemma4_variant"))),
    "gemma4 bidirectional for images": (make.gemma4, change(lambda t: t.text.update(use_bidirectional_attention="vision"))),
    "gemma4 vision tensors": (make.gemma4, change(lambda t: t.matrix("model.vision_tower.encoder.weight", "", 8, 8))),
    "gemma4e re-saved": (make.gemma4e, change(re_saved_gemma4)),
    "gemma4e keys and values that nothing reads": (make.gemma4e, change(lambda t: unused_keys(t))),
    "gemma4e sound and vision tensors": (make.gemma4e, change(lambda t: t.matrix("model.audio_tower.layers.0.weight", "", 8, 8))),
    "qwen3 old configuration": (
        make.qwen3,
        change(lambda t: t.text.update(rope_theta=t.text.pop("rope_parameters")["rope_theta"], rope_scaling=None)),
    ),
    "qwen35 text only": (
        make.qwen35,
        change(lambda t: (flat(t, "qwen3_5_text", "Qwen3_5ForCausalLM"), renamed(t, "model.language_model.", "model."))),
    ),
    "qwen35 partial factor at the top": (
        make.qwen35,
        change(lambda t: t.text.update(partial_rotary_factor=t.text["rope_parameters"].pop("partial_rotary_factor"))),
    ),
    "qwen35 without head": (make.qwen35, change(lambda t: t.text.update(mtp_num_hidden_layers=0))),
    "qwen35 head under model.": (make.qwen35, change(lambda t: renamed(t, "mtp.", "model.mtp."))),
}


@pytest.mark.parametrize("name", SAME)
def test_configurations(name: str, tmp_path: Path) -> None:
    family, changed = SAME[name]
    tiny = family(38)
    assert logits(changed(tiny), tmp_path / "changed").tobytes() == logits(tiny, tmp_path / "plain").tobytes()


def test_mtp_head_names(tmp_path: Path) -> None:
    tiny = make.qwen35(39)
    other = copy.deepcopy(tiny)
    renamed(other, "mtp.", "model.mtp.")
    runs = [Run(written(t, tmp_path / str(i), "safetensors")) for i, t in enumerate((tiny, other))]
    assert runs[0].drafts(TOKENS, 3, 3)[0].tobytes() == runs[1].drafts(TOKENS, 3, 3)[0].tobytes()


def test_layers_by_interval(tmp_path: Path) -> None:
    """Without a list every full_attention_interval-th layer is attention, in both formats; in GGUF the MTP block does not count."""
    tiny = make.qwen35(40)
    for kind in ("safetensors", "gguf"):
        file = written(tiny, tmp_path, kind)
        if kind == "safetensors":
            file.config["text_config"].pop("layer_types")
            file.config["text_config"]["full_attention_interval"] = 3
        else:
            file.metadata.pop("qwen35.attention.recurrent_layers")
            file.metadata["qwen35.full_attention_interval"] = 3
        with pytest.raises(Exception, match=r"(blk|layers)\.4"):  # attention in layers 2 and 5 alone: layer 4 is said to be a delta-net
            Run(file)


def test_missing_rope_freqs(tmp_path: Path) -> None:
    """Early GGUF files lack the divisors; then a quarter of a global head's pairs turn all the same."""
    tiny = make.gemma4(41)
    want = logits(tiny, tmp_path, "gguf")
    tiny.extra.clear()
    tiny.seed = 42  # for another file name
    assert logits(tiny, tmp_path, "gguf").tobytes() == want.tobytes()


def test_gemma3_query_scale_of_62_layers(tmp_path: Path) -> None:
    """GGUF does not hold it; the 27B's is told by its number of layers."""
    from skipstone.models.gemma3 import Gemma3
    from skipstone.models.keys import Keys

    file = written(make.gemma3(43), tmp_path, "gguf")
    assert Gemma3.read(Keys(file)).query_scale == 24**-0.5
    file.metadata["gemma3.block_count"] = 62
    assert Gemma3.read(Keys(file)).query_scale == (64 / 4) ** -0.5
    file.metadata["gemma3.attention.sliding_window_pattern"] = 3
    assert Gemma3.read(Keys(file)).sliding == tuple(i % 3 != 2 for i in range(62))


def test_companion_file(tmp_path: Path) -> None:
    """An MTP head in a file of its own drafts as the same head in the model's file, and shares the model's table and output matrix."""
    tiny = make.qwen35(44, tied=False)
    file = written(tiny, tmp_path, "gguf")
    head = {n: t for n, t in file.tensors.items() if n.startswith("blk.5.") or not n.startswith("blk.")}
    companion = dataclasses.replace(file, tensors=head)
    trunk = dataclasses.replace(file, tensors={n: t for n, t in file.tensors.items() if not n.startswith("blk.5.")})
    assert Run(trunk).drafter is None
    whole, paired = Run(file), Run(trunk, companion)
    assert paired.drafts(TOKENS, 3, 3)[0].tobytes() == whole.drafts(TOKENS, 3, 3)[0].tobytes()
    weights = [op["weight"] for op in paired.drafter.spec["ops"] if op["kind"] in ("embed", "head")]
    assert weights[0] is paired.network.embedding and weights[1] is paired.network.head
    assert paired.network.embedding is not paired.network.head


def test_mtp_head_with_its_own_matrices(tmp_path: Path) -> None:
    """nextn.embed_tokens and nextn.shared_head_head take the place of the model's; a missing shared_head_norm that of output_norm."""
    tiny = make.qwen35(45)
    file = written(tiny, tmp_path, "gguf")
    shared = Run(file).drafts(TOKENS, 3, 1)[0]
    table, norm = file.tensors["token_embd.weight"], "blk.5.nextn.shared_head_norm.weight"
    for name in ("embed_tokens", "shared_head_head"):
        same = dataclasses.replace(file, tensors={**file.tensors, f"blk.5.nextn.{name}.weight": table})
        assert Run(same).drafts(TOKENS, 3, 1)[0].tobytes() == shared.tobytes()
        other = dataclasses.replace(
            table, data=np.ascontiguousarray(table.data.view(np.float32).reshape(table.shape)[::-1]).view(np.uint8).reshape(-1)
        )
        differs = dataclasses.replace(file, tensors={**file.tensors, f"blk.5.nextn.{name}.weight": other})
        assert np.abs(Run(differs).drafts(TOKENS, 3, 1)[0] - shared).max() > 0.1
    alone = dataclasses.replace(file, tensors={n: t for n, t in file.tensors.items() if n != norm})
    final = dataclasses.replace(file, tensors={**file.tensors, norm: file.tensors["output_norm.weight"]})
    assert Run(alone).drafts(TOKENS, 3, 1)[0].tobytes() == Run(final).drafts(TOKENS, 3, 1)[0].tobytes()


def test_ordered_embeddings(tmp_path: Path) -> None:
    """Candidates have the logits of a dense head, bit for bit, and there are 3 clusters of 10 of them. The dense head is what a GGUF file without
    centroids means; one with them gives what safetensors give."""
    target = written(make.gemma4e(46), tmp_path, "safetensors")
    tiny = make.gemma4_assistant(47, keys_are_values=False, ordered=True)
    sparse = Run(target, written(tiny, tmp_path, "safetensors")).drafts(TOKENS, 3, 1)[0]
    assert Run(target, written(tiny, tmp_path, "gguf")).drafts(TOKENS, 3, 1)[0].tobytes() == sparse.tobytes()
    dense = make.gemma4_assistant(47, keys_are_values=False)
    for kind in ("safetensors", "gguf"):
        rows = Run(target, written(dense, tmp_path / "dense", kind)).drafts(TOKENS, 3, 1)[0]
        assert np.isfinite(sparse).sum() == 30 and np.array_equal(rows[np.isfinite(sparse)], sparse[np.isfinite(sparse)])


def test_unified_assistant(tmp_path: Path) -> None:
    target = written(make.gemma4(48, unified=True), tmp_path, "safetensors")
    plain, unified = make.gemma4_assistant(49), make.gemma4_assistant(49)
    unified.config.update(model_type="gemma4_unified_assistant", architectures=["Gemma4UnifiedAssistantForCausalLM"])
    results = [Run(target, written(t, tmp_path / str(i), "safetensors")).drafts(TOKENS, 3, 3)[0] for i, t in enumerate((plain, unified))]
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize("name", ["qwen3", "qwen35", "gemma4", "qwen3next"])
def test_factors_of_matrices(name: str, tmp_path: Path) -> None:
    """A factor beside a matrix, as NVFP4 files have it: as if the matrix were multiplied by it."""
    tiny = {**make.FAMILIES, **mixtures.MIXTURES}[name](26)
    plain = Run(file := written(tiny, tmp_path, "gguf")).logits(TOKENS)[0]
    beside, inside = dict(file.tensors), dict(file.tensors)
    for i, (tensor_name, tensor) in enumerate(file.tensors.items()):
        if len(tensor.shape) != 2 or "conv1d" in tensor_name or "ffn_gate_inp" in tensor_name:
            continue
        factor = np.array([(0.5, 2.0, 1.0)[i % 3]], np.float32)
        inside[tensor_name] = dataclasses.replace(tensor, data=(tensor.data.view(np.float32) * factor).view(np.uint8))
        other = tensor_name.replace(".weight", ".scale")
        beside[other] = dataclasses.replace(tensor, name=other, shape=(1,), data=factor.view(np.uint8))
    one, two = (Run(dataclasses.replace(file, tensors=t)) for t in (inside, beside))
    assert np.abs(one.logits(TOKENS)[0] - two.logits(TOKENS)[0]).max() <= rounding(file, TOKENS) < np.abs(one.logits(TOKENS)[0] - plain).max()
    if one.drafter:
        assert np.abs(one.drafts(TOKENS, 5, 2)[0] - two.drafts(TOKENS, 5, 2)[0]).max() <= rounding(file, TOKENS, None, 5, 2)
    key = next(n for n in beside if n.endswith("attn_output.scale"))
    for change in ({"shape": (2,)}, {"type": "F16", "data": np.zeros(2, np.uint8)}, {"data": np.array([np.nan], np.float32).view(np.uint8)}):
        with pytest.raises(ModelError, match=key.replace(".", "[.]")):
            Run(dataclasses.replace(file, tensors={**beside, key: dataclasses.replace(beside[key], **change)}))
