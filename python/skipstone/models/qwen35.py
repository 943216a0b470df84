"""Qwen3-Next, Qwen3.5 and 3.6, dense and with experts: three gated delta-net layers, then one of gated attention, in turn (Yang et al., "Gated Delta
Networks", 2024).

Value heads: a key head serves r = value_heads / key_heads of them. safetensors keeps those r together (value head h reads key head h // r), the GGUF
converter deals them out in turn (h mod key_heads), but not those of Qwen3-Next. Nothing is permuted here: `key_of_value` says which rule the file follows.
Qwen3-Next keeps the projections of one key head together, in one matrix for q, k, v, z and one for b, a; their rows are put in order when they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
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
from .builder import LARGEST_HEAD, Builder, Rows
from .keys import LONGEST, MOST_HEADS, MOST_LAYERS, Keys
from .mixture import Mixture, feed_forward, has_mixture, sparse_layers
from .network import MakeProgram, Network, finish
from .unknown import refuse_unknown
from .weights import Layer, MakeWeight, Name, Weights, gathered, layer, matrix, no_more_layers, norm, vector

if TYPE_CHECKING:
    from ..files import ModelFile

GGUF = ("qwen35", "qwen35moe", "qwen3next")
CONFIG = ("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next")
CLASSES = (
    "Qwen3_5ForConditionalGeneration",
    "Qwen3_5ForCausalLM",
    "Qwen3_5MoeForConditionalGeneration",
    "Qwen3_5MoeForCausalLM",
    "Qwen3NextForCausalLM",
)
MOE = ("qwen35moe", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3next", "qwen3_next")
NEXT = ("qwen3next", "qwen3_next")
NORM_OFFSET = 1.0  # safetensors stores norms as the difference to 1, but not linear_attn.norm


@dataclass(frozen=True)
class Qwen35:
    layers: int
    mtp_layers: int
    recurrent: tuple[bool, ...]  # a layer is a delta-net, else attention
    hidden: int
    heads: int
    kv_heads: int
    head: int
    rotated: int
    ffn: int
    mixture: Mixture | None
    sparse: tuple[bool, ...]  # a layer has the mixture, else a dense block
    key_heads: int
    value_heads: int
    delta_head: int
    kernel: int
    vocabulary: int
    context: int
    eps: float
    theta: float
    rope_factor: float
    tied: bool
    grouped: bool  # order of the value heads, see above
    logarithms: bool  # safetensors stores the decays' logarithms
    joined: tuple[bool, bool]  # q, k, v and z are rows of one matrix, b and a of another, key head by key head

    @classmethod
    def read(cls, keys: Keys) -> Qwen35:
        mtp = keys.integer("nextn_predict_layers", "mtp_num_hidden_layers", 0, 64, default=0)
        blocks = keys.integer("block_count", "num_hidden_layers", most=MOST_LAYERS)  # GGUF counts the MTP block too
        layers = blocks - mtp if keys.gguf else blocks
        if layers < 1:
            keys.fail(keys.name("nextn_predict_layers", None), mtp, f"less than the {blocks} blocks")
        head = head_size(keys, "attention.key_length", "head_dim")
        kv_heads = keys.integers("attention.head_count_kv", "num_key_value_heads", blocks, least=0, most=MOST_HEADS)
        recurrent = recurrent_layers(keys, layers, blocks)
        following = keys.file.architecture in NEXT
        mixture = Mixture.read(keys, shared=True, normalize=True if following else None) if following or has_mixture(keys, MOE) else None
        sparse = (False,) * layers if mixture is None else sparse_layers(keys, layers) if following else (True,) * layers
        p = cls(
            #                                   GGUF                             config.json
            layers=layers,
            mtp_layers=mtp,
            recurrent=recurrent,
            hidden=keys.integer("embedding_length", "hidden_size"),
            heads=keys.integer("attention.head_count", "num_attention_heads", most=MOST_HEADS),
            kv_heads=max((n for i, n in enumerate(kv_heads) if i >= layers or not recurrent[i]), default=1),
            head=head,
            rotated=rotated_values(keys, head, 0.25 if following else None),
            ffn=keys.integer("feed_forward_length", "intermediate_size", most=1 << 24, default=0 if all(sparse) else None),
            mixture=mixture,
            sparse=sparse,
            key_heads=keys.integer("ssm.group_count", "linear_num_key_heads", most=MOST_HEADS),
            value_heads=keys.integer("ssm.time_step_rank", "linear_num_value_heads", most=MOST_HEADS),
            delta_head=head_size(keys, "ssm.state_size", "linear_key_head_dim"),
            kernel=keys.integer("ssm.conv_kernel", "linear_conv_kernel_dim", most=32),
            context=keys.integer("context_length", "max_position_embeddings", most=LONGEST),
            eps=keys.number("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-12, 0.1),
            theta=rope_theta(keys),
            rope_factor=rope_scaling(keys, rope_object(keys)),
            vocabulary=keys.vocabulary(),
            tied=is_tied(keys),
            grouped=following or not keys.gguf,
            logarithms=not keys.gguf,
            joined=joined_projections(keys) if following else (False, False),
        )
        for i, n in enumerate(kv_heads):
            if (i >= layers or not recurrent[i]) and n != p.kv_heads:
                keys.fail(keys.name("attention.head_count_kv", "num_key_value_heads"), list(kv_heads), "one number for all attention layers")
        p.check(keys)
        return p

    def check(self, keys: Keys) -> None:
        check_heads(keys, self.heads, max(1, self.kv_heads), self.head)
        if self.kv_heads < 1:
            keys.fail(keys.name("attention.head_count_kv", "num_key_value_heads"), self.kv_heads, "at least 1 in attention layers")
        if self.value_heads % self.key_heads:
            keys.fail(keys.name("ssm.time_step_rank", "linear_num_value_heads"), self.value_heads, f"a multiple of the {self.key_heads} key heads")
        width = keys.integer("ssm.inner_size", None, most=1 << 24, default=self.value_heads * self.delta_head)
        if width != self.value_heads * self.delta_head:
            keys.fail(keys.name("ssm.inner_size", None), width, f"{self.value_heads} value heads of {self.delta_head}")
        value_head = keys.integer(None, "linear_value_head_dim", most=LARGEST_HEAD, default=self.delta_head)
        if value_head != self.delta_head:
            keys.refuse(f"delta-net value heads of {value_head} beside key heads of {self.delta_head}", "key linear_value_head_dim")
        require_activation(keys, "hidden_act", "silu", ("silu", "swish"))
        require_activation(keys, "output_gate_type", "swish", ("swish", "silu"))
        if not keys.flag(None, "attn_output_gate", True):
            keys.refuse("attention without an output gate", "key attn_output_gate")
        if keys.flag(None, "attention_bias", False):
            keys.refuse("attention with biases", "key attention_bias")

    def names(self) -> Iterator[Name]:
        H = self.hidden
        yield matrix(TABLE, "embed_tokens.weight", self.vocabulary, H)
        yield norm("output_norm.weight", "norm.weight", H)
        if not self.tied:
            yield matrix(HEAD, "/lm_head.weight", self.vocabulary, H)
        for i in range(self.layers):
            yield from layer(i, self.delta_names() if self.recurrent[i] else self.attention_names())
            yield from layer(i, self.block_names(self.mixture if self.sparse[i] else None))

    def block_names(self, m: Mixture | None) -> list[Name]:
        return [
            norm("attn_norm.weight", "input_layernorm.weight", self.hidden),
            norm("post_attention_norm.weight", "post_attention_layernorm.weight", self.hidden),
            *(mlp_names(self.hidden, self.ffn) if m is None else [*m.router_names(self.hidden), *m.names(self.hidden)]),
        ]

    def attention_names(self) -> list[Name]:
        H, q, kv = self.hidden, self.heads * self.head, self.kv_heads * self.head
        return [
            matrix("attn_q.weight", "self_attn.q_proj.weight", 2 * q, H),  # per head: query, then gate
            matrix("attn_k.weight", "self_attn.k_proj.weight", kv, H),
            matrix("attn_v.weight", "self_attn.v_proj.weight", kv, H),
            norm("attn_q_norm.weight", "self_attn.q_norm.weight", self.head),
            norm("attn_k_norm.weight", "self_attn.k_norm.weight", self.head),
            matrix("attn_output.weight", "self_attn.o_proj.weight", H, q),
        ]

    def delta_names(self) -> list[Name]:
        H, n, V = self.hidden, self.value_heads, self.value_heads * self.delta_head
        C = 2 * self.key_heads * self.delta_head + V
        qkvz, ba = self.joined
        return [
            *(
                self.parts(("attn_qkv.weight", "attn_gate.weight"), "ssm_in.weight", "linear_attn.in_proj_qkvz.weight", self.delta_head, (0, 0, 0, 1))
                if qkvz
                else [
                    matrix("attn_qkv.weight", "linear_attn.in_proj_qkv.weight", C, H),
                    matrix("attn_gate.weight", "linear_attn.in_proj_z.weight", V, H),
                ]
            ),
            *(
                self.parts(("ssm_beta.weight", "ssm_alpha.weight"), "ssm_ba.weight", "linear_attn.in_proj_ba.weight", 1, (0, 1))
                if ba
                else [
                    matrix("ssm_alpha.weight", "linear_attn.in_proj_a.weight", n, H),
                    matrix("ssm_beta.weight", "linear_attn.in_proj_b.weight", n, H),
                ]
            ),
            vector("ssm_conv1d.weight", "linear_attn.conv1d.weight", C, self.kernel),  # safetensors: (C, 1, kernel)
            vector("ssm_a", "linear_attn.A_log", n),  # GGUF: -exp(A_log)
            vector("ssm_dt.bias", "linear_attn.dt_bias", n),
            vector("ssm_norm.weight", "linear_attn.norm.weight", self.delta_head),
            matrix("ssm_out.weight", "linear_attn.out_proj.weight", H, V),
        ]

    def parts(self, made: tuple[str, str], source: str, safetensors: str, head: int, goes_to: tuple[int, ...]) -> list[Name]:
        """Two matrices out of one whose rows stand key head by key head: for each part of a key head, to which of the two it goes. The last two parts
        are as wide as the value heads that the key head serves, those before as one head."""
        r = self.value_heads // self.key_heads
        widths = [head] * (len(goes_to) - 2) + [r * head] * 2
        starts = [sum(widths[:part]) for part in range(len(widths))]
        block = sum(widths)
        taken = [
            tuple(g * block + starts[part] + j for part, to in enumerate(goes_to) if to == i for g in range(self.key_heads) for j in range(widths[part]))
            for i in range(2)
        ]
        return [gathered(name, source, safetensors, rows, self.key_heads * block, self.hidden) for name, rows in zip(made, taken)]


def delta_net(b: Builder, p: Qwen35, w: Layer, h: Rows) -> Rows:
    r = p.value_heads // p.key_heads
    qkv, z, alpha, beta = b.matmul(h, w.attn_qkv, w.attn_gate, w.ssm_alpha, w.ssm_beta)
    with np.errstate(over="ignore"):  # an A_log beyond float32 forgets at once
        decay = -np.exp(w.ssm_a) if p.logarithms else w.ssm_a
    y = b.delta_net(
        qkv,
        z,
        alpha,
        beta,
        key_heads=p.key_heads,
        value_heads=p.value_heads,
        head=p.delta_head,
        conv=w.ssm_conv1d,
        kernel=p.kernel,
        decay=decay,
        dt_bias=w.ssm_dt,
        norm=w.ssm_norm,
        eps=p.eps,
        key_of_value=[v // r if p.grouped else v % p.key_heads for v in range(p.value_heads)],
    )
    return b.matmul(y, w.ssm_out)


def attention(b: Builder, p: Qwen35, w: Layer, frequencies: np.ndarray, h: Rows) -> Rows:
    q, k, v = b.matmul(h, w.attn_q, w.attn_k, w.attn_v)
    q, gate = b.split_heads(q, p.head)
    q = b.rope(b.rms_norm(q, w.attn_q_norm, p.eps), p.head, frequencies)
    k = b.rope(b.rms_norm(k, w.attn_k_norm, p.eps), p.head, frequencies)
    o = b.attention(q, k, v, heads=p.heads, kv_heads=p.kv_heads, head=p.head, scale=p.head**-0.5)
    return b.matmul(b.sigmoid_gate(o, gate), w.attn_output)


def decoder_layer(b: Builder, p: Qwen35, w: Layer, i: int, frequencies: np.ndarray, x: Rows) -> Rows:
    """x (rows, hidden) -> (rows, hidden)"""
    h = b.rms_norm(x, w.attn_norm, p.eps)
    x = b.add(x, delta_net(b, p, w, h) if p.recurrent[i] else attention(b, p, w, frequencies, h))
    return b.add(x, feed_forward(b, w, p.mixture if p.sparse[i] else None, b.rms_norm(x, w.post_attention_norm, p.eps), "silu"))


def build(file: ModelFile, make_weight: MakeWeight | None = None, program: MakeProgram | None = None, taps: tuple[int, ...] = ()) -> Network:
    p = Qwen35.read(Keys(file))
    if p.mtp_layers and file.format == "gguf" and "blk.0.attn_norm.weight" not in file.tensors:
        raise ModelError(
            f"{file.name}: holds the MTP head alone (there is no tensor blk.0.attn_norm.weight); expected a whole model. "
            "Load the model and give this file as its drafter"
        )
    weights = Weights(file, p.names(), make_weight, NORM_OFFSET)
    no_more_layers(file, p.layers + (p.mtp_layers if file.format == "gguf" else 0), "block_count" if file.format == "gguf" else "num_hidden_layers")
    refuse_unknown(file, weights, p.layers)
    b, frequencies = Builder(taps), rope_frequencies(p.theta, p.rotated, p.rope_factor)
    x = b.embed(weights[TABLE])
    for i in range(p.layers):
        b.border()
        x = b.layer_output(i, decoder_layer(b, p, weights.layer(i), i, frequencies, x))
    b.border()
    h = b.rms_norm(x, weights["output_norm.weight"], p.eps)
    b.hidden(h)
    b.head(h, head_weight(weights))
    return finish(file, b, p, "qwen35", weights[TABLE], 1.0, head_weight(weights), program)


def recurrent_layers(keys: Keys, layers: int, blocks: int) -> tuple[bool, ...]:
    """Which layers are delta-nets: as listed, else all but every full_attention_interval-th."""
    listed = (
        keys.flags("attention.recurrent_layers", None, layers, of=blocks)
        if keys.gguf
        else keys.layer_types(layers, "linear_attention", "full_attention")
    )
    if listed is not None:
        return listed
    interval = keys.integer("full_attention_interval", "full_attention_interval", most=MOST_LAYERS, default=4)
    return tuple((i + 1) % interval != 0 for i in range(layers))


def joined_projections(keys: Keys) -> tuple[bool, bool]:
    """Whether Qwen3-Next's file has the projections of a key head together: safetensors do, GGUF files of b and a, old ones of q, k, v and z too."""
    if not keys.gguf:
        return True, True
    qkvz, ba = (any(name.endswith(end) for name in keys.file.tensors) for end in (".ssm_in.weight", ".ssm_ba.weight"))
    return qkvz, ba


def rotated_values(keys: Keys, head: int, default: float | None = None) -> int:
    """How many values of a head turn: an even number, a quarter of the head in the released models. default: the share in config.json without one."""
    if keys.gguf:
        rotated = keys.integer("rope.dimension_count", None, 2, head)
    else:
        name = next(
            (
                n
                for n in ("rope_parameters.partial_rotary_factor", "partial_rotary_factor", "rope_scaling.partial_rotary_factor")
                if keys.value(None, n) is not None
            ),
            "rope_parameters.partial_rotary_factor",
        )
        rotated = int(head * keys.number(None, name, 2 / head, 1.0, default))
    if rotated % 2:
        keys.fail(keys.name("rope.dimension_count", "partial_rotary_factor"), rotated, "an even number of rotated values")
    return rotated
