"""What several families share: rotary frequencies, the feed-forward block, the tied head."""

from __future__ import annotations

from typing import Any

import numpy as np

from .builder import LARGEST_HEAD, Builder, Rows
from .keys import Keys
from .weights import Layer, Name, matrix, tied

HEAD = "output.weight"
TABLE = "token_embd.weight"


def rope_frequencies(theta: float, rotated: int, factor: float = 1.0, of: int | None = None) -> np.ndarray:
    """theta^(-2j/of) / factor for j < rotated/2, float32; of: the exponent's denominator, `rotated` where not given."""
    exponents = np.arange(0, rotated, 2, dtype=np.float64) / (of or rotated)
    return (1.0 / (theta**exponents * factor)).astype(np.float32)


def mlp(b: Builder, w: Layer, h: Rows, activation: str) -> Rows:
    """down( activation(gate h) * up h )"""
    gate, up = b.matmul(h, w.ffn_gate, w.ffn_up)
    return b.matmul(b.glu(gate, up, activation), w.ffn_down)


def mlp_names(hidden: int, ffn: int) -> list[Name]:
    return [
        matrix("ffn_gate.weight", "mlp.gate_proj.weight", ffn, hidden),
        matrix("ffn_up.weight", "mlp.up_proj.weight", ffn, hidden),
        matrix("ffn_down.weight", "mlp.down_proj.weight", hidden, ffn),
    ]


def is_tied(keys: Keys) -> bool:
    """Whether the head is the embedding table. The configuration's top level counts before what is nested in it."""
    declared: bool | None = None
    for top in (False, True):
        if keys.value(None, "tie_word_embeddings", top) is not None:
            declared = keys.flag(None, "tie_word_embeddings", False, top)
    return tied(keys.file, declared)


def head_weight(weights: Any) -> Any:
    """The output matrix: its own, or the embedding table."""
    return weights[HEAD] if HEAD in weights else weights[TABLE]


def require_activation(keys: Keys, config: str, name: str, runs: tuple[str, ...]) -> None:
    """config.json may name its activation: one of `runs` is what `name` means here."""
    found = keys.word(None, config, runs[0])
    if found not in runs:
        keys.refuse(f"the activation {found!r}", f"key {config}; expected {name}")


def rope_scaling(keys: Keys, config: str) -> float:
    """The factor that positions are divided by: from GGUF's rope.scaling.*, or the object `config`. Scalings other than linear are refused."""
    kind = (
        keys.word("rope.scaling.type", None, "none")
        if keys.gguf
        else keys.word(None, f"{config}.rope_type") or keys.word(None, f"{config}.type", "default")
    )
    if kind in ("none", "default", ""):
        return 1.0
    if kind == "linear":
        return keys.number("rope.scaling.factor", f"{config}.factor", 1e-3, 1e6)
    keys.refuse(f"rotary scaling of type {kind!r}", "key rope.scaling.type" if keys.gguf else f"key {config}.rope_type")


def rope_object(keys: Keys) -> str:
    """Where config.json keeps its rotary parameters: rope_parameters, in older files rope_scaling."""
    return "rope_scaling" if not keys.gguf and keys.value(None, "rope_parameters") is None else "rope_parameters"


def rope_theta(keys: Keys) -> float:
    """The rotary base. A missing one is an error: the released models are far from any default."""
    name = next((n for n in ("rope_parameters.rope_theta", "rope_theta") if keys.value(None, n) is not None), "rope_parameters.rope_theta")
    return keys.number("rope.freq_base", name, 1.0, 1e12)


def head_size(keys: Keys, gguf: str | None, config: str | None, default: int | None = None) -> int:
    """The values of a head: a multiple of 8 for the kernels' sake."""
    size = keys.integer(gguf, config, 8, LARGEST_HEAD, default)
    if size % 8:
        keys.fail(keys.name(gguf, config), size, f"a multiple of 8 up to {LARGEST_HEAD}")
    return size


def check_heads(keys: Keys, heads: int, kv_heads: int, head: int) -> None:
    """What attention needs of its heads; in GGUF keys and values must be of one size."""
    if heads % kv_heads:
        keys.fail(keys.name("attention.head_count_kv", "num_key_value_heads"), kv_heads, f"a divisor of the {heads} query heads")
    value = keys.integer("attention.value_length", None, most=LARGEST_HEAD, default=head)
    if value != head:
        keys.fail(keys.name("attention.value_length", None), value, f"the key length {head}")
