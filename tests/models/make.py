"""Tiny models of every family, as safetensors folders and as GGUF files.

A weight follows from its tensor's name and the seed alone, on every machine, so the golden files of tests/data need no weights.
Names, shapes and conversions stand here a second time, written from the formats' descriptions and not from skipstone.models.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

VOCABULARY = 160


def values(name: str, seed: int, shape: tuple[int, ...], mean: float = 0.0, spread: float = 1.0) -> np.ndarray:
    """float32, uniform around `mean` with standard deviation `spread`."""
    count = int(np.prod(shape))
    bits = np.frombuffer(hashlib.shake_128(f"{seed}:{name}".encode()).digest(4 * count), "<u4")
    return (mean + spread * np.sqrt(3) * (bits.astype(np.float64) / 2**31 - 1)).astype(np.float32).reshape(shape)


@dataclass
class Tiny:
    """config: config.json. keys: GGUF metadata, without the architecture's prefix. tensors: as safetensors has them. names: from there to GGUF."""

    config: dict[str, Any]
    architecture: str
    keys: dict[str, Any]
    seed: int
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    norm_offset: float = 0.0  # what the converter adds to norms
    deal: tuple[int, int, int] | None = (1, 1, 1)  # key heads, value heads, head: of a delta-net, whose value heads the converter deals out, or leaves
    fused: bool = False  # the converter leaves gate and up of experts in one tensor
    joined: bool = False  # and the projections of a delta-net's key head together
    extra: dict[str, np.ndarray] = field(default_factory=dict)  # tensors of the GGUF file alone

    @property
    def text(self) -> dict[str, Any]:
        """The part of config.json that describes the language model."""
        return self.config.get("text_config", self.config)

    def matrix(self, name: str, gguf_name: str, rows: int, columns: int, gain: float = 1.0) -> None:
        self._add(name, gguf_name, values(name, self.seed, (rows, columns), 0.0, gain * columns**-0.5))

    def norm(self, name: str, gguf_name: str, length: int) -> None:
        self._add(name, gguf_name, values(name, self.seed, (length,), 1.0 - self.norm_offset, 0.25))

    def vector(self, name: str, gguf_name: str, shape: tuple[int, ...], mean: float, spread: float) -> None:
        self._add(name, gguf_name, values(name, self.seed, shape, mean, spread))

    def _add(self, name: str, gguf_name: str, array: np.ndarray) -> None:
        self.tensors[name], self.names[name] = array, gguf_name

    def safetensors(self, folder: Path, dtype: str = "F32") -> Path:
        """Writes config.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config, indent=1))
        header, blobs, at = {}, [], 0
        for name, array in self.tensors.items():
            blob = array.tobytes() if array.dtype == np.int64 else {"F32": array, "F16": array.astype(np.float16), "BF16": gguf.quantize(array, gguf.GGMLQuantizationType.BF16)}[dtype].tobytes()
            header[name] = {"dtype": "I64" if array.dtype == np.int64 else dtype, "shape": list(array.shape), "data_offsets": [at, at + len(blob)]}
            blobs.append(blob)
            at += len(blob)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
        return folder

    def gguf(self, path: Path, type: str = "F32") -> Path:
        """Writes a GGUF file with all matrices in `type`."""
        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in self.keys.items():
            key = key if key.startswith("tokenizer.") else f"{self.architecture}.{key}"
            if isinstance(value, list):
                writer.add_array(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            elif isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            else:
                writer.add_uint32(key, value)
        writer.add_string("tokenizer.ggml.model", "no_vocab")
        for name, array in self.converted().items():
            if array.ndim > 1 and "conv1d" not in name and "ffn_gate_inp" not in name and type != "F32":
                kind = gguf.GGMLQuantizationType[type]
                writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def converted(self) -> dict[str, np.ndarray]:
        """The tensors as the public converter writes them to GGUF."""
        made = dict(self.extra)
        for name, array in self.tensors.items():
            if not self.names[name]:  # not in GGUF
                continue
            if name.endswith("norm.weight") and "linear_attn" not in name or "pre_fc_norm" in name:
                array = array + np.float32(self.norm_offset)
            if name.endswith("A_log"):
                array = -np.exp(array)
            if name.endswith("conv1d.weight"):
                array = array[:, 0]
            made[self.names[name]] = self._dealt(name, array)
        return self._split(made)

    def _split(self, made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Per-expert matrices become one tensor, fused ones two, and so do joined projections."""
        for name in [n for n in made if n.endswith("#0")]:
            stem = name.removesuffix("0")
            made[name.removesuffix("#0")] = np.stack([made.pop(n) for n in [n for n in made if n.startswith(stem)]])
        for name in [n for n in made if "ffn_gate_up_exps" in n and not self.fused]:
            both = made.pop(name)
            for part, array in zip(("gate", "up"), np.split(both, 2, axis=1)):
                made[name.replace("gate_up", part)] = np.ascontiguousarray(array)
        for name in [n for n in made if "ssm_in" in n and not self.joined]:
            nk, nv, d = (self.keys["ssm." + k] for k in ("group_count", "time_step_rank", "state_size"))
            heads = made.pop(name).reshape(nk, -1, self.keys["embedding_length"])
            q, k, v, z = np.split(heads, [d, 2 * d, 2 * d + nv // nk * d], axis=1)
            made[name.replace("ssm_in", "attn_qkv")] = np.concatenate([part.reshape(-1, heads.shape[2]) for part in (q, k, v)])
            made[name.replace("ssm_in", "attn_gate")] = z.reshape(-1, heads.shape[2])
        return made

    def _dealt(self, name: str, array: np.ndarray) -> np.ndarray:
        """Value head kh * r + j of safetensors becomes head j * key_heads + kh."""
        if self.deal is None or "linear_attn" not in name or name.endswith("norm.weight"):
            return array
        nk, nv, d = self.deal
        order = np.arange(nv).reshape(nk, nv // nk).T.reshape(-1)
        wide = (order[:, None] * d + np.arange(d)).reshape(-1)
        if name.endswith(("in_proj_qkv.weight", "conv1d.weight")):
            return np.concatenate([array[: 2 * nk * d], array[2 * nk * d :][wide]])
        if name.endswith("out_proj.weight"):
            return array[:, wide]
        return array[wide if name.endswith("in_proj_z.weight") else order]


def qwen3(seed: int = 0, tied: bool = False, orthrus: bool = False) -> Tiny:
    H, F, heads, kv, d, layers = 64, 96, 4, 2, 24, 3
    made = Tiny(
        {
            "architectures": ["OrthrusLM" if orthrus else "Qwen3ForCausalLM"],
            "model_type": "orthrus" if orthrus else "qwen3",
            "vocab_size": VOCABULARY,
            "hidden_size": H,
            "intermediate_size": F,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "head_dim": d,
            "hidden_act": "silu",
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": tied,
            "attention_bias": False,
            "use_sliding_window": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
            **({"block_size": 6, "mask_token_id": 7} if orthrus else {}),
        },
        "qwen3",
        {
            "block_count": layers,
            "context_length": 512,
            "embedding_length": H,
            "feed_forward_length": F,
            "attention.head_count": heads,
            "attention.head_count_kv": kv,
            "attention.key_length": d,
            "attention.value_length": d,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.freq_base": 5000.0,
        },
        seed,
    )
    made.matrix("model.embed_tokens.weight", "token_embd.weight", VOCABULARY, H, 4.0)
    made.norm("model.norm.weight", "output_norm.weight", H)
    if not tied:
        made.matrix("lm_head.weight", "output.weight", VOCABULARY, H, 2.0)
    for i in range(layers):
        hf, to = f"model.layers.{i}.", f"blk.{i}."
        made.norm(hf + "input_layernorm.weight", to + "attn_norm.weight", H)
        made.norm(hf + "post_attention_layernorm.weight", to + "ffn_norm.weight", H)
        attention(made, hf, to, H, heads * d, kv * d, d)
        mlp(made, hf, to, H, F)
        if orthrus:
            for part, rows in (("q", heads * d), ("k", kv * d), ("v", kv * d)):
                made.matrix(hf + f"self_attn.{part}_proj_diff.weight", "", rows, H)
            made.matrix(hf + "self_attn.o_proj_diff.weight", "", H, heads * d)
            for part in ("q", "k"):
                made.norm(hf + f"self_attn.{part}_norm_diff.weight", "", d)
    return made


def qwen35(seed: int = 0, key_heads: int = 2, value_heads: int = 4, tied: bool = True, mtp: int = 1) -> Tiny:
    H, F, heads, kv, d, layers, dd, kernel = 64, 96, 4, 2, 32, 5, 16, 4
    made = Tiny(
        {
            "architectures": ["Qwen3_5ForConditionalGeneration"],
            "model_type": "qwen3_5",
            "tie_word_embeddings": tied,
            "text_config": {
                "model_type": "qwen3_5_text",
                "vocab_size": VOCABULARY,
                "hidden_size": H,
                "intermediate_size": F,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "num_key_value_heads": kv,
                "head_dim": d,
                "linear_conv_kernel_dim": kernel,
                "linear_key_head_dim": dd,
                "linear_value_head_dim": dd,
                "linear_num_key_heads": key_heads,
                "linear_num_value_heads": value_heads,
                "max_position_embeddings": 512,
                "tie_word_embeddings": tied,
                "rms_norm_eps": 1e-5,
                "hidden_act": "silu",
                "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention", "full_attention"],
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 5000.0,
                    "partial_rotary_factor": 0.25,
                    "mrope_section": [2, 1, 1],
                    "mrope_interleaved": True,
                },
                "attn_output_gate": True,
                "attention_bias": False,
                "mtp_num_hidden_layers": mtp,
            },
        },
        "qwen35",
        {
            "block_count": layers + mtp,
            "nextn_predict_layers": mtp,
            "context_length": 512,
            "embedding_length": H,
            "feed_forward_length": F,
            "attention.head_count": heads,
            "attention.head_count_kv": kv,
            "attention.key_length": d,
            "attention.value_length": d,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.freq_base": 5000.0,
            "rope.dimension_count": d // 4,
            "rope.dimension_sections": [2, 1, 1, 0],
            "ssm.conv_kernel": kernel,
            "ssm.state_size": dd,
            "ssm.group_count": key_heads,
            "ssm.time_step_rank": value_heads,
            "ssm.inner_size": value_heads * dd,
            "attention.recurrent_layers": [True, True, False, True, False] + [False] * mtp,
        },
        seed,
        norm_offset=1.0,
        deal=(key_heads, value_heads, dd),
    )
    made.matrix("model.language_model.embed_tokens.weight", "token_embd.weight", VOCABULARY, H, 4.0)
    made.norm("model.language_model.norm.weight", "output_norm.weight", H)
    if not tied:
        made.matrix("lm_head.weight", "output.weight", VOCABULARY, H, 2.0)
    for i, kind in enumerate(made.text["layer_types"]):
        hf, to = f"model.language_model.layers.{i}.", f"blk.{i}."
        if kind == "full_attention":
            attention(made, hf, to, H, heads * d, kv * d, d, gated=True)
        else:
            C = (2 * key_heads + value_heads) * dd
            made.matrix(hf + "linear_attn.in_proj_qkv.weight", to + "attn_qkv.weight", C, H)
            made.matrix(hf + "linear_attn.in_proj_z.weight", to + "attn_gate.weight", value_heads * dd, H)
            made.matrix(hf + "linear_attn.in_proj_a.weight", to + "ssm_alpha.weight", value_heads, H)
            made.matrix(hf + "linear_attn.in_proj_b.weight", to + "ssm_beta.weight", value_heads, H)
            made.vector(hf + "linear_attn.conv1d.weight", to + "ssm_conv1d.weight", (C, 1, kernel), 0.1, 0.5)
            made.vector(hf + "linear_attn.A_log", to + "ssm_a", (value_heads,), -1.0, 1.0)
            made.vector(hf + "linear_attn.dt_bias", to + "ssm_dt.bias", (value_heads,), 0.0, 1.0)
            made.vector(hf + "linear_attn.norm.weight", to + "ssm_norm.weight", (dd,), 1.0, 0.25)
            made.matrix(hf + "linear_attn.out_proj.weight", to + "ssm_out.weight", H, value_heads * dd)
        qwen35_block(made, hf, to, H, F)
    for i in range(mtp):
        hf, to = f"mtp.layers.{i}.", f"blk.{layers + i}."
        made.matrix("mtp.fc.weight", to + "nextn.eh_proj.weight", H, 2 * H)
        made.norm("mtp.pre_fc_norm_embedding.weight", to + "nextn.enorm.weight", H)
        made.norm("mtp.pre_fc_norm_hidden.weight", to + "nextn.hnorm.weight", H)
        made.norm("mtp.norm.weight", to + "nextn.shared_head_norm.weight", H)
        attention(made, hf, to, H, heads * d, kv * d, d, gated=True)
        qwen35_block(made, hf, to, H, F)
    return made


def gemma3(seed: int = 0, query_scale: int | None = 20) -> Tiny:
    """query_scale None: the head size, which is what a GGUF file of so few layers stands for."""
    H, F, heads, kv, d, layers, window = 64, 96, 4, 2, 24, 7, 16
    made = Tiny(
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "text_config": {
                "model_type": "gemma3_text",
                "vocab_size": VOCABULARY,
                "hidden_size": H,
                "intermediate_size": F,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "num_key_value_heads": kv,
                "head_dim": d,
                "hidden_activation": "gelu_pytorch_tanh",
                "max_position_embeddings": 512,
                "rms_norm_eps": 1e-5,
                "query_pre_attn_scalar": query_scale or d,
                "sliding_window": window,
                "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 20000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 3000.0},
                },
                "final_logit_softcapping": None,
                "attn_logit_softcapping": None,
                "tie_word_embeddings": True,
            },
        },
        "gemma3",
        {
            "block_count": layers,
            "context_length": 512,
            "embedding_length": H,
            "feed_forward_length": F,
            "attention.head_count": heads,
            "attention.head_count_kv": kv,
            "attention.key_length": d,
            "attention.value_length": d,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "attention.sliding_window": window,
            "rope.freq_base": 20000.0,
            "rope.freq_base_swa": 3000.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
        seed,
        norm_offset=1.0,
    )
    made.matrix("language_model.model.embed_tokens.weight", "token_embd.weight", VOCABULARY, H, 2.0)
    made.norm("language_model.model.norm.weight", "output_norm.weight", H)
    for i in range(layers):
        hf, to = f"language_model.model.layers.{i}.", f"blk.{i}."
        gemma_norms(made, hf, to, H)
        attention(made, hf, to, H, heads * d, kv * d, d)
        mlp(made, hf, to, H, F)
    return made


