"""The shapes of released models: the keys and tensors that their GGUF files have.

A shape is one entry of SHAPES, made by its family's function from the numbers of the model's config.json. Tensors are (name, shape), shapes as numpy has
them, (rows, columns) or (experts, rows, columns).
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Tensors = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Shape:
    """architecture: general.architecture. keys: its keys without that prefix. tensors: all of a file's."""

    architecture: str
    keys: dict[str, Any]
    tensors: tuple[tuple[str, tuple[int, ...]], ...]


def _table(vocabulary: int, hidden: int, tied: bool) -> Tensors:
    yield "token_embd.weight", (vocabulary, hidden)
    yield "output_norm.weight", (hidden,)
    if not tied:
        yield "output.weight", (vocabulary, hidden)


def _norms(at: str, **sizes: int) -> Tensors:
    for name, size in sizes.items():
        yield f"{at}{name}.weight", (size,)


def _mlp(at: str, hidden: int, ffn: int, suffix: str = "") -> Tensors:
    yield f"{at}ffn_gate{suffix}.weight", (ffn, hidden)
    yield f"{at}ffn_up{suffix}.weight", (ffn, hidden)
    yield f"{at}ffn_down{suffix}.weight", (hidden, ffn)


def _experts(at: str, hidden: int, experts: int, ffn: int, shared: int) -> Tensors:
    """A router, the experts as three tensors and, where shared > 0, the expert that every token passes."""
    yield f"{at}ffn_gate_inp.weight", (experts, hidden)
    for name, shape in _mlp(at, hidden, ffn, "_exps"):
        yield name, (experts, *shape)
    if shared:
        yield f"{at}ffn_gate_inp_shexp.weight", (hidden,)
        yield from _mlp(at, hidden, shared, "_shexp")


def _projections(at: str, hidden: int, q: int, k: int, output: int, values: bool = True) -> Tensors:
    yield f"{at}attn_q.weight", (q, hidden)
    yield f"{at}attn_k.weight", (k, hidden)
    if values:
        yield f"{at}attn_v.weight", (k, hidden)
    yield f"{at}attn_output.weight", (hidden, output)


def _common(layers: int, hidden: int, heads: int, kv_heads: int | list[int], head: int, theta: float, context: int) -> dict[str, Any]:
    return {"block_count": layers, "embedding_length": hidden, "context_length": context, "attention.head_count": heads, "attention.head_count_kv": kv_heads,
            "attention.key_length": head, "attention.value_length": head, "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": theta}


def _expert_keys(experts: int, used: int, ffn: int, shared: int) -> dict[str, Any]:
    keys = {"expert_count": experts, "expert_used_count": used, "expert_feed_forward_length": ffn}
    return {**keys, "expert_shared_feed_forward_length": shared} if shared else keys


def qwen3(layers: int, hidden: int, heads: int, kv_heads: int, ffn: int = 0, tied: bool = False, theta: float = 1e6, context: int = 40960,
          experts: int = 0, used: int = 0, expert_ffn: int = 0) -> Shape:
    """Dense, or with experts > 0 a mixture (qwen3moe)."""
    keys = _common(layers, hidden, heads, kv_heads, 128, theta, context)
    keys |= _expert_keys(experts, used, expert_ffn, 0) if experts else {"feed_forward_length": ffn}

    def tensors() -> Tensors:
        yield from _table(151936, hidden, tied)
        for i in range(layers):
            at = f"blk.{i}."
            yield from _norms(at, attn_norm=hidden, ffn_norm=hidden, attn_q_norm=128, attn_k_norm=128)
            yield from _projections(at, hidden, heads * 128, kv_heads * 128, heads * 128)
            yield from _experts(at, hidden, experts, expert_ffn, 0) if experts else _mlp(at, hidden, ffn)

    return Shape("qwen3moe" if experts else "qwen3", keys, tuple(tensors()))


