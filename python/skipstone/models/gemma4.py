"""Gemma 4 (31B, 12B, 26B-A4B, E4B, E2B and the like): sliding-window and global layers with different heads, sandwich norms, a scale on each layer's output.

What sets it apart: v has a norm without weight, the attention scale is 1, norms multiply by their weight as stored, global layers may use the raw key
projection as values, and only the first quarter of a global head's pairs turn ("proportional" rotary). config.json's defaults are traps; see `read`.
With experts (26B-A4B) they stand beside the dense block, each branch between norms of its own, and the router reads the residual stream.

E4B and E2B add per-layer embeddings: every token has a row of values for each layer in a large table, which is read a row at a time where it lies in
the file, never laid out anew. Their last layers share keys and values: they read what the last layer of their kind before them has stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from .blocks import HEAD, TABLE, head_size, head_weight, is_tied, mlp, mlp_names, require_activation, rope_frequencies
from .builder import LARGEST_HEAD, Builder, Rows
from .keys import LONGEST, MOST_HEADS, MOST_LAYERS, Keys
from .mixture import Mixture, routed
from .network import MakeProgram, Network, finish
from .unknown import refuse_unknown
from .weights import PREFIXES, Layer, MakeWeight, Name, Weights, layer, matrix, no_more_layers, norm, vector

if TYPE_CHECKING:
    from ..files import ModelFile

GGUF = ("gemma4",)
CONFIG = ("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text")
CLASSES = ("Gemma4ForConditionalGeneration", "Gemma4ForCausalLM", "Gemma4UnifiedForConditionalGeneration", "Gemma4UnifiedForCausalLM")


@dataclass(frozen=True)
class Gemma4:
    layers: int
    sliding: tuple[bool, ...]
    hidden: int
    heads: tuple[int, ...]  # a layer each, like the next three
    kv_heads: tuple[int, ...]
    head: tuple[int, ...]
    ffn: tuple[int, ...]
    shared: int  # how many layers, the last, read an earlier one's keys and values
    per_layer: int  # values of a layer's own embedding of a token, 0 without
    mixture: Mixture | None
    keys_are_values: tuple[bool, ...]
    window: int
    vocabulary: int
    context: int
    eps: float
    theta: float
    theta_sliding: float
    partial: float  # share of a global head's pairs that turn
    softcap: float
    tied: bool

    @classmethod
    def read(cls, keys: Keys) -> Gemma4:
        layers = keys.integer("block_count", "num_hidden_layers", most=MOST_LAYERS)
        sliding = sliding_layers(keys, layers)
        heads = keys.integers("attention.head_count", "num_attention_heads", layers, most=MOST_HEADS)
        kv_heads, head = cache_shapes(keys, layers, sliding)
        full = "rope_parameters.full_attention."
        moe = keys.integer("expert_count", None, 0, default=0) > 0 or keys.flag(None, "enable_moe_block", False)
        p = cls(
            #                           GGUF                                 config.json
            layers=layers,
            sliding=sliding,
            hidden=keys.integer("embedding_length", "hidden_size"),
            heads=heads,
            kv_heads=kv_heads,
            head=head,
            ffn=feed_forward_widths(keys, layers),
            mixture=Mixture.read(keys, shared=False, used="top_k_experts") if moe else None,
            shared=sharing_layers(keys, layers),
            per_layer=per_layer_width(keys),
            keys_are_values=tuple(not s and keys_as_values(keys, sliding) for s in sliding),
            window=keys.integer("attention.sliding_window", "sliding_window", most=LONGEST),
            vocabulary=keys.vocabulary(),
            context=keys.integer("context_length", "max_position_embeddings", most=LONGEST),
            eps=keys.number("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-12, 0.1),
            theta=keys.number("rope.freq_base", full + "rope_theta", 1.0, 1e12, default=1e6),
            theta_sliding=keys.number("rope.freq_base_swa", "rope_parameters.sliding_attention.rope_theta", 1.0, 1e12, default=1e4),
            partial=keys.number(None, full + "partial_rotary_factor", 0.0, 1.0, default=0.25 if keys.value(None, "rope_parameters") is None else 1.0),
            softcap=keys.number("final_logit_softcapping", "final_logit_softcapping", 0.0, 1e6, default=0.0),
            tied=is_tied(keys),
        )
        p.check(keys)
        return p

    def check(self, keys: Keys) -> None:
        for i in range(self.layers):
            if self.heads[i] % self.kv_heads[i]:
                keys.fail(
                    keys.name("attention.head_count_kv", "num_key_value_heads"),
                    self.kv_heads[i],
                    f"a divisor of the {self.heads[i]} query heads in layer {i}",
                )
        for gguf, key_length in (
            ("attention.value_length", "attention.key_length"),
            ("attention.value_length_swa", "attention.key_length_swa"),
            ("rope.dimension_count", "attention.key_length"),
            ("rope.dimension_count_swa", "attention.key_length_swa"),
        ):
            size = keys.integer(key_length, None, default=0)
            if keys.gguf and keys.integer(gguf, None, default=size) != size:
                keys.fail(keys.name(gguf, None), keys.value(gguf, None), f"{size}, as {key_length}")
        require_activation(keys, "hidden_activation", "tanh-approximated gelu", ("gelu_pytorch_tanh",))
        rotary: tuple[tuple[str | None, str, tuple[str, ...]], ...] = (
            ("rope.scaling.type", "rope_parameters.full_attention.rope_type", ("none", "proportional")),
            (None, "rope_parameters.sliding_attention.rope_type", ("default",)),
        )
        for key, config, runs in rotary:
            if (kind := keys.word(key, config, runs[0])) not in runs:
                keys.refuse(f"rotary embeddings of type {kind!r}", f"key {keys.name(key, config)}")
        if keys.flag(None, "attention_bias", False):
            keys.refuse("attention with biases", "key attention_bias")
        if keys.value(None, "use_bidirectional_attention") not in (None, False, "vision"):
            keys.refuse("an embedding model with attention in both directions", "key use_bidirectional_attention")
        rows = keys.integer(None, "vocab_size_per_layer_input", 0, 1 << 24, default=self.vocabulary)
        if self.per_layer and rows != self.vocabulary:
            keys.fail(keys.name(None, "vocab_size_per_layer_input"), rows, f"{self.vocabulary}, as vocab_size, where hidden_size_per_layer_input is {self.per_layer}")

    def names(self) -> Iterator[Name]:
        yield matrix(TABLE, "embed_tokens.weight", self.vocabulary, self.hidden)
        yield norm("output_norm.weight", "norm.weight", self.hidden)
        if not self.tied:
            yield matrix(HEAD, "/lm_head.weight", self.vocabulary, self.hidden)
        if self.per_layer:
            yield matrix(PER_LAYER_TABLE, "embed_tokens_per_layer.weight", self.vocabulary, self.layers * self.per_layer)
            yield matrix("per_layer_model_proj.weight", "per_layer_model_projection.weight", self.layers * self.per_layer, self.hidden)
            yield norm("per_layer_proj_norm.weight", "per_layer_projection_norm.weight", self.per_layer)
        for i in range(self.layers):
            yield from layer(i, self.query_names(i))
            if i < self.layers - self.shared:  # files may hold keys and values of the others too; nothing reads them
                yield from layer(i, self.key_names(i))
            if self.per_layer:
                yield from layer(i, self.per_layer_names())

    def query_names(self, i: int) -> list[Name]:
        """What layers of the model and of its assistant have alike."""
        H, q = self.hidden, self.heads[i] * self.head[i]
        return [
            #      GGUF                     safetensors                          shape
            norm("attn_norm.weight", "input_layernorm.weight", H),
            matrix("attn_q.weight", "self_attn.q_proj.weight", q, H),
            norm("attn_q_norm.weight", "self_attn.q_norm.weight", self.head[i]),
            matrix("attn_output.weight", "self_attn.o_proj.weight", H, q),
            norm("post_attention_norm.weight", "post_attention_layernorm.weight", H),
            norm("ffn_norm.weight", "pre_feedforward_layernorm.weight", H),
            *mlp_names(H, self.ffn[i]),
            *self.mixture_names(),
            norm("post_ffw_norm.weight", "post_feedforward_layernorm.weight", H),
            vector("layer_output_scale.weight", "layer_scalar", 1),
        ]

    def mixture_names(self) -> list[Name]:
        if self.mixture is None:
            return []
        H, E = self.hidden, self.mixture.experts
        return [
            norm("post_ffw_norm_1.weight", "post_feedforward_layernorm_1.weight", H),
            norm("pre_ffw_norm_2.weight", "pre_feedforward_layernorm_2.weight", H),
            norm("post_ffw_norm_2.weight", "post_feedforward_layernorm_2.weight", H),
            vector("ffn_gate_inp.scale", "router.scale", H),
            matrix("ffn_gate_inp.weight", "router.proj.weight", E, H),
            vector("ffn_down_exps.scale", "router.per_expert_scale", E),
            *self.mixture.names(H, "experts."),
        ]

    def key_names(self, i: int) -> list[Name]:
        kv = self.kv_heads[i] * self.head[i]
        values = [] if self.keys_are_values[i] else [matrix("attn_v.weight", "self_attn.v_proj.weight", kv, self.hidden)]
        return [
            matrix("attn_k.weight", "self_attn.k_proj.weight", kv, self.hidden),
            norm("attn_k_norm.weight", "self_attn.k_norm.weight", self.head[i]),
            *values,
        ]


    def per_layer_names(self) -> list[Name]:
        H, P = self.hidden, self.per_layer
        return [
            matrix("inp_gate.weight", "per_layer_input_gate.weight", P, H),
            matrix("proj.weight", "per_layer_projection.weight", H, P),
            norm("post_norm.weight", "post_per_layer_input_norm.weight", H),
        ]


def decoder_layer(b: Builder, p: Gemma4, w: Layer, i: int, frequencies: np.ndarray, x: Rows, caches: dict[bool, int], inputs: Rows | None) -> Rows:
    """x (rows, hidden) -> (rows, hidden); caches: the newest cache of sliding (True) and of global layers; inputs: the per-layer embeddings."""
    d = p.head[i]
    window = p.window if p.sliding[i] else 0
    h = b.rms_norm(x, w.attn_norm, p.eps)
    if i >= p.layers - p.shared:
        q = b.rope(b.rms_norm(b.matmul(h, w.attn_q), w.attn_q_norm, p.eps), d, frequencies)
        o = b.shared_attention(q, state=caches[p.sliding[i]], heads=p.heads[i], kv_heads=p.kv_heads[i], head=d, scale=1.0, window=window)
        return after_attention(b, p, w, x, o, per_layer_input(b, p, i, inputs))
    if p.keys_are_values[i]:
        q, k = b.matmul(h, w.attn_q, w.attn_k)
        v = k  # raw: before k's norm weight and rotation
    else:
        q, k, v = b.matmul(h, w.attn_q, w.attn_k, w.attn_v)
    q = b.rope(b.rms_norm(q, w.attn_q_norm, p.eps), d, frequencies)
    k = b.rope(b.rms_norm(k, w.attn_k_norm, p.eps), d, frequencies)
    v = b.rms_norm(v, None, p.eps, group=d)
    o = b.attention(q, k, v, heads=p.heads[i], kv_heads=p.kv_heads[i], head=d, scale=1.0, window=window)
    caches[p.sliding[i]] = b.last_state
    return after_attention(b, p, w, x, o, per_layer_input(b, p, i, inputs))


def after_attention(b: Builder, p: Gemma4, w: Layer, x: Rows, o: Rows, u: Rows | None = None) -> Rows:
    """u (rows, per_layer): this layer's own embedding of each token."""
    x = b.add(x, b.rms_norm(b.matmul(o, w.attn_output), w.post_attention_norm, p.eps))
    h = mlp(b, w, b.rms_norm(x, w.ffn_norm, p.eps), "gelu_tanh")
    if p.mixture is not None:
        h = b.add(b.rms_norm(h, w.post_ffw_norm_1, p.eps), experts(b, p, w, p.mixture, x))
    scale = float(w.layer_output_scale[0])
    if u is None:
        return b.add(x, b.rms_norm(h, w.post_ffw_norm, p.eps), scale=scale)
    x = b.add(x, b.rms_norm(h, w.post_ffw_norm, p.eps))
    h = b.matmul(b.glu(b.matmul(x, w.inp_gate), u, "gelu_tanh"), w.proj)
    return b.add(x, b.rms_norm(h, w.post_norm, p.eps), scale=scale)