GEMMA4 = {"heads": 4, "kv": 2, "kv_global": 1, "d": 16, "d_global": 32, "window": 16}


def gemma4(seed: int = 0, keys_are_values: bool = True, unified: bool = False) -> Tiny:
    H, F, layers = 64, 96, 7
    types = ["sliding_attention"] * 2 + ["full_attention"] + ["sliding_attention"] * 3 + ["full_attention"]
    prefix = "Gemma4Unified" if unified else "Gemma4"
    made = Tiny(
        {
            "architectures": [prefix + "ForConditionalGeneration"],
            "model_type": "gemma4_unified" if unified else "gemma4",
            "tie_word_embeddings": True,
            "text_config": {**gemma4_config(H, F, types, keys_are_values), "final_logit_softcapping": 5.0},
        },
        "gemma4",
        {**gemma4_keys(H, F, types, keys_are_values), "final_logit_softcapping": 5.0, "attention.shared_kv_layers": 0},
        seed,
    )
    made.text["model_type"] = "gemma4_unified_text" if unified else "gemma4_text"
    made.matrix("model.language_model.embed_tokens.weight", "token_embd.weight", VOCABULARY, H, 2.0)
    made.norm("model.language_model.norm.weight", "output_norm.weight", H)
    for i, kind in enumerate(types):
        gemma4_layer(
            made,
            f"model.language_model.layers.{i}.",
            f"blk.{i}.",
            H,
            F,
            kind,
            own_keys=True,
            own_values=not (keys_are_values and kind == "full_attention"),
        )
    made.extra["rope_freqs.weight"] = rope_divisors()
    return made


