"""Orthrus: a second set of attention weights in every layer of a Qwen3, with which the model drafts a block in one pass (chiennv2000/orthrus).

The block is the newest token and masks after it. In every layer its rows see the model's own cache of the text, and each other; row j predicts the
token after its own. Everything but q, k, v, o and the head norms is the model's, and nothing of the block is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
from .blocks import TABLE, head_weight, rope_frequencies
from .builder import Builder, Rows
from .keys import Keys
from .mixture import Mixture, feed_forward
from .network import Block, DrafterNetwork, MakeProgram, Network, bytes_per_row, make_program, title
from .qwen3 import Qwen3
from .weights import Layer

if TYPE_CHECKING:
    from ..files import ModelFile

MOST_ROWS = 256  # of a block


def block_layer(b: Builder, p: Qwen3, w: Layer, m: Mixture | None, cache: int, frequencies: np.ndarray, x: Rows) -> Rows:
    """x (rows, hidden) -> (rows, hidden)"""
    h = b.rms_norm(x, w.attn_norm, p.eps)
    q, k, v = b.matmul(h, w.attn_q_diff, w.attn_k_diff, w.attn_v_diff)
    q = b.rope(b.rms_norm(q, w.attn_q_norm_diff, p.eps), p.head, frequencies)
    k = b.rope(b.rms_norm(k, w.attn_k_norm_diff, p.eps), p.head, frequencies)
    o = b.block_attention(q, k, v, borrowed_state=cache, heads=p.heads, kv_heads=p.kv_heads, head=p.head, scale=p.head**-0.5)
    x = b.add(x, b.matmul(o, w.attn_output_diff))
    return b.add(x, feed_forward(b, w, m, b.rms_norm(x, w.ffn_norm, p.eps), "silu"))


def build(target: Network, file: ModelFile, program: MakeProgram | None = None) -> DrafterNetwork:
    """The drafter in the target's own file, of the weights that the target has read already."""
    keys = Keys(file)
    p = Qwen3.read(keys)
    size, mask = keys.integer(None, "block_size", 2, MOST_ROWS), keys.integer(None, "mask_token_id", 0, p.vocabulary - 1)
    weights = target.weights
    if weights is None or not p.second:
        raise ModelError(f"{file.name}: holds no second attention weights (*_diff); expected an Orthrus model")
    b, frequencies = Builder(), rope_frequencies(p.theta, p.head, p.rope_factor)
    x = b.embed(weights[TABLE])
    for i, m in enumerate(p.mixtures):
        x = block_layer(b, p, weights.layer(i), m, i, frequencies, x)
    b.head(b.rms_norm(x, weights["output_norm.weight"], p.eps), head_weight(weights))
    made, spec = make_program(file, b, program)
    return DrafterNetwork("block", made, spec, title(file), file.architecture, bytes_per_row(spec), Block("orthrus", size, mask, shift=1))
