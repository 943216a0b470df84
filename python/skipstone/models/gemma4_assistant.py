"""Gemma 4's assistant: a small drafter whose layers have no keys and values of their own and read the target's.

    x = W_pre [ sqrt(B) E_target[t] ; g ],   layers,   y = norm(x),   logits = E_assistant y,   g' = W_post y

t is the newest token, not read by the target yet, g the target's hidden state after its final norm at the token before it, then the drafter's own g'.
Sliding layers read the target's last sliding layer, global ones its last global layer. All steps of a chain stand at one position, that of t.

A head of ordered embeddings (the E2B and E4B assistants) is run densely: the same table, all of its rows, instead of those near the best centroids.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
from .blocks import TABLE
from .builder import Builder, Rows
from .gemma4 import Gemma4, after_attention, frequencies_of
from .keys import Keys
from .network import DrafterNetwork, MakeProgram, Network, bytes_per_row, make_program, title
from .weights import Layer, MakeWeight, Name, Weights, layer, matrix, no_more_layers, norm

if TYPE_CHECKING:
    from ..files import ModelFile

GGUF = ("gemma4-assistant",)
CONFIG = ("gemma4_assistant", "gemma4_unified_assistant")
CLASSES = ("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM")


def names(p: Gemma4, backbone: int) -> Iterator[Name]:
    H = p.hidden
    yield matrix(TABLE, "embed_tokens.weight", p.vocabulary, H)  # the head; the input is the target's table
    yield norm("output_norm.weight", "norm.weight", H)
    yield matrix("nextn.pre_projection.weight", "/pre_projection.weight", H, 2 * backbone)
    yield matrix("nextn.post_projection.weight", "/post_projection.weight", backbone, H)
    for i in range(p.layers):
        yield from layer(i, p.query_names(i))


def decoder_layer(b: Builder, p: Gemma4, w: Layer, i: int, cache: int, frequencies: np.ndarray, x: Rows) -> Rows:
    """x (rows, hidden) -> (rows, hidden); cache: the target's state that is read. Sliding layers see one position more than the target's own."""
    h = b.rms_norm(x, w.attn_norm, p.eps)
    q = b.rope(b.rms_norm(b.matmul(h, w.attn_q), w.attn_q_norm, p.eps), p.head[i], frequencies)
    o = b.attend(
        q, borrowed_state=cache, heads=p.heads[i], kv_heads=p.kv_heads[i], head=p.head[i], scale=1.0, window=p.window + 1 if p.sliding[i] else 0
    )
    return after_attention(b, p, w, x, o)


def build(target: Network, file: ModelFile, make_weight: MakeWeight | None = None, program: MakeProgram | None = None) -> DrafterNetwork:
    keys = Keys(file)
    p = Gemma4.read(keys)
    backbone = backbone_size(keys)
    caches = pair(keys, p, backbone, target)
    weights = Weights(file, names(p, backbone), make_weight)
    no_more_layers(file, p.layers, "block_count" if keys.gguf else "num_hidden_layers")
    b = Builder()
    frequencies = {sliding: frequencies_of(p, file, sliding) for sliding in set(p.sliding)}
    x = b.concat(b.embed(target.embedding, target.embedding_scale), b.input(backbone))
    x = b.matmul(x, weights["nextn.pre_projection.weight"])
    for i in range(p.layers):
        x = decoder_layer(b, p, weights.layer(i), i, caches[p.sliding[i]], frequencies[p.sliding[i]], x)
    y = b.rms_norm(x, weights["output_norm.weight"], p.eps)
    b.hidden(b.matmul(y, weights["nextn.post_projection.weight"]))
    b.head(y, weights[TABLE], p.softcap)
    made, spec = make_program(file, b, program)
    return DrafterNetwork("assistant", made, spec, title(file), file.architecture, bytes_per_row(spec))


def backbone_size(keys: Keys) -> int:
    """The width of the target's hidden rows; in config.json it stands beside text_config."""
    if keys.gguf:
        return keys.integer("embedding_length_out", None)
    value = keys.value(None, "backbone_hidden_size", top=True)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 20:
        keys.fail("backbone_hidden_size", value, f"a whole number from 1 to {1 << 20}")
    return value


def pair(keys: Keys, p: Gemma4, backbone: int, target: Network) -> dict[bool, int]:
    """The target's states that sliding (True) and global (False) layers read; ModelError where the assistant was made for another target."""

    def differs(what: str, found: object, expected: object) -> ModelError:
        return ModelError(
            f"{keys.source}: an assistant for a target with {what} {found}; {target.name} has {expected}. "
            "Choose the assistant that was made for the target"
        )

    if target.family != "gemma4":
        raise ModelError(f"{keys.source}: an assistant for Gemma 4; the target {target.name} is of architecture {target.architecture}")
    if backbone != target.hidden_size:
        raise differs(f"hidden size (key {keys.name('embedding_length_out', 'backbone_hidden_size', top=True)})", backbone, target.hidden_size)
    if p.vocabulary != target.vocab_size:
        raise differs("vocabulary", p.vocabulary, target.vocab_size)
    caches: dict[bool, int] = {}
    for i, sliding in enumerate(p.sliding):
        kind = "sliding" if sliding else "global"
        cache = target.last_cache(sliding)
        if cache is None:
            raise differs(f"{kind} layers", "yes", "none")
        state = target.spec["states"][cache]
        for what, found, expected in (
            ("key/value heads", p.kv_heads[i], state["kv_heads"]),
            ("head size", p.head[i], state["head"]),
            ("window", p.window if sliding else 0, state["window"]),
        ):
            if found != expected:
                raise differs(f"{what} in {kind} layers", found, expected)
        caches[sliding] = cache
    return caches