def gemma4e(seed: int = 0, tied: bool = True) -> Tiny:
    """Like E2B: per-layer embeddings; the last four layers share what layers 1 and 2 store, and are twice as wide."""
    H, F, P, shared = 64, 96, 32, 4
    types = ["sliding_attention"] * 2 + ["full_attention"] + ["sliding_attention"] * 3 + ["full_attention"]
    layers = len(types)
    made = Tiny(
        {
            "architectures": ["Gemma4ForConditionalGeneration"],
            "model_type": "gemma4",
            "tie_word_embeddings": tied,
            "text_config": {
                **gemma4_config(H, F, types, keys_are_values=False),
                "tie_word_embeddings": tied,
                "final_logit_softcapping": 5.0,
                "hidden_size_per_layer_input": P,
                "vocab_size_per_layer_input": VOCABULARY,
                "num_kv_shared_layers": shared,
                "use_double_wide_mlp": True,
            },
        },
        "gemma4",
        {
            **gemma4_keys(H, F, types, keys_are_values=False),
            "final_logit_softcapping": 5.0,
            "attention.shared_kv_layers": shared,
            "embedding_length_per_layer_input": P,
            "feed_forward_length": [F] * (layers - shared) + [2 * F] * shared,
        },
        seed,
    )
    hf = "model.language_model."
    made.matrix(hf + "embed_tokens.weight", "token_embd.weight", VOCABULARY, H, 2.0)
    made.norm(hf + "norm.weight", "output_norm.weight", H)
    if not tied:
        made.matrix("lm_head.weight", "output.weight", VOCABULARY, H, 2.0)
    made.matrix(hf + "embed_tokens_per_layer.weight", "per_layer_token_embd.weight", VOCABULARY, layers * P, 3.0)
    made.matrix(hf + "per_layer_model_projection.weight", "per_layer_model_proj.weight", layers * P, H)
    made.norm(hf + "per_layer_projection_norm.weight", "per_layer_proj_norm.weight", P)
    for i, kind in enumerate(types):
        at, to, own = f"{hf}layers.{i}.", f"blk.{i}.", i < layers - shared
        gemma4_layer(made, at, to, H, F if own else 2 * F, kind, own_keys=own, own_values=True)
        made.matrix(at + "per_layer_input_gate.weight", to + "inp_gate.weight", P, H)
        made.matrix(at + "per_layer_projection.weight", to + "proj.weight", H, P)
        made.norm(at + "post_per_layer_input_norm.weight", to + "post_norm.weight", H)
    made.extra["rope_freqs.weight"] = rope_divisors()
    return made


