"""Qwen3, dense and with experts (Qwen3 Technical Report, 2025): pre-norm blocks, grouped attention with norms over each head of q and k, SwiGLU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .blocks import (
    HEAD,
    TABLE,
    check_heads,
    head_size,
    head_weight,
    is_tied,
    mlp_names,
    require_activation,
    rope_frequencies,
    rope_object,
    rope_scaling,
    rope_theta,
)
from .builder import Builder, Rows
from .keys import LONGEST, MOST_HEADS, MOST_LAYERS, Keys
from .mixture import Mixture, feed_forward, has_mixture, sparse_layers
from .network import MakeProgram, Network, finish
from .unknown import refuse_unknown
from .weights import Layer, MakeWeight, Name, Weights, layer, matrix, no_more_layers, norm

if TYPE_CHECKING:
    from ..files import ModelFile

GGUF = ("qwen3", "qwen3moe")
CONFIG = ("qwen3", "qwen3_moe", "orthrus")  # Orthrus adds a second set of attention weights for its drafter, *_diff
CLASSES = ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "OrthrusLM")
SECOND = "_proj_diff.weight"


@dataclass(frozen=True)
class Qwen3:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    ffn: int
    mixtures: tuple[Mixture | None, ...]  # by layer, None where it is dense
    vocabulary: int
    context: int
    eps: float
    theta: float
    rope_factor: float
    tied: bool
    second: bool  # Orthrus' attention weights stand beside the model's

    @classmethod
    def read(cls, keys: Keys) -> Qwen3:
        layers = keys.integer("block_count", "num_hidden_layers", most=MOST_LAYERS)
        hidden = keys.integer("embedding_length", "hidden_size")
        heads = keys.integer("attention.head_count", "num_attention_heads", most=MOST_HEADS)
        moe = has_mixture(keys, ("qwen3moe", "qwen3_moe"))
        mixture = Mixture.read(keys, shared=False, normalize=False) if moe else None
        mixtures = tuple(mixture if sparse else None for sparse in sparse_layers(keys, layers))
        p = cls(
            #                           GGUF                                 config.json
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=keys.integer("attention.head_count_kv", "num_key_value_heads", most=MOST_HEADS),
            head=head_size(keys, "attention.key_length", "head_dim", default=max(8, hidden // heads) if moe else None),
            ffn=keys.integer("feed_forward_length", "intermediate_size", most=1 << 24, default=None if None in mixtures else 0),
            mixtures=mixtures,
            context=keys.integer("context_length", "max_position_embeddings", most=LONGEST),
            eps=keys.number("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-12, 0.1),
            theta=rope_theta(keys),
            rope_factor=rope_scaling(keys, rope_object(keys)),
            vocabulary=keys.vocabulary(),
            tied=is_tied(keys),
            second=not keys.gguf and any(name.endswith(SECOND) for name in keys.file.tensors),
        )
        require_activation(keys, "hidden_act", "silu", ("silu", "swish"))
        if keys.flag(None, "attention_bias", False):
            keys.refuse("attention with biases", "key attention_bias")
        if keys.flag(None, "use_sliding_window", False):
            keys.refuse("sliding windows in Qwen3", "key use_sliding_window")
        check_heads(keys, p.heads, p.kv_heads, p.head)
        rotated = keys.integer("rope.dimension_count", None, default=p.head)
        if rotated != p.head:
            keys.fail(keys.name("rope.dimension_count", None), rotated, f"the head size {p.head}")
        return p

    def names(self) -> Iterator[Name]:
        yield matrix(TABLE, "embed_tokens.weight", self.vocabulary, self.hidden)
        yield norm("output_norm.weight", "norm.weight", self.hidden)
        if not self.tied:
            yield matrix(HEAD, "/lm_head.weight", self.vocabulary, self.hidden)
        q, kv = self.heads * self.head, self.kv_heads * self.head
        for i, m in enumerate(self.mixtures):
            yield from layer(
                i,
                [
                    #      GGUF                     safetensors                          shape
                    norm("attn_norm.weight", "input_layernorm.weight", self.hidden),
                    matrix("attn_q.weight", "self_attn.q_proj.weight", q, self.hidden),
                    matrix("attn_k.weight", "self_attn.k_proj.weight", kv, self.hidden),
                    matrix("attn_v.weight", "self_attn.v_proj.weight", kv, self.hidden),
                    norm("attn_q_norm.weight", "self_attn.q_norm.weight", self.head),
                    norm("attn_k_norm.weight", "self_attn.k_norm.weight", self.head),
                    matrix("attn_output.weight", "self_attn.o_proj.weight", self.hidden, q),
                    norm("ffn_norm.weight", "post_attention_layernorm.weight", self.hidden),
                    *(mlp_names(self.hidden, self.ffn) if m is None else [*m.router_names(self.hidden), *m.names(self.hidden)]),
                    *(self.second_names() if self.second else ()),
                ],
            )

    def second_names(self) -> list[Name]:
        q, kv = self.heads * self.head, self.kv_heads * self.head
        return [
            matrix("attn_q_diff.weight", "self_attn.q_proj_diff.weight", q, self.hidden),
            matrix("attn_k_diff.weight", "self_attn.k_proj_diff.weight", kv, self.hidden),
            matrix("attn_v_diff.weight", "self_attn.v_proj_diff.weight", kv, self.hidden),
            norm("attn_q_norm_diff.weight", "self_attn.q_norm_diff.weight", self.head),
            norm("attn_k_norm_diff.weight", "self_attn.k_norm_diff.weight", self.head),
            matrix("attn_output_diff.weight", "self_attn.o_proj_diff.weight", self.hidden, q),
        ]


def decoder_layer(b: Builder, p: Qwen3, w: Layer, m: Mixture | None, frequencies: np.ndarray, x: Rows) -> Rows:
    """x (rows, hidden) -> (rows, hidden)"""
    h = b.rms_norm(x, w.attn_norm, p.eps)
    q, k, v = b.matmul(h, w.attn_q, w.attn_k, w.attn_v)
    q = b.rope(b.rms_norm(q, w.attn_q_norm, p.eps), p.head, frequencies)  # norms over each head
    k = b.rope(b.rms_norm(k, w.attn_k_norm, p.eps), p.head, frequencies)
    o = b.attention(q, k, v, heads=p.heads, kv_heads=p.kv_heads, head=p.head, scale=p.head**-0.5)
    x = b.add(x, b.matmul(o, w.attn_output))
    return b.add(x, feed_forward(b, w, m, b.rms_norm(x, w.ffn_norm, p.eps), "silu"))


def build(file: ModelFile, make_weight: MakeWeight | None = None, program: MakeProgram | None = None, taps: tuple[int, ...] = ()) -> Network:
    p = Qwen3.read(Keys(file))
    weights = Weights(file, p.names(), make_weight)
    no_more_layers(file, p.layers, "block_count" if file.format == "gguf" else "num_hidden_layers")
    refuse_unknown(file, weights, p.layers)
    b, frequencies = Builder(taps), rope_frequencies(p.theta, p.head, p.rope_factor)
    x = b.embed(weights[TABLE])
    for i, m in enumerate(p.mixtures):
        b.border()
        x = b.layer_output(i, decoder_layer(b, p, weights.layer(i), m, frequencies, x))
    b.border()
    h = b.rms_norm(x, weights["output_norm.weight"], p.eps)
    b.hidden(h)
    b.head(h, head_weight(weights))
    return replace(finish(file, b, p, "qwen3", weights[TABLE], 1.0, head_weight(weights), program), weights=weights if p.second else None)
