"""DFlash and DFlash2: small block drafters that read some of the target's layers (z-lab/dflash).

    c = norm_h( W_fc [taps] ),   one row for each token of the text, taps: the outputs of some of the target's layers
    block = [newest token, mask, mask, ...],   x = E_target[block]
    layers: attention of the block's rows to [ K(c), V(c) of the text; the block's own ],   then a SwiGLU block
    logits = softcap( W_head norm(x) ),   row j predicts its own position, the j-th after the newest token

The text's rows go through no norm but norm_h, and their keys and values are made once: that is a program of its own, whose cache the block reads.
Norms are used as they are, tables as raw rows, whatever the target does with its own.

DFlash2 wraps attention and feed-forward in short causal convolutions along the block, whose kernels depend on the row, and chooses among the likeliest
tokens of a row by the token before them (`Selector`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from .blocks import HEAD, TABLE, check_heads, head_size, mlp, mlp_names, require_activation, rope_frequencies, rope_object, rope_scaling, rope_theta
from .builder import Builder, Rows
from .keys import MOST_HEADS, MOST_LAYERS, Keys
from .network import Block, DrafterNetwork, MakeProgram, Network, bytes_per_row, make_program, title
from .unknown import refuse_unknown
from .weights import TOP_PREFIXES, Layer, MakeWeight, Name, Weights, layer, matrix, no_more_layers, norm, table, vector

if TYPE_CHECKING:
    from ..files import ModelFile

GGUF = ("dflash", "dflash-draft")  # the second is ik_llama.cpp's
CONFIG = ("dflash", "dflash2")  # released ones say qwen3; the class tells
CLASSES = ("DFlashDraftModel", "DFlash2DraftModel")
MOST_ROWS, MOST_TAPS = 256, 64

# Canonical name, ik_llama.cpp's, safetensors
FC = "fc.weight", "dflash_fc.weight"
HIDDEN_NORM = "enc.output_norm.weight", "dflash_hidden_norm.weight"

# What is built on DFlash, but drafts in another way.
OTHERS = {"markov": "DSpark's Markov head", "conf_proj": "DSpark's confidence head", "confidence_head": "DSpark's confidence head",
          "d2t": "a vocabulary of its own", "attn_sinks": "attention sinks", "aux_hidden_norm": "norms of the tapped layers"}  # fmt: skip


@dataclass(frozen=True)
class DFlash:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    rotated: int
    ffn: int
    eps: float
    theta: float
    rope_factor: float
    taps: tuple[int, ...]  # the target's layers, counted from 0, whose outputs are read
    size: int  # rows of a block
    mask: int
    windows: tuple[int, ...]  # by layer, 0 where all is seen
    causal: tuple[bool, ...]  # by layer: within the block
    embedding_scale: float
    multiplier: float
    softcap: float
    kernel: int  # of DFlash2's convolutions, 0 without
    group: int
    rank: int  # of DFlash2's selector, 0 without
    top: int

    @classmethod
    def read(cls, keys: Keys) -> DFlash:
        own = "dflash." if keys.gguf and keys.file.architecture == "dflash-draft" else ""

        def at(name: str) -> str:
            """Where config.json has it: in dflash_config or beside it."""
            beside = not keys.gguf and keys.value(None, name) is not None and keys.value(None, f"dflash_config.{name}") is None
            return name if keys.gguf or beside else f"dflash_config.{name}"

        layers = keys.integer("block_count", "num_hidden_layers", most=MOST_LAYERS)
        head = head_size(keys, "attention.key_length", "head_dim")
        windows = sliding(keys, layers)
        kernel = keys.integer("conv_kernel_size", at("conv_kernel_size"), 0, 32, default=0)
        rank = keys.integer("selector_rank", at("selector_rank"), 0, 1 << 16, default=0)
        p = cls(
            layers=layers,
            hidden=keys.integer("embedding_length", "hidden_size"),
            heads=keys.integer("attention.head_count", "num_attention_heads", most=MOST_HEADS),
            kv_heads=keys.integer("attention.head_count_kv", "num_key_value_heads", most=MOST_HEADS),
            head=head,
            rotated=keys.integer("rope.dimension_count", None, 2, head, default=head),
            ffn=keys.integer("feed_forward_length", "intermediate_size", most=1 << 24),
            eps=keys.number("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-12, 0.1),
            theta=rope_theta(keys),
            rope_factor=rope_scaling(keys, rope_object(keys)),
            taps=tapped(keys, own, at),
            size=keys.integer(own + "block_size", at("block_size"), 2, MOST_ROWS, default=None if keys.gguf else 16),
            mask=mask_token(keys, own, at),
            windows=windows,
            causal=block_causal(keys, at, windows),
            embedding_scale=keys.number(None, at("input_embedding_scale"), 1e-6, 1e6, default=1.0),
            multiplier=keys.number("logit_scale", at("output_multiplier"), 1e-6, 1e6, default=1.0),
            softcap=keys.number("final_logit_softcapping", at("final_logit_softcapping"), 0.0, 1e6, default=0.0),
            kernel=kernel,
            group=keys.integer("conv_group_size", at("conv_group_size")) if kernel else 0,
            rank=rank,
            top=keys.integer("selector_top_k", at("selector_top_k"), most=1 << 12) if rank else 0,
        )
        check_heads(keys, p.heads, p.kv_heads, p.head)
        require_activation(keys, "hidden_act", "silu", ("silu", "swish"))
        if keys.flag(None, "attention_bias", False):
            keys.refuse("attention with biases", "key attention_bias")
        if p.rotated % 2:
            keys.fail(keys.name("rope.dimension_count", None), p.rotated, "an even number")
        return p

    def names(self, ik: bool, own_table: bool, own_head: bool, vocabulary: int) -> Iterator[Name]:
        H, q, kv = self.hidden, self.heads * self.head, self.kv_heads * self.head
        yield matrix(FC[ik], "/fc.weight", H, len(self.taps) * H)
        yield norm(HIDDEN_NORM[ik], "/hidden_norm.weight", H)
        yield norm("output_norm.weight", "/norm.weight", H)
        if own_table:
            yield matrix(TABLE, "/embed_tokens.weight", vocabulary, H)
        if own_head:
            yield matrix(HEAD, "/lm_head.weight", vocabulary, H)
        if self.rank:
            yield table("selector_predecessor.weight", "/candidate_selector.predecessor_codebook", vocabulary, self.rank)
            yield table("selector_successor.weight", "/candidate_selector.successor_codebook", vocabulary, self.rank)
            yield matrix("selector_hidden.weight", "/candidate_selector.hidden_projection.weight", self.rank, H)
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
                    norm("ffn_norm.weight", "post_attention_layernorm.weight", H),
                    *mlp_names(H, self.ffn),
                    *self.convolution_names(),
                ],
                safetensors="/layers.{}.",
            )

    def convolution_names(self) -> Iterator[Name]:
        if self.kernel:
            for gguf, safetensors in (("attn_conv", "attention_conv"), ("ffn_conv", "mlp_conv")):
                yield vector(f"{gguf}_base", f"{safetensors}.base_kernel", 2, self.kernel, self.hidden)
                yield matrix(f"{gguf}_proj.weight", f"{safetensors}.kernel_projection.weight", 2 * self.kernel * self.hidden // self.group, self.hidden)


def sliding(keys: Keys, layers: int) -> tuple[int, ...]:
    """The window of each layer."""
    listed = keys.flags("attention.sliding_window_pattern", None, layers) if keys.gguf else keys.layer_types(layers, "sliding_attention", "full_attention")
    window = keys.integer("attention.sliding_window", "sliding_window", 0, 1 << 31, default=0)
    if listed is None:
        listed = (keys.gguf and window > 0,) * layers
    if any(listed) and not window:
        keys.fail(keys.name("attention.sliding_window", "sliding_window"), None if not keys.value("attention.sliding_window", "sliding_window") else 0,
                  "the window of the sliding layers")
    return tuple(window if slides else 0 for slides in listed)


def block_causal(keys: Keys, at: Any, windows: tuple[int, ...]) -> tuple[bool, ...]:
    """Whether a layer's block rows see only those before them: as the file says, else in sliding layers."""
    name = keys.name("attention.causal", at("is_causal"))
    if keys.value("attention.causal", at("is_causal")) is None:
        return tuple(w > 0 for w in windows)
    return (keys.flag("attention.causal", name, False),) * len(windows)