def gemma4_assistant(seed: int = 0, keys_are_values: bool = True, ordered: bool = False, backbone: int = 64) -> Tiny:
    """ordered: a head of 16 clusters, of which 3 are open."""
    H, F = 32, 64
    types = ["sliding_attention"] * 2 + ["full_attention"]
    made = Tiny(
        {
            "architectures": ["Gemma4AssistantForCausalLM"],
            "model_type": "gemma4_assistant",
            "backbone_hidden_size": backbone,
            "use_ordered_embeddings": ordered,
            "num_centroids": 16,
            "centroid_intermediate_top_k": 3,
            "tie_word_embeddings": True,
            "text_config": {**gemma4_config(H, F, types, keys_are_values), "num_kv_shared_layers": len(types)},
        },
        "gemma4-assistant",
        {
            **gemma4_keys(H, F, types, keys_are_values),
            "attention.shared_kv_layers": len(types),
            "embedding_length_out": backbone,
            "nextn_predict_layers": len(types),
            **({"centroid_top_k": 3} if ordered else {}),
        },
        seed,
    )
    if ordered:
        made.matrix("masked_embedding.centroids.weight", "masked_embd_centroids.weight", 16, H)
        order = np.argsort(values("masked_embedding.token_ordering", seed, (VOCABULARY,)))
        made._add("masked_embedding.token_ordering", "masked_embd_ordering", order.astype(np.int64))
    made.matrix("model.embed_tokens.weight", "token_embd.weight", VOCABULARY, H, 2.0)
    made.norm("model.norm.weight", "output_norm.weight", H)
    made.matrix("pre_projection.weight", "nextn.pre_projection.weight", H, 2 * backbone)
    made.matrix("post_projection.weight", "nextn.post_projection.weight", backbone, H)
    for i, kind in enumerate(types):
        gemma4_layer(made, f"model.layers.{i}.", f"blk.{i}.", H, F, kind, own_keys=False, own_values=False)
    made.extra["rope_freqs.weight"] = rope_divisors()
    return made


