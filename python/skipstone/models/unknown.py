"""Tensors that no table names: parts for other things than text are passed over, anything else is refused by name.

A tensor that a description does not know may change what the others mean, so a model run without it might talk nonsense.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import ModelError
from ..files.messages import shown
from .scales import OF_ACTIVATIONS

if TYPE_CHECKING:
    from ..files import ModelFile
    from .weights import Weights

# Image and sound towers and what joins them to the text, drafting heads, a copy of a tied head, tables that follow from the configuration, and
# Orthrus' second attention weights.
_HARMLESS = {
    "safetensors": re.compile(
        r"(^|\.)(vision_tower|audio_tower|embed_vision|embed_audio|vision_embedder|audio_embedder|multi_modal_projector|visual|vision_model|audio_model|mtp)\."
        r"|(^|\.)lm_head\.weight$|(^|\.)rotary_emb\.inv_freq$|_(proj|norm)_diff\.weight$|^masked_embedding\."
    ),
    "gguf": re.compile(r"^(v|a|mm|mtp)\.|(^|\.)nextn\.|^rope_(freqs|factors_long|factors_short)\.weight$|^output\.weight$"),
}


def refuse_unknown(file: ModelFile, weights: Weights, layers: int, unused: str = "") -> None:
    """ModelError where `file` holds a tensor beside those of `weights` that is not known to be harmless.

    layers: GGUF blocks from there on are a drafting head's. unused: a regular expression for names that this model may hold for nothing.
    """
    harmless = _HARMLESS[file.format]
    for name in file.tensors:
        if name in weights.known or harmless.search(name) or name.endswith(OF_ACTIVATIONS) or (unused and re.search(unused, name)):
            continue
        block = re.match(r"blk\.(\d{1,5})\.", name) if file.format == "gguf" else None
        if block is None or int(block[1]) < layers:
            raise ModelError(
                f"{file.name}: tensor {shown(name)} is none that a model of architecture {shown(file.architecture)} has; "
                "expected a file without it, since it may change what the others mean"
            )
