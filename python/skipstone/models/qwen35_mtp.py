"""Qwen3.5's multi-token prediction head: one more attention block that reads a token's embedding beside the hidden state before it.

    y = W_fc [ norm_e(E[t_p]) ; norm_h(h_{p-1}) ],   m_p = norm( block(y) ),   logits = W_head m_p  for the token at p + 1

h is the target's hidden state after its final norm for the first draft, the head's own m for the following ones. The block has a cache of its own.
Table and output matrix are the target's, unless the file brings others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import ModelError
from .blocks import rope_frequencies
from .builder import Builder
from .keys import Keys
from .mixture import feed_forward
from .network import DrafterNetwork, MakeProgram, Network, bytes_per_row, make_program, title
from .qwen35 import NORM_OFFSET, Qwen35, attention
from .weights import TOP_PREFIXES, MakeWeight, Name, Weights, layer, matrix, norm

if TYPE_CHECKING:
    from ..files import ModelFile


def names(p: Qwen35, own_embedding: bool, own_norm: bool) -> Iterator[Name]:
    """The head's tensors: block number p.layers in GGUF, mtp.* at the top of a safetensors checkpoint."""
    H, block = p.hidden, p.layers
    yield from layer(
        block,
        [
            #      GGUF                             safetensors                 shape
            matrix("nextn.eh_proj.weight", "/mtp.fc.weight", H, 2 * H),
            norm("nextn.enorm.weight", "/mtp.pre_fc_norm_embedding.weight", H),
            norm("nextn.hnorm.weight", "/mtp.pre_fc_norm_hidden.weight", H),
            norm("nextn.shared_head_norm.weight", "/mtp.norm.weight", H, optional=not own_norm),
            matrix("nextn.embed_tokens.weight", "/mtp.embed_tokens.weight", p.vocabulary, H, optional=not own_embedding),
            matrix("nextn.shared_head_head.weight", "/mtp.lm_head.weight", p.vocabulary, H, optional=True),
        ],
        safetensors="",
    )
    yield from layer(block, [*p.attention_names(), *p.block_names(p.mixture)], safetensors="/mtp.layers.0.")
    if not own_norm:  # the target's final norm stands in
        yield norm("output_norm.weight", "norm.weight", H)


def present(file: ModelFile) -> bool:
    """Does the file hold a head?"""
    return any(n.endswith("nextn.eh_proj.weight") or n in {p + "mtp.fc.weight" for p in TOP_PREFIXES} for n in file.tensors)


def build(target: Network, file: ModelFile, make_weight: MakeWeight | None = None, program: MakeProgram | None = None) -> DrafterNetwork:
    """The head in `file`, the target's own or a companion to it."""
    keys = Keys(file)
    p = Qwen35.read(keys)
    if p.mtp_layers > 1:
        keys.refuse(f"an MTP head of {p.mtp_layers} layers", f"key {keys.name('nextn_predict_layers', 'mtp_num_hidden_layers')}")
    if (p.hidden, p.vocabulary) != (target.hidden_size, target.vocab_size):
        raise ModelError(
            f"{file.name}: an MTP head for hidden size {p.hidden} and {p.vocabulary} tokens; "
            f"expected {target.hidden_size} and {target.vocab_size}, those of {target.name}"
        )
    own_norm = not keys.gguf or f"blk.{p.layers}.nextn.shared_head_norm.weight" in file.tensors
    weights = Weights(file, names(p, keys.flag(None, "mtp_use_dedicated_embeddings", False), own_norm), make_weight, NORM_OFFSET)
    w = weights.layer(p.layers)

    b, frequencies = Builder(), rope_frequencies(p.theta, p.rotated, p.rope_factor)
    e = b.rms_norm(b.embed(w["nextn.embed_tokens"] if "nextn.embed_tokens" in w else target.embedding), w["nextn.enorm"], p.eps)
    h = b.rms_norm(b.input(p.hidden), w["nextn.hnorm"], p.eps)
    x = b.matmul(b.concat(e, h), w["nextn.eh_proj"])
    x = b.add(x, attention(b, p, w, frequencies, b.rms_norm(x, w.attn_norm, p.eps)))
    x = b.add(x, feed_forward(b, w, p.mixture, b.rms_norm(x, w.post_attention_norm, p.eps), "silu"))
    m = b.rms_norm(x, w["nextn.shared_head_norm"] if own_norm else weights["output_norm.weight"], p.eps)
    b.hidden(m)
    b.head(m, w["nextn.shared_head_head"] if "nextn.shared_head_head" in w else target.head)
    made, spec = make_program(file, b, program)
    return DrafterNetwork("mtp", made, spec, title(file), file.architecture, bytes_per_row(spec))
