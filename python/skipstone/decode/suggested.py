"""What a model's files suggest for sampling."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..files import ModelFile

# Our option: the key of GGUF, that of generation_config.json, least and most. Values outside are left out: they are suggestions.
KEYS = {
    "temperature": ("general.sampling.temp", "temperature", 0.0, 10.0),
    "top_k": ("general.sampling.top_k", "top_k", 0, 1 << 20),
    "top_p": ("general.sampling.top_p", "top_p", 1e-6, 1.0),
    "min_p": ("general.sampling.min_p", "min_p", 0.0, 1.0),
    "repeat_penalty": ("general.sampling.penalty_repeat", "repetition_penalty", 0.1, 10.0),
}


def suggested_sampling(file: ModelFile) -> dict[str, Any]:
    """Options of generate by name, of those that the files suggest; greedy where they say do_sample=false."""
    made: dict[str, Any] = {}
    for option, (gguf, json, least, most) in KEYS.items():
        value = file.metadata.get(gguf, file.generation_config.get(json))
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and least <= value <= most:
            made[option] = int(value) if option == "top_k" else float(value)
    if file.generation_config.get("do_sample") is False:
        made["temperature"] = 0.0
    return made