def tapped(keys: Keys, own: str, at: Any) -> tuple[int, ...]:
    """The target's layers that are read. GGUF counts the layers whose INPUT is taken, ik_llama.cpp's form and config.json those whose output is."""
    first = 1 if keys.gguf and not own else 0
    gguf, config = "dflash.target_layer_ids" if own else "target_layers", at("target_layer_ids")
    values = keys._list(keys.value(gguf, config))
    name = keys.name(gguf, config)
    if values is None and not keys.gguf:
        return spread(keys)
    if values is None or not 1 <= len(values) <= MOST_TAPS:
        keys.fail(name, values, f"a list of 1 to {MOST_TAPS} layers of the target")
    taps = keys.integers(gguf, config, len(values), first, MOST_LAYERS)
    return tuple(i - first for i in taps)


def spread(keys: Keys) -> tuple[int, ...]:
    """Where config.json lists no layers: evenly from the second to the last but two."""
    n, of = keys.integer(None, "num_hidden_layers", most=MOST_LAYERS), keys.integer(None, "num_target_layers", most=MOST_LAYERS)
    return (of // 2,) if n == 1 else tuple(round(1 + i * (of - 4) / (n - 1)) for i in range(n))


def mask_token(keys: Keys, own: str, at: Any) -> int:
    if keys.gguf and not own:
        mask = keys.file.metadata.get("tokenizer.ggml.mask_token_id")
        if isinstance(mask, bool) or not isinstance(mask, int) or not 0 <= mask < 1 << 24:
            raise ModelError(f"{keys.source}: key tokenizer.ggml.mask_token_id is {'missing' if mask is None else repr(mask)[:60]}; expected the id of the mask")
        return mask
    return keys.integer("dflash.mask_token_id", at("mask_token_id"), 0, 1 << 24)


def taps_of(file: ModelFile) -> tuple[int, ...]:
    """The target's layers that this drafter reads; a target is made to hand them out."""
    return DFlash.read(Keys(file)).taps


class Selector:
    """DFlash2's choice at a row, given the token before it: among the `top` likeliest tokens c the largest logit(c) + sum over r of
    predecessor[before][r] * p[r] * successor[c][r], p being the row's projection (rank,)."""

    def __init__(self, predecessor: Any, successor: Any, top: int) -> None:
        self.predecessor, self.successor, self.top = predecessor, successor, top

    def scores(self, logits: np.ndarray, projection: np.ndarray, before: int) -> tuple[np.ndarray, np.ndarray]:
        """The candidates' ids, ascending, and their scores."""
        top = min(self.top, len(logits))
        candidates = np.sort(np.argpartition(-logits, top - 1)[:top])
        wanted = self.predecessor.rows(np.asarray([before]))[0] * projection
        return candidates, logits[candidates] + self.successor.rows(candidates) @ wanted


def check_pair(p: DFlash, keys: Keys, target: Network) -> None:
    def differs(what: str, found: object, expected: object) -> ModelError:
        return ModelError(f"{keys.source}: a DFlash drafter for a target with {what} {found}; {target.name} has {expected}. "
                          "Choose the drafter that was made for the target")  # fmt: skip

    if p.hidden != target.hidden_size:
        raise differs(f"hidden size (key {keys.name('embedding_length', 'hidden_size')})", p.hidden, target.hidden_size)
    if p.kernel and p.hidden % p.group:
        raise ModelError(f"{keys.source}: key conv_group_size is {p.group}; expected a divisor of the hidden size {p.hidden}")
    where, vocabulary = vocabulary_of(keys)
    if vocabulary is not None and vocabulary != target.vocab_size:
        raise differs(f"vocabulary ({where})", vocabulary, target.vocab_size)
    of = keys.integer(None, "num_target_layers", most=MOST_LAYERS, default=target.layers)
    if of != target.layers:
        raise differs("layers", of, target.layers)
    if p.mask >= target.vocab_size:
        raise ModelError(f"{keys.source}: the mask is token {p.mask}; expected one of the {target.vocab_size} of {target.name}")
    if target.taps != p.taps:
        raise ModelError(f"{keys.source}: reads layers {list(p.taps)} of its target, which was built to hand out {list(target.taps)}; load it by draft=PATH")


def vocabulary_of(keys: Keys) -> tuple[str, int | None]:
    """Where the drafter says how large the vocabulary is, and what it says; None where it says nothing."""
    if not keys.gguf:
        return f"key {keys.name(None, 'vocab_size')}", keys.integer(None, "vocab_size", 2, 1 << 24) if keys.value(None, "vocab_size") is not None else None
    name = next((n for n in (TABLE, HEAD, "selector_predecessor.weight") if n in keys.file.tensors), "")
    shape = keys.file.tensors[name].shape if name else ()
    return f"tensor {name}", int(shape[0]) if len(shape) == 2 else None


def build(target: Network, file: ModelFile, make_weight: MakeWeight | None = None, program: MakeProgram | None = None) -> DrafterNetwork:
    keys = Keys(file)
    for part, what in OTHERS.items():
        if (name := next((n for n in file.tensors if part in n), None)) is not None:
            keys.refuse(what, f"tensor {name}")
    p = DFlash.read(keys)
    check_pair(p, keys, target)
    prefixes = TOP_PREFIXES if not keys.gguf else ()
    own_table = TABLE in file.tensors or any(f"{x}embed_tokens.weight" in file.tensors for x in prefixes)
    own_head = HEAD in file.tensors or any(f"{x}lm_head.weight" in file.tensors for x in prefixes)
    ik = FC[1] in file.tensors
    weights = Weights(file, p.names(ik, own_table, own_head, target.vocab_size), make_weight)
    no_more_layers(file, p.layers, "block_count" if keys.gguf else "num_hidden_layers")
    refuse_unknown(file, weights, p.layers)
    frequencies = rope_frequencies(p.theta, p.rotated, p.rope_factor)

    text = Builder()
    c = text.rms_norm(text.matmul(text.input(len(p.taps) * p.hidden), weights[FC[ik]]), weights[HIDDEN_NORM[ik]], p.eps)
    caches = [context_layer(text, p, weights.layer(i), p.windows[i], frequencies, c) for i in range(p.layers)]
    context, recorded = make_program(file, text, program)

    b = Builder()
    x = b.embed(weights[TABLE] if own_table else target.embedding, p.embedding_scale)
    for i, cache in enumerate(caches):
        x = block_layer(b, p, weights.layer(i), i, cache, frequencies, x)
    h = b.rms_norm(x, weights["output_norm.weight"], p.eps)
    selector = None
    if p.rank:
        b.hidden(b.matmul(h, weights["selector_hidden.weight"]))
        selector = Selector(weights["selector_predecessor.weight"], weights["selector_successor.weight"], p.top)
    b.head(h if p.multiplier == 1 else b.scale(h, p.multiplier), weights[HEAD] if own_head else target.head, p.softcap)
    made, spec = make_program(file, b, program)
    block = Block("dflash2" if p.rank or p.kernel else "dflash", p.size, p.mask, 0, context, tuple(recorded["states"]), selector)
    return DrafterNetwork("block", made, spec, title(file), file.architecture, bytes_per_row(spec), block)


def context_layer(b: Builder, p: DFlash, w: Layer, window: int, frequencies: np.ndarray, c: Rows) -> int:
    """Keeps a layer's keys and values of the text's rows; the cache's number."""
    k, v = b.matmul(c, w.attn_k, w.attn_v)
    k = b.rope(b.rms_norm(k, w.attn_k_norm, p.eps), p.head, frequencies)
    return b.remember(k, v, kv_heads=p.kv_heads, head=p.head, window=window)


def block_layer(b: Builder, p: DFlash, w: Layer, i: int, cache: int, frequencies: np.ndarray, x: Rows) -> Rows:
    """x (rows, hidden) -> (rows, hidden)"""
    h, after = convolutions(b, p, w, "attn_conv", b.rms_norm(x, w.attn_norm, p.eps))
    q, k, v = b.matmul(h, w.attn_q, w.attn_k, w.attn_v)
    q = b.rope(b.rms_norm(q, w.attn_q_norm, p.eps), p.head, frequencies)
    k = b.rope(b.rms_norm(k, w.attn_k_norm, p.eps), p.head, frequencies)
    o = b.block_attention(
        q, k, v, borrowed_state=cache, heads=p.heads, kv_heads=p.kv_heads, head=p.head, scale=p.head**-0.5, window=p.windows[i], causal=p.causal[i]
    )
    x = b.add(x, after(b.matmul(o, w.attn_output)))
    h, after = convolutions(b, p, w, "ffn_conv", b.rms_norm(x, w.ffn_norm, p.eps))
    return b.add(x, after(mlp(b, w, h, "silu")))


def convolutions(b: Builder, p: DFlash, w: Layer, name: str, n: Rows) -> tuple[Rows, Any]:
    """What a sublayer reads of the normed rows n, and what becomes of its output."""
    if not p.kernel:
        return n, lambda y: y
    dynamic, half = b.matmul(n, w[f"{name}_proj"]), p.kernel * p.hidden // p.group
    bases = w[f"{name}_base"].reshape(2, -1)

    def side(s: int, z: Rows) -> Rows:
        return b.block_conv(z, b.slice(dynamic, s * half, half), bases[s], kernel=p.kernel, group=p.group)

    return side(0, n), lambda y: side(1, y)