def dflash(seed: int = 0, second: bool = False, causal: bool | None = None, softcap: float = 0.0, taps: tuple[int, ...] = (1, 0)) -> Tiny:
    """A drafter for targets of width 64. second: DFlash2. The reference has no raw output of the last layer (2), so nothing taps it."""
    H, F, heads, kv, d, layers, rank, group = 64, 96, 4, 2, 24, 3, 24, 16
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    own: dict[str, Any] = {"mask_token_id": 5, "target_layer_ids": list(taps)}
    keys: dict[str, Any] = {}
    if softcap:
        own["final_logit_softcapping"] = keys["final_logit_softcapping"] = softcap
    if second:
        more = {"conv_kernel_size": 2, "conv_group_size": group, "selector_rank": rank, "selector_top_k": 9}
        own, keys = {**own, **more}, {**keys, **more}
    if causal is not None:
        keys["attention.causal"] = causal
    made = Tiny(
        {
            "architectures": ["DFlash2DraftModel" if second else "DFlashDraftModel"],
            "model_type": "qwen3",
            "block_size": 7,
            "dflash_config": own,
            "num_target_layers": 3,
            "vocab_size": VOCABULARY,
            "hidden_size": H,
            "intermediate_size": F,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "head_dim": d,
            "hidden_act": "silu",
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "attention_bias": False,
            "layer_types": types,
            "max_window_layers": layers,
            "use_sliding_window": True,
            "sliding_window": 5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
            **({} if causal is None else {"is_causal": causal}),
        },
        "dflash",
        {
            "block_count": layers,
            "context_length": 512,
            "embedding_length": H,
            "feed_forward_length": F,
            "attention.head_count": heads,
            "attention.head_count_kv": kv,
            "attention.key_length": d,
            "attention.value_length": d,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "attention.sliding_window": 5,
            "attention.sliding_window_pattern": [t == "sliding_attention" for t in types],
            "rope.freq_base": 5000.0,
            "block_size": 7,
            "target_layers": [i + 1 for i in taps],
            "tokenizer.ggml.mask_token_id": 5,
            **keys,
        },
        seed,
    )
    made.matrix("fc.weight", "fc.weight", H, len(taps) * H)
    made.norm("hidden_norm.weight", "enc.output_norm.weight", H)
    made.norm("norm.weight", "output_norm.weight", H)
    for i in range(layers):
        hf, to = f"layers.{i}.", f"blk.{i}."
        made.norm(hf + "input_layernorm.weight", to + "attn_norm.weight", H)
        made.norm(hf + "post_attention_layernorm.weight", to + "ffn_norm.weight", H)
        attention(made, hf, to, H, heads * d, kv * d, d)
        mlp(made, hf, to, H, F)
        for name, short in (("attention_conv", "attn_conv"), ("mlp_conv", "ffn_conv")) if second else ():
            made.vector(hf + name + ".base_kernel", to + short + "_base", (2, 2, H), 0.5, 0.4)
            made.matrix(hf + name + ".kernel_projection.weight", to + short + "_proj.weight", 4 * H // group, H, 0.5)
    if second:
        made.matrix("candidate_selector.predecessor_codebook", "selector_predecessor.weight", VOCABULARY, rank, 3.0)
        made.matrix("candidate_selector.successor_codebook", "selector_successor.weight", VOCABULARY, rank, 3.0)
        made.matrix("candidate_selector.hidden_projection.weight", "selector_hidden.weight", rank, H, 2.0)
    return made


def gemma4_config(H: int, F: int, types: list[str], keys_are_values: bool) -> dict[str, Any]:
    g = GEMMA4
    return {
        "model_type": "gemma4_text",
        "vocab_size": VOCABULARY,
        "hidden_size": H,
        "intermediate_size": F,
        "num_hidden_layers": len(types),
        "num_attention_heads": g["heads"],
        "num_key_value_heads": g["kv"],
        "head_dim": g["d"],
        "global_head_dim": g["d_global"],
        "num_global_key_value_heads": g["kv_global"] if keys_are_values else None,
        "attention_k_eq_v": keys_are_values,
        "sliding_window": g["window"],
        "layer_types": types,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
        "use_double_wide_mlp": False,
        "enable_moe_block": False,
        "num_experts": None,
        "use_bidirectional_attention": None,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 3000.0},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 20000.0},
        },
    }