def per_layer_inputs(b: Builder, p: Gemma4, weights: Weights, x: Rows) -> Rows | None:
    """Scaled embeddings x (rows, hidden) -> (rows, layers * per_layer), a layer's values together; None for models without.

    Half of it comes from the token's row of the table, half from x. That is divided by sqrt(hidden) before its norm, which does nothing but make eps
    count as much more."""
    if not p.per_layer:
        return None
    of_model = b.rms_norm(b.matmul(x, weights["per_layer_model_proj.weight"]), weights["per_layer_proj_norm.weight"], p.eps * p.hidden)
    return b.add(b.embed(weights[PER_LAYER_TABLE], float(np.sqrt(p.per_layer))), of_model, scale=float(np.sqrt(0.5)))


def per_layer_input(b: Builder, p: Gemma4, i: int, inputs: Rows | None) -> Rows | None:
    return None if inputs is None else b.slice(inputs, i * p.per_layer, p.per_layer)


def experts(b: Builder, p: Gemma4, w: Layer, m: Mixture, x: Rows) -> Rows:
    """The experts' branch: x goes to them through one norm and to the router through another."""
    router = b.matmul(b.rms_norm(x, w["ffn_gate_inp.scale"] * np.float32(p.hidden**-0.5), p.eps), w.ffn_gate_inp)
    return b.rms_norm(routed(b, w, m, b.rms_norm(x, w.pre_ffw_norm_2, p.eps), router, "gelu_tanh"), w.post_ffw_norm_2, p.eps)


