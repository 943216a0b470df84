"""Gemma 3, text (Gemma 3 Technical Report, 2025): five sliding-window layers to one global, sandwich norms, norms over q's and k's heads, GeGLU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .blocks import HEAD, TABLE, check_heads, head_size, head_weight, is_tied, mlp, mlp_names, require_activation, rope_frequencies, rope_scaling
from .builder import Builder, Rows
from .keys import LONGEST, MOST_HEADS, MOST_LAYERS, Keys
from .network import MakeProgram, Network, finish
from .unknown import refuse_unknown
from .weights import Layer, MakeWeight, Name, Weights, layer, matrix, no_more_layers, norm

if TYPE_CHECKING:
    from ..files import ModelFile

GGUF = ("gemma3",)
CONFIG = ("gemma3", "gemma3_text")
CLASSES = ("Gemma3ForConditionalGeneration", "Gemma3ForCausalLM")
NORM_OFFSET = 1.0  # safetensors stores every norm as the difference to 1


@dataclass(frozen=True)
class Gemma3:
    layers: int
    sliding: tuple[bool, ...]
    hidden: int
    heads: int
    kv_heads: int
    head: int
    ffn: int
    window: int
    vocabulary: int
    context: int
    eps: float
    query_scale: float
    theta: float
    theta_sliding: float
    rope_factor: float  # positions of the global layers are divided by it
    softcap: float
    tied: bool

    @classmethod
    def read(cls, keys: Keys) -> Gemma3:
        layers = keys.integer("block_count", "num_hidden_layers", most=MOST_LAYERS)
        hidden = keys.integer("embedding_length", "hidden_size")
        heads = keys.integer("attention.head_count", "num_attention_heads", most=MOST_HEADS)
        head = head_size(keys, "attention.key_length", "head_dim")
        new = not keys.gguf and keys.value(None, "rope_parameters") is not None  # how recent config.json files say it
        theta, theta_sliding = (
            ("rope_parameters.full_attention.rope_theta", "rope_parameters.sliding_attention.rope_theta")
            if new
            else ("rope_theta", "rope_local_base_freq")
        )
        p = cls(
            #                           GGUF                                 config.json
            layers=layers,
            sliding=sliding_layers(keys, layers),
            hidden=hidden,
            heads=heads,
            kv_heads=keys.integer("attention.head_count_kv", "num_key_value_heads", most=MOST_HEADS),
            head=head,
            ffn=keys.integer("feed_forward_length", "intermediate_size", most=1 << 24),
            window=keys.integer("attention.sliding_window", "sliding_window", most=LONGEST),
            vocabulary=keys.vocabulary(),
            context=keys.integer("context_length", "max_position_embeddings", most=LONGEST),
            eps=keys.number("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-12, 0.1),
            query_scale=query_scale(keys, layers, hidden, heads, head),
            theta=keys.number("rope.freq_base", theta, 1.0, 1e12, default=1e6),
            theta_sliding=keys.number("rope.freq_base_swa", theta_sliding, 1.0, 1e12, default=1e4),
            rope_factor=rope_scaling(keys, "rope_parameters.full_attention" if new else "rope_scaling"),
            softcap=keys.number("final_logit_softcapping", "final_logit_softcapping", 0.0, 1e6, default=0.0),
            tied=is_tied(keys),
        )
        check_heads(keys, p.heads, p.kv_heads, p.head)
        require_activation(keys, "hidden_activation", "tanh-approximated gelu", ("gelu_pytorch_tanh",))
        if keys.number("attn_logit_softcapping", "attn_logit_softcapping", 0.0, 1e6, default=0.0):
            keys.refuse("a soft cap in attention", "key attn_logit_softcapping")
        if keys.word(None, "rope_parameters.sliding_attention.rope_type", "default") != "default":
            keys.refuse("scaled rotary embeddings in sliding layers", "key rope_parameters.sliding_attention.rope_type")
        if keys.flag(None, "attention_bias", False):
            keys.refuse("attention with biases", "key attention_bias")
        if keys.flag(None, "use_bidirectional_attention", False):
            keys.refuse("an embedding model with attention in both directions", "key use_bidirectional_attention")
        return p

    def names(self) -> Iterator[Name]:
        H, q, kv = self.hidden, self.heads * self.head, self.kv_heads * self.head
        yield matrix(TABLE, "embed_tokens.weight", self.vocabulary, H)
        yield norm("output_norm.weight", "norm.weight", H)
        if not self.tied:
            yield matrix(HEAD, "/lm_head.weight", self.vocabulary, H)
        for i in range(self.layers):
            yield from layer(
                i,
                [
                    #      GGUF                     safetensors                          shape
                    norm("attn_norm.weight", "input_layernorm.weight", H),
                    matrix("attn_q.weight", "self_attn.q_proj.weight", q, H),
                    matrix("attn_k.weight", "self_attn.k_proj.weight", kv, H),
                    matrix("attn_v.weight", "self_attn.v_proj.weight", kv, H),
                    norm("attn_q_norm.weight", "self_attn.q_norm.weight", self.head),
                    norm("attn_k_norm.weight", "self_attn.k_norm.weight", self.head),
                    matrix("attn_output.weight", "self_attn.o_proj.weight", H, q),
                    norm("post_attention_norm.weight", "post_attention_layernorm.weight", H),
                    norm("ffn_norm.weight", "pre_feedforward_layernorm.weight", H),
                    *mlp_names(H, self.ffn),
                    norm("post_ffw_norm.weight", "post_feedforward_layernorm.weight", H),
                ],
            )


def decoder_layer(b: Builder, p: Gemma3, w: Layer, sliding: bool, frequencies: np.ndarray, x: Rows) -> Rows:
    """x (rows, hidden) -> (rows, hidden)"""
    h = b.rms_norm(x, w.attn_norm, p.eps)
    q, k, v = b.matmul(h, w.attn_q, w.attn_k, w.attn_v)
    q = b.rope(b.rms_norm(q, w.attn_q_norm, p.eps), p.head, frequencies)
    k = b.rope(b.rms_norm(k, w.attn_k_norm, p.eps), p.head, frequencies)
    o = b.attention(q, k, v, heads=p.heads, kv_heads=p.kv_heads, head=p.head, scale=p.query_scale, window=p.window if sliding else 0)
    x = b.add(x, b.rms_norm(b.matmul(o, w.attn_output), w.post_attention_norm, p.eps))
    h = mlp(b, w, b.rms_norm(x, w.ffn_norm, p.eps), "gelu_tanh")
    return b.add(x, b.rms_norm(h, w.post_ffw_norm, p.eps))


def build(file: ModelFile, make_weight: MakeWeight | None = None, program: MakeProgram | None = None, taps: tuple[int, ...] = ()) -> Network:
    p = Gemma3.read(Keys(file))
    weights = Weights(file, p.names(), make_weight, NORM_OFFSET)
    no_more_layers(file, p.layers, "block_count" if file.format == "gguf" else "num_hidden_layers")
    refuse_unknown(file, weights, p.layers)
    b = Builder(taps)
    scale = float(np.sqrt(p.hidden))
    frequencies = {False: rope_frequencies(p.theta, p.head, p.rope_factor), True: rope_frequencies(p.theta_sliding, p.head)}
    x = b.embed(weights[TABLE], scale)
    for i, sliding in enumerate(p.sliding):
        b.border()
        x = b.layer_output(i, decoder_layer(b, p, weights.layer(i), sliding, frequencies[sliding], x))
    b.border()
    h = b.rms_norm(x, weights["output_norm.weight"], p.eps)
    b.hidden(h)
    b.head(h, head_weight(weights), p.softcap)
    return finish(file, b, p, "gemma3", weights[TABLE], scale, head_weight(weights), program)


def sliding_layers(keys: Keys, layers: int) -> tuple[bool, ...]:
    """Which layers have a window: as listed, else all but every sixth, or as often as the pattern's one number says."""
    listed = (
        keys.flags("attention.sliding_window_pattern", None, layers) if keys.gguf else keys.layer_types(layers, "sliding_attention", "full_attention")
    )
    if listed is not None:
        return listed
    pattern = keys.integer("attention.sliding_window_pattern", "sliding_window_pattern", most=MOST_LAYERS, default=6)
    return tuple((i + 1) % pattern != 0 for i in range(layers))


def query_scale(keys: Keys, layers: int, hidden: int, heads: int, head: int) -> float:
    """query_pre_attn_scalar^-0.5. GGUF has no key for it: the head size, but for the 27B, which its 62 layers tell apart, hidden size over heads."""
    if keys.gguf:
        return float((hidden / heads if layers == 62 else head) ** -0.5)
    return float(keys.number(None, "query_pre_attn_scalar", 1e-3, 1e6, default=float(head)) ** -0.5)