def gemma4_keys(H: int, F: int, types: list[str], keys_are_values: bool) -> dict[str, Any]:
    g = GEMMA4
    sliding = [t == "sliding_attention" for t in types]
    return {
        "block_count": len(types),
        "context_length": 512,
        "embedding_length": H,
        "feed_forward_length": F,
        "attention.head_count": g["heads"],
        "attention.head_count_kv": [g["kv"] if s or not keys_are_values else g["kv_global"] for s in sliding],
        "attention.key_length": g["d_global"],
        "attention.value_length": g["d_global"],
        "attention.key_length_swa": g["d"],
        "attention.value_length_swa": g["d"],
        "attention.sliding_window": g["window"],
        "attention.sliding_window_pattern": sliding,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 20000.0,
        "rope.freq_base_swa": 3000.0,
        "rope.dimension_count": g["d_global"],
        "rope.dimension_count_swa": g["d"],
        "embedding_length_per_layer_input": 0,
    }


def gemma4_layer(made: Tiny, hf: str, to: str, H: int, F: int, kind: str, own_keys: bool, own_values: bool) -> None:
    g = GEMMA4
    d = g["d"] if kind == "sliding_attention" else g["d_global"]
    kv = g["kv"] if kind == "sliding_attention" or own_values else g["kv_global"]
    gemma_norms(made, hf, to, H)
    made.vector(hf + "layer_scalar", to + "layer_output_scale.weight", (1,), 0.85, 0.14)
    attention(made, hf, to, H, g["heads"] * d, kv * d, d, own_keys=own_keys, own_values=own_values)
    mlp(made, hf, to, H, F)