def qwen35(layers: int, hidden: int, heads: int, kv_heads: int, value_heads: int, ffn: int = 0, tied: bool = False,
           experts: int = 0, used: int = 0, expert_ffn: int = 0) -> Shape:
    """Qwen3.5 and 3.6 with their MTP head; with experts > 0 a mixture with one shared expert (qwen35moe)."""
    head, key_heads, wide, kernel = 256, 16, 128, 4
    values = value_heads * wide
    channels = 2 * key_heads * wide + values
    keys = _common(layers + 1, hidden, heads, kv_heads, head, 1e7, 262144)
    keys |= {"nextn_predict_layers": 1, "full_attention_interval": 4, "rope.dimension_count": 64, "rope.dimension_sections": [11, 11, 10, 0],
             "ssm.conv_kernel": kernel, "ssm.state_size": wide, "ssm.group_count": key_heads, "ssm.time_step_rank": value_heads, "ssm.inner_size": values}
    keys |= _expert_keys(experts, used, expert_ffn, expert_ffn) if experts else {"feed_forward_length": ffn}

    def attention(at: str) -> Tensors:
        yield from _projections(at, hidden, 2 * heads * head, kv_heads * head, heads * head)      # queries with their gates
        yield from _norms(at, attn_q_norm=head, attn_k_norm=head)

    def delta_net(at: str) -> Tensors:
        yield f"{at}attn_qkv.weight", (channels, hidden)
        yield f"{at}attn_gate.weight", (values, hidden)
        yield f"{at}ssm_conv1d.weight", (channels, kernel)
        yield f"{at}ssm_alpha.weight", (value_heads, hidden)
        yield f"{at}ssm_beta.weight", (value_heads, hidden)
        yield f"{at}ssm_dt.bias", (value_heads,)
        yield f"{at}ssm_a", (value_heads,)
        yield f"{at}ssm_norm.weight", (wide,)
        yield f"{at}ssm_out.weight", (hidden, values)

    def tensors() -> Tensors:
        yield from _table(248320, hidden, tied)
        for i in range(layers + 1):                                   # the last is the MTP head's
            at = f"blk.{i}."
            yield from _norms(at, attn_norm=hidden, post_attention_norm=hidden)
            yield from attention(at) if i % 4 == 3 or i == layers else delta_net(at)
            yield from _experts(at, hidden, experts, expert_ffn, expert_ffn) if experts else _mlp(at, hidden, ffn)
        yield f"blk.{layers}.nextn.eh_proj.weight", (hidden, 2 * hidden)
        yield from _norms(f"blk.{layers}.nextn.", enorm=hidden, hnorm=hidden, shared_head_norm=hidden)

    return Shape("qwen35moe" if experts else "qwen35", keys, tuple(tensors()))


def gemma3(layers: int, hidden: int, heads: int, kv_heads: int, head: int, ffn: int, window: int, context: int = 131072, scaling: float = 8.0) -> Shape:
    """scaling: the factor that positions in global layers are divided by."""
    keys = {**_common(layers, hidden, heads, kv_heads, head, 1e6, context), "feed_forward_length": ffn, "attention.sliding_window": window}
    if scaling != 1:
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": scaling}

    def tensors() -> Tensors:
        yield from _table(262144, hidden, True)
        for i in range(layers):
            at = f"blk.{i}."
            yield from _norms(at, attn_norm=hidden, post_attention_norm=hidden, ffn_norm=hidden, post_ffw_norm=hidden, attn_q_norm=head, attn_k_norm=head)
            yield from _projections(at, hidden, heads * head, kv_heads * head, heads * head)
            yield from _mlp(at, hidden, ffn)

    return Shape("gemma3", keys, tuple(tensors()))


