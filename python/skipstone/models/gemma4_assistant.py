"""Gemma 4's assistant: a small drafter whose layers have no keys and values of their own and read the target's.

    x = W_pre [ sqrt(B) E_target[t] ; g ],   layers,   y = norm(x),   logits = E_assistant y,   g' = W_post y

t is the newest token, not read by the target yet, g the target's hidden state after its final norm at the token before it, then the drafter's own g'.
Sliding layers read the target's last sliding layer, global ones its last global layer. All steps of a chain stand at one position, that of t.

The E2B and E4B assistants have a head of ordered embeddings: only the tokens of the clusters whose centroids score best are candidates. A file
without the centroids (GGUF files of the public converter) is run densely: the same table, all of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
from .blocks import TABLE
from .builder import Builder, Rows
from .gemma4 import PER_LAYER, Gemma4, after_attention, frequencies_of
from .keys import Keys
from .network import DrafterNetwork, MakeProgram, Network, bytes_per_row, make_program, title
from .unknown import refuse_unknown
from .weights import Layer, MakeWeight, Name, Weights, integers, layer, matrix, no_more_layers, norm

if TYPE_CHECKING:
    from ..files import ModelFile

GGUF = ("gemma4-assistant",)
CONFIG = ("gemma4_assistant", "gemma4_unified_assistant")
CLASSES = ("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM")


CENTROIDS, ORDER = "masked_embd_centroids.weight", "masked_embd_ordering"


@dataclass(frozen=True)
class Ordered:
    """A head of ordered embeddings. clusters: of the vocabulary, equally large; top: how many of them are open for a row."""

    clusters: int
    top: int

    @classmethod
    def read(cls, keys: Keys, vocabulary: int) -> Ordered | None:
        """None for a dense head. config.json holds the numbers even where they are unused; in GGUF the tensors tell."""
        if keys.gguf:
            centroids = keys.file.tensors.get(CENTROIDS)
            if centroids is None:
                return None
            clusters = centroids.shape[0] if centroids.shape else 0
            made = cls(clusters, keys.integer("centroid_top_k", None, default=min(32, clusters)))
        else:
            if not keys.flag(None, "use_ordered_embeddings", False, top=True):
                return None
            made = cls(top_integer(keys, "num_centroids", 1 << 20), top_integer(keys, "centroid_intermediate_top_k", 1 << 20))
        where = f"tensor {CENTROIDS}" if keys.gguf else "key num_centroids"
        if made.clusters < 1 or vocabulary % made.clusters:
            raise ModelError(f"{keys.source}: {where} counts {made.clusters} clusters; expected a divisor of the vocabulary of {vocabulary}")
        if made.top > made.clusters:
            key = keys.name("centroid_top_k", "centroid_intermediate_top_k", top=True)
            raise ModelError(f"{keys.source}: key {key} is {made.top}, but {where} counts {made.clusters} clusters; expected no more than those")
        return made


def names(p: Gemma4, backbone: int, ordered: Ordered | None) -> Iterator[Name]:
    H = p.hidden
    yield matrix(TABLE, "embed_tokens.weight", p.vocabulary, H)  # the head; the input is the target's table
    yield norm("output_norm.weight", "norm.weight", H)
    yield matrix("nextn.pre_projection.weight", "/pre_projection.weight", H, 2 * backbone)
    yield matrix("nextn.post_projection.weight", "/post_projection.weight", backbone, H)
    if ordered:
        yield matrix(CENTROIDS, "/masked_embedding.centroids.weight", ordered.clusters, H)
        yield integers(ORDER, "/masked_embedding.token_ordering", p.vocabulary)
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
    if p.per_layer:
        keys.fail(keys.name(*PER_LAYER), p.per_layer, "0: an assistant has no per-layer embeddings")
    ordered = Ordered.read(keys, p.vocabulary)
    weights = Weights(file, names(p, backbone, ordered), make_weight)
    no_more_layers(file, p.layers, "block_count" if keys.gguf else "num_hidden_layers")
    refuse_unknown(file, weights, p.layers)
    b = Builder()
    frequencies = {sliding: frequencies_of(p, file, sliding) for sliding in set(p.sliding)}
    x = b.concat(b.embed(target.embedding, target.embedding_scale), b.input(backbone))
    x = b.matmul(x, weights["nextn.pre_projection.weight"])
    for i in range(p.layers):
        x = decoder_layer(b, p, weights.layer(i), i, caches[p.sliding[i]], frequencies[p.sliding[i]], x)
    y = b.rms_norm(x, weights["output_norm.weight"], p.eps)
    b.hidden(b.matmul(y, weights["nextn.post_projection.weight"]))
    if ordered:
        b.ordered_head(y, weights[TABLE], weights[CENTROIDS], token_order(file, weights), ordered.top, p.softcap)
    else:
        b.head(y, weights[TABLE], p.softcap)
    made, spec = make_program(file, b, program)
    return DrafterNetwork("assistant", made, spec, title(file), file.architecture, bytes_per_row(spec))


def backbone_size(keys: Keys) -> int:
    """The width of the target's hidden rows; in config.json it stands beside text_config."""
    if keys.gguf:
        return keys.integer("embedding_length_out", None)
    return top_integer(keys, "backbone_hidden_size", 1 << 20)


def top_integer(keys: Keys, name: str, most: int) -> int:
    """From 1 to `most`, at config.json's top level."""
    value = keys.value(None, name, top=True)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        keys.fail(name, value, f"a whole number from 1 to {most}")
    return value


def token_order(file: ModelFile, weights: Weights) -> np.ndarray:
    """The tokens cluster by cluster; ModelError where one is missing or there twice."""
    order: np.ndarray = weights[ORDER]
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        raise ModelError(f"{file.name}: tensor {weights.name_in_file(ORDER)} does not hold each token from 0 to {len(order) - 1} once; expected an ordering of them")
    return order


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