def rope_divisors() -> np.ndarray:
    half = GEMMA4["d_global"] // 2
    return np.array([1.0] * (half // 4) + [1e30] * (half - half // 4), np.float32)


def gemma_norms(made: Tiny, hf: str, to: str, H: int) -> None:
    made.norm(hf + "input_layernorm.weight", to + "attn_norm.weight", H)
    made.norm(hf + "post_attention_layernorm.weight", to + "post_attention_norm.weight", H)
    made.norm(hf + "pre_feedforward_layernorm.weight", to + "ffn_norm.weight", H)
    made.norm(hf + "post_feedforward_layernorm.weight", to + "post_ffw_norm.weight", H)


def qwen35_block(made: Tiny, hf: str, to: str, H: int, F: int) -> None:
    made.norm(hf + "input_layernorm.weight", to + "attn_norm.weight", H)
    made.norm(hf + "post_attention_layernorm.weight", to + "post_attention_norm.weight", H)
    mlp(made, hf, to, H, F)


def attention(
    made: Tiny, hf: str, to: str, H: int, q: int, kv: int, d: int, gated: bool = False, own_keys: bool = True, own_values: bool = True
) -> None:
    made.matrix(hf + "self_attn.q_proj.weight", to + "attn_q.weight", 2 * q if gated else q, H)
    made.norm(hf + "self_attn.q_norm.weight", to + "attn_q_norm.weight", d)
    if own_keys:
        made.matrix(hf + "self_attn.k_proj.weight", to + "attn_k.weight", kv, H)
        made.norm(hf + "self_attn.k_norm.weight", to + "attn_k_norm.weight", d)
        if own_values:
            made.matrix(hf + "self_attn.v_proj.weight", to + "attn_v.weight", kv, H)
    made.matrix(hf + "self_attn.o_proj.weight", to + "attn_output.weight", H, q)


def mlp(made: Tiny, hf: str, to: str, H: int, F: int) -> None:
    made.matrix(hf + "mlp.gate_proj.weight", to + "ffn_gate.weight", F, H)
    made.matrix(hf + "mlp.up_proj.weight", to + "ffn_up.weight", F, H)
    made.matrix(hf + "mlp.down_proj.weight", to + "ffn_down.weight", H, F)


FAMILIES = {"qwen3": qwen3, "qwen35": qwen35, "gemma3": gemma3, "gemma4": gemma4, "gemma4e": gemma4e}