def build(file: ModelFile, make_weight: MakeWeight | None = None, program: MakeProgram | None = None, taps: tuple[int, ...] = ()) -> Network:
    keys = Keys(file)
    p = Gemma4.read(keys)
    check_sharing(keys, p)
    weights = Weights(file, p.names(), make_weight)
    no_more_layers(file, p.layers, "block_count" if keys.gguf else "num_hidden_layers")
    refuse_unknown(file, weights, p.layers, unused_keys(p))
    b = Builder(taps)
    scale = float(np.sqrt(p.hidden))
    frequencies = {sliding: frequencies_of(p, file, sliding) for sliding in set(p.sliding)}
    x = b.embed(weights[TABLE], scale)
    inputs = per_layer_inputs(b, p, weights, x)
    caches: dict[bool, int] = {}
    for i in range(p.layers):
        b.border()
        x = b.layer_output(i, decoder_layer(b, p, weights.layer(i), i, frequencies[p.sliding[i]], x, caches, inputs))
    b.border()
    h = b.rms_norm(x, weights["output_norm.weight"], p.eps)
    b.hidden(h)
    b.head(h, head_weight(weights), p.softcap)
    return finish(file, b, p, "gemma4", weights[TABLE], scale, head_weight(weights), program)


def frequencies_of(p: Gemma4, file: ModelFile, sliding: bool) -> np.ndarray:
    """Of sliding layers all pairs turn. Of global ones the first partial * head / 2, at exponents over the FULL head; GGUF says it by divisors, which
    are huge for the pairs that rest."""
    head = next(d for d, s in zip(p.head, p.sliding) if s == sliding)
    if sliding:
        return rope_frequencies(p.theta_sliding, head)
    frequencies = rope_frequencies(p.theta, head)
    if file.format == "gguf" and "rope_freqs.weight" in file.tensors:
        divisors = Weights(file, [vector("rope_freqs.weight", "", head // 2)])["rope_freqs.weight"]
        if not (divisors > 0).all():
            raise ModelError(f"{file.name}: tensor rope_freqs.weight holds {divisors.min():g}; expected divisors above 0")
        return np.where(divisors < 1e20, frequencies / divisors, np.float32(0))
    frequencies[int(p.partial * head / 2) :] = 0
    return frequencies


SHARED = "attention.shared_kv_layers", "num_kv_shared_layers"
PER_LAYER = "embedding_length_per_layer_input", "hidden_size_per_layer_input"
PER_LAYER_TABLE = "per_layer_token_embd.weight"


def sharing_layers(keys: Keys, layers: int) -> int:
    return keys.integer(*SHARED, least=0, most=layers, default=0)


def check_sharing(keys: Keys, p: Gemma4) -> None:
    """Before the first layer that shares there must be one of its kind, of the same shape, that stores."""
    first = p.layers - p.shared
    for i in range(first, p.layers):
        donor = next((j for j in reversed(range(first)) if p.sliding[j] == p.sliding[i]), None)
        kind = "sliding" if p.sliding[i] else "global"
        if donor is None:
            keys.fail(keys.name(*SHARED), p.shared, f"at least one {kind} layer before those that share, for layer {i}")
        if (p.kv_heads[donor], p.head[donor]) != (p.kv_heads[i], p.head[i]):
            keys.fail(
                keys.name(*SHARED),
                p.shared,
                f"layers that share to be of one shape; layer {i} has {p.kv_heads[i]} key/value heads of {p.head[i]}, layer {donor}, "
                f"which it reads, {p.kv_heads[donor]} of {p.head[donor]} (key {keys.name('attention.head_count_kv', 'num_key_value_heads')})",
            )


def unused_keys(p: Gemma4) -> str:
    """Files may hold keys and values of layers that share those of others; they were never trained."""
    layers = "|".join(str(i) for i in range(p.layers - p.shared, p.layers))
    return rf"^blk\.({layers})\.attn_(k|v|k_norm)\.weight$|layers\.({layers})\.self_attn\.(k_proj|v_proj|k_norm)\." if p.shared else ""


def feed_forward_widths(keys: Keys, layers: int) -> tuple[int, ...]:
    """GGUF lists them. config.json has one width, and may say that layers that share keys and values are twice as wide."""
    widths = keys.integers("feed_forward_length", "intermediate_size", layers, most=1 << 24)
    first = layers - sharing_layers(keys, layers)
    double = keys.flag(None, "use_double_wide_mlp", False)
    return tuple(n * 2 if double and 0 < first <= i else n for i, n in enumerate(widths))


def per_layer_width(keys: Keys) -> int:
    """0 where there are no per-layer embeddings. config.json may leave out the width of its class, 256, where the model has the table."""
    tables = (PER_LAYER_TABLE, *(p + "embed_tokens_per_layer.weight" for p in PREFIXES))
    table = next((t for t in tables if t in keys.file.tensors), None)
    width = keys.integer(*PER_LAYER, least=0, default=0 if table is None or keys.gguf else 256)
    if table is not None and not width:
        keys.fail(keys.name(*PER_LAYER), keys.value(*PER_LAYER), f"the width of the per-layer embeddings in tensor {table}")
    return width


def sliding_layers(keys: Keys, layers: int) -> tuple[bool, ...]:
    """Which layers have a window. Without a list five of six do, and config.json's last layer is global whatever it says."""
    if keys.gguf:
        listed = keys.flags("attention.sliding_window_pattern", None, layers)
        if listed is None:
            pattern = "attention.sliding_window_pattern", None
            keys.fail(keys.name(*pattern), keys.value(*pattern), f"a list of {layers}, one a layer")
        return listed
    listed = keys.layer_types(layers, "sliding_attention", "full_attention")
    types = listed if listed is not None else tuple((i + 1) % 6 != 0 for i in range(layers))
    return (*types[:-1], False)


def cache_shapes(keys: Keys, layers: int, sliding: tuple[bool, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Key/value heads and head size of every layer. config.json says what global layers have by global_* keys or, re-saved, by per_layer_config."""
    if keys.gguf:
        of = {False: head_size(keys, "attention.key_length", None), True: head_size(keys, "attention.key_length_swa", None) if any(sliding) else 0}
        return keys.integers("attention.head_count_kv", None, layers, most=MOST_HEADS), tuple(of[s] for s in sliding)
    kv_heads = [keys.integer(None, "num_key_value_heads", most=MOST_HEADS)] * layers
    head = [head_size(keys, None, "head_dim")] * layers
    own = keys.value(None, "per_layer_config")
    if own is not None:
        overrides(keys, own, layers, kv_heads, head)
        return tuple(kv_heads), tuple(head)
    of_global = head_size(keys, None, "global_head_dim", default=LARGEST_HEAD)
    if keys.flag(None, "attention_k_eq_v", False):
        kv_global = keys.integer(None, "num_global_key_value_heads", most=MOST_HEADS, default=kv_heads[0])
        kv_heads = [n if s else kv_global for n, s in zip(kv_heads, sliding)]
    return tuple(kv_heads), tuple(d if s else of_global for d, s in zip(head, sliding))


def overrides(keys: Keys, own: Any, layers: int, kv_heads: list[int], head: list[int]) -> None:
    if not isinstance(own, dict):
        keys.fail("per_layer_config", own, "an object of layers")
    for index, settings in own.items():
        if not (isinstance(index, str) and index.isdecimal() and len(index) < 5 and int(index) < layers) or not isinstance(settings, dict):
            keys.fail("per_layer_config", index, f"layer numbers below {layers}, each with an object")
        for name in settings:
            if name not in ("head_dim", "num_key_value_heads"):
                keys.refuse(f"layers that differ in {name!r}", f"key per_layer_config.{index}")
        at = f"per_layer_config.{index}."
        head[int(index)] = head_size(keys, None, at + "head_dim", default=head[int(index)])
        kv_heads[int(index)] = keys.integer(None, at + "num_key_value_heads", most=MOST_HEADS, default=kv_heads[int(index)])


def keys_as_values(keys: Keys, sliding: tuple[bool, ...]) -> bool:
    """Whether global layers have no value projection: in GGUF no global layer has one, config.json says so."""
    if not keys.gguf:
        return keys.flag(None, "attention_k_eq_v", False)
    return not any(f"blk.{j}.attn_v.weight" in keys.file.tensors for j, s in enumerate(sliding) if not s)
