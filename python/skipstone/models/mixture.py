"""Mixtures of experts as feed-forward blocks: each row takes a few of many small blocks, in some families one more that all rows share.

    y = sum of s_e down_e( activation(gate_e h) * up_e h ) over the experts with the largest softmax(router h)
      + sigmoid(g . h) * shared block(h)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ModelError
from .blocks import mlp
from .builder import Builder, Rows
from .keys import Keys
from .weights import Fused, Layer, Name, experts, matrix

MOST_EXPERTS, MOST_USED = 1 << 14, 256  # the second is the native kernels'


@dataclass(frozen=True)
class Mixture:
    """experts: how many there are; used: by a row; ffn: width of one; shared: width of the shared one, 0 without; normalize: the used experts' shares
    add up to 1; scale: a factor of the sum of the routed experts."""

    experts: int
    used: int
    ffn: int
    shared: int = 0
    normalize: bool = True
    scale: float = 1.0

    @classmethod
    def read(cls, keys: Keys, shared: bool, used: str = "num_experts_per_tok", normalize: bool | None = None) -> Mixture:
        """shared: the family has a shared expert. used: config.json's key for it. normalize: what a missing norm_topk_prob means, None where there is
        no such key. GGUF has none either: there the shares always add up to 1."""
        count = next((n for n in ("num_experts", "num_local_experts") if keys.value(None, n) is not None), "num_experts")
        total = keys.integer("expert_count", count, most=MOST_EXPERTS)
        return cls(
            #                          GGUF                                 config.json
            experts=total,
            used=keys.integer("expert_used_count", used, most=min(total, MOST_USED)),
            ffn=keys.integer("expert_feed_forward_length", "moe_intermediate_size"),
            shared=keys.integer("expert_shared_feed_forward_length", "shared_expert_intermediate_size") if shared else 0,
            normalize=keys.gguf or normalize is None or keys.flag(None, "norm_topk_prob", normalize),
            scale=keys.number("expert_weights_scale", None, 0.0, 1e6, default=0.0) or 1.0,  # GGUF: 0 stands for none
        )

    def names(self, hidden: int, block: str = "mlp.experts.") -> list[Name]:
        """The experts' tensors; block: what their names begin with in safetensors."""
        E, F = self.experts, self.ffn
        both = "ffn_gate_up_exps.weight", block + "gate_up_proj"
        return [
            # NVFP4 files keep a factor for each expert beside the matrices.
            *(Name(f"ffn_{part}_exps.scale", "", (E,), "vector", optional=True) for part in ("gate", "up", "down")),
            experts("ffn_gate_exps.weight", block + "{}.gate_proj.weight", (E, F, hidden), Fused(*both, 0, 2 * F)),
            experts("ffn_up_exps.weight", block + "{}.up_proj.weight", (E, F, hidden), Fused(*both, F, 2 * F)),
            experts("ffn_down_exps.weight", block + "{}.down_proj.weight", (E, hidden, F), Fused("", block + "down_proj", 0, hidden)),
        ]

    def router_names(self, hidden: int) -> list[Name]:
        """Router and shared expert as the Qwen families have them."""
        made = [matrix("ffn_gate_inp.weight", "mlp.gate.weight", self.experts, hidden)]
        if self.shared:
            made += [
                matrix("ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight", 1, hidden),
                matrix("ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight", self.shared, hidden),
                matrix("ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight", self.shared, hidden),
                matrix("ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight", hidden, self.shared),
            ]
        return made


def routed(b: Builder, w: Layer, m: Mixture, h: Rows, router: Rows, activation: str) -> Rows:
    """What the experts make of h."""
    gate, up, down = (w[f"ffn_{part}_exps.scale"] if f"ffn_{part}_exps.scale" in w else None for part in ("gate", "up", "down"))
    if (gate is None) != (up is None):
        raise ModelError("of the tensors ffn_gate_exps.scale and ffn_up_exps.scale a layer has only one; expected both or none")
    if m.scale != 1.0:
        down = np.float32(m.scale) * (np.ones(m.experts, np.float32) if down is None else down)
    return b.experts(
        h,
        router,
        w.ffn_gate_exps,
        w.ffn_up_exps,
        w.ffn_down_exps,
        used=m.used,
        activation=activation,
        normalize=m.normalize,
        scale=down,
        gate_scale=gate,
        up_scale=up,
    )


def feed_forward(b: Builder, w: Layer, m: Mixture | None, h: Rows, activation: str) -> Rows:
    """h (rows, hidden) -> (rows, hidden): a mixture, or without one the dense block."""
    if m is None:
        return mlp(b, w, h, activation)
    if not m.shared:
        return routed(b, w, m, h, b.matmul(h, w.ffn_gate_inp), activation)
    router, opening, gate, up = b.matmul(h, w.ffn_gate_inp, w.ffn_gate_inp_shexp, w.ffn_gate_shexp, w.ffn_up_shexp)
    shared = b.matmul(b.glu(gate, up, activation), w.ffn_down_shexp)
    return b.add(routed(b, w, m, h, router, activation), b.sigmoid_gate(shared, opening))


def has_mixture(keys: Keys, architectures: tuple[str, ...]) -> bool:
    """Whether a file of a family with and without experts has them: its architecture says so, or it counts them."""
    return keys.file.architecture in architectures or bool(keys.integer("expert_count", "num_experts", 0, MOST_EXPERTS, default=0))


def sparse_layers(keys: Keys, layers: int) -> tuple[bool, ...]:
    """Which layers have experts, the others being dense: all of a GGUF file; config.json may leave some out."""
    if keys.gguf:
        return (True,) * layers
    every = keys.integer(None, "decoder_sparse_step", default=1)
    key, dense = "mlp_only_layers", keys.value(None, "mlp_only_layers")
    if dense is not None and not (isinstance(dense, list) and all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i for i in dense)):
        keys.fail(keys.name(None, key), dense, "a list of layer numbers")
    return tuple((i + 1) % every == 0 and i not in (dense or ()) for i in range(layers))