def gemma4(layers: int, hidden: int, heads: int, kv_heads: int, global_kv_heads: int, ffn: int, window: int = 1024, context: int = 262144,
           every: int = 6, backbone: int = 0, experts: int = 0, used: int = 0, expert_ffn: int = 0) -> Shape:
    """One global layer in `every`, whose keys are values; experts > 0: with a mixture beside the feed-forward block; backbone > 0: the assistant of a
    target of that width, without keys of its own."""
    sliding = [(i + 1) % every != 0 for i in range(layers)]
    kv = [kv_heads if s else global_kv_heads for s in sliding]
    keys = _common(layers, hidden, heads, kv, 512, 1e6, context)
    keys |= {"feed_forward_length": ffn, "attention.key_length_swa": 256, "attention.value_length_swa": 256, "attention.sliding_window": window,
             "attention.sliding_window_pattern": sliding, "rope.freq_base_swa": 1e4, "rope.dimension_count": 512, "rope.dimension_count_swa": 256}
    keys |= {"embedding_length_out": backbone, "nextn_predict_layers": layers, "attention.shared_kv_layers": layers} if backbone else {"final_logit_softcapping": 30.0}
    keys |= _expert_keys(experts, used, expert_ffn, 0) if experts else {}

    def tensors() -> Tensors:
        yield from _table(262144, hidden, True)
        yield "rope_freqs.weight", (256,)
        if backbone:
            yield "nextn.pre_projection.weight", (hidden, 2 * backbone)
            yield "nextn.post_projection.weight", (backbone, hidden)
        for i in range(layers):
            at, head = f"blk.{i}.", 256 if sliding[i] else 512
            yield from _norms(at, attn_norm=hidden, post_attention_norm=hidden, ffn_norm=hidden, post_ffw_norm=hidden, attn_q_norm=head, layer_output_scale=1)
            if backbone:
                yield f"{at}attn_q.weight", (heads * head, hidden)
                yield f"{at}attn_output.weight", (hidden, heads * head)
            else:
                yield from _norms(at, attn_k_norm=head)
                yield from _projections(at, hidden, heads * head, kv[i] * head, heads * head, values=sliding[i])
            yield from _mlp(at, hidden, ffn)
            if experts:
                yield from _norms(at, pre_ffw_norm_2=hidden, post_ffw_norm_1=hidden, post_ffw_norm_2=hidden)
                yield f"{at}ffn_gate_inp.weight", (experts, hidden)
                yield f"{at}ffn_gate_inp.scale", (hidden,)
                yield f"{at}ffn_gate_up_exps.weight", (experts, 2 * expert_ffn, hidden)
                yield f"{at}ffn_down_exps.weight", (experts, hidden, expert_ffn)
                yield f"{at}ffn_down_exps.scale", (experts,)

    return Shape("gemma4-assistant" if backbone else "gemma4", keys, tuple(tensors()))


# From the models' configurations. NAME-assistant is the drafter that load(draft="auto") takes for NAME.
SHAPES = {
    "qwen3-0.6b": qwen3(28, 1024, 16, 8, 3072, tied=True),
    "qwen3-1.7b": qwen3(28, 2048, 16, 8, 6144, tied=True),
    "qwen3-4b": qwen3(36, 2560, 32, 8, 9728, tied=True),
    "qwen3-8b": qwen3(36, 4096, 32, 8, 12288),
    "qwen3-14b": qwen3(40, 5120, 40, 8, 17408),
    "qwen3-32b": qwen3(64, 5120, 64, 8, 25600),
    "qwen3-30b-a3b": qwen3(48, 2048, 32, 4, experts=128, used=8, expert_ffn=768),
    "qwen3.5-0.8b": qwen35(24, 1024, 8, 2, 16, 3584, tied=True),
    "qwen3.5-2b": qwen35(24, 2048, 8, 2, 16, 6144, tied=True),
    "qwen3.5-4b": qwen35(32, 2560, 16, 4, 32, 9216, tied=True),
    "qwen3.5-9b": qwen35(32, 4096, 16, 4, 32, 12288),
    "qwen3.5-27b": qwen35(64, 5120, 24, 4, 48, 17408),
    "qwen3.5-35b-a3b": qwen35(40, 2048, 16, 2, 32, experts=256, used=8, expert_ffn=512),
    "gemma3-270m": gemma3(18, 640, 4, 1, 256, 2048, 512, context=32768, scaling=1.0),
    "gemma3-1b": gemma3(26, 1152, 4, 1, 256, 6912, 512, context=32768, scaling=1.0),
    "gemma3-4b": gemma3(34, 2560, 8, 4, 256, 10240, 1024),
    "gemma3-12b": gemma3(48, 3840, 16, 8, 256, 15360, 1024),
    "gemma3-27b": gemma3(62, 5376, 32, 16, 128, 21504, 1024),
    "gemma4-12b": gemma4(48, 3840, 16, 8, 1, 15360),
    "gemma4-12b-assistant": gemma4(4, 1024, 16, 8, 1, 8192, every=4, backbone=3840),
    "gemma4-26b-a4b": gemma4(30, 2816, 16, 8, 2, 2112, experts=128, used=8, expert_ffn=704),
    "gemma4-26b-a4b-assistant": gemma4(4, 1024, 16, 8, 2, 8192, every=4, backbone=2816),
    "gemma4-31b": gemma4(60, 5376, 32, 16, 4, 21504),
    "gemma4-31b-assistant": gemma4(4, 1024, 32, 16, 4, 8192, every=4, backbone=5376),
}
