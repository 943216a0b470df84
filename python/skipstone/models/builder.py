"""Records a model's forward pass as the operations of a native Program.

A description calls one method an operation, in order. Each returns the rows that it makes, of which only the width is known
here; the number of rows is a pass's own. The recording is plain data (`spec`), which tests also interpret with numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from ..errors import ModelError

LARGEST_HEAD = 512  # of an attention or delta-net head, in the native kernels


@dataclass(frozen=True)
class Rows:
    """A buffer of a pass: float32 (rows, width)."""

    id: int
    width: int


@dataclass(frozen=True)
class Scaled:
    """A weight whose products all come times `factor`."""

    weight: Any
    factor: float

    @property
    def rows(self) -> int:
        return int(self.weight.rows)

    @property
    def columns(self) -> int:
        return int(self.weight.columns)

    @property
    def bytes(self) -> int:
        return int(self.weight.bytes)


class Builder:
    """One forward pass being recorded. ModelError where widths, heads or weights do not fit each other.

    Weights are native Weight objects, (rows, columns) as in y = x W^T, or Scaled ones; vectors are float32 arrays.
    taps: layers, counted from 0, whose outputs a pass hands back beside its hidden rows, in this order.
    """

    def __init__(self, taps: Sequence[int] = ()) -> None:
        self.taps, self._layers = tuple(taps), dict[int, Rows]()
        self._widths: list[int] = []
        self._states: list[dict[str, Any]] = []
        self._ops: list[dict[str, Any]] = []
        self._borders: list[int] = []

    def spec(self) -> dict[str, Any]:
        """What _native.Program takes: widths of the buffers, states of a sequence, operations in order. borders: see border()."""
        return {
            "widths": list(self._widths),
            "states": [dict(s) for s in self._states],
            "ops": [dict(op) for op in self._ops],
            "borders": list(self._borders),
        }

    def border(self) -> None:
        """A layer begins here; the last border is the end of the last layer. Models are cut at borders where they run on several devices."""
        self._borders.append(len(self._ops))

    def embed(self, weight: Any, scale: float = 1.0) -> Rows:
        """The tokens' rows of the table `weight`, times `scale`."""
        if isinstance(weight, Scaled):
            weight, scale = weight.weight, scale * weight.factor
        return self._op("embed", [], [weight.columns], weight=weight, scale=scale)[0]

    def input(self, width: int) -> Rows:
        """Rows that the caller hands to the pass."""
        return self._op("input", [], [width])[0]

    def rms_norm(self, x: Rows, weight: np.ndarray | None, eps: float, group: int | None = None) -> Rows:
        """x / sqrt(mean(x^2) + eps) * weight, over each `group` values: the weight's length, so that a head's weight serves all heads."""
        group = group if weight is None and group else (len(weight) if weight is not None else x.width)
        _need(x.width % group == 0, f"rms_norm: groups of {group} do not divide a width of {x.width}")
        return self._op("rms_norm", [x], [x.width], weight=weight, group=group, eps=eps)[0]

    @overload
    def matmul(self, x: Rows, weight: Any, /) -> Rows: ...
    @overload
    def matmul(self, x: Rows, weight: Any, second: Any, /, *more: Any) -> tuple[Rows, ...]: ...
    def matmul(self, x: Rows, /, *weights: Any) -> Rows | tuple[Rows, ...]:
        """x times the transpose of each weight, all of them in one dispatch."""
        for weight in weights:
            _need(weight.columns == x.width, f"matmul: a weight with {weight.columns} columns for rows of width {x.width}")
        plain = [w.weight if isinstance(w, Scaled) else w for w in weights]
        made = self._op("matmul", [x], [w.rows for w in plain], weights=plain)
        made = tuple(self.scale(y, w.factor) if isinstance(w, Scaled) else y for y, w in zip(made, weights))
        return made[0] if len(made) == 1 else made

    def scale(self, x: Rows, factor: float) -> Rows:
        """x * factor, recorded as (x + x) * (factor / 2), which is the same number."""
        return self.add(x, x, factor / 2)

    def rope(self, x: Rows, head: int, frequencies: np.ndarray) -> Rows:
        """Turns the pairs (j, j + len(frequencies)) of every head by position * frequencies[j]; further values pass through."""
        rotated = 2 * len(frequencies)
        _need(x.width % head == 0, f"rope: heads of {head} do not divide a width of {x.width}")
        _need(2 <= rotated <= head, f"rope: cannot turn {rotated} values of a head of {head}")
        return self._op("rope", [x], [x.width], head=head, rotated=rotated, frequencies=frequencies)[0]

    def attention(self, q: Rows, k: Rows, v: Rows, *, heads: int, kv_heads: int, head: int, scale: float, window: int = 0) -> Rows:
        """Causal attention with a cache of its own; window > 0: each row sees the last `window` positions, its own included."""
        _heads("attention", heads, kv_heads, head)
        _widths("attention", (q, heads * head), (k, kv_heads * head), (v, kv_heads * head))
        state = self._state(kind="kv", kv_heads=kv_heads, head=head, window=window)
        return self._op("attention", [q, k, v], [q.width], state=state, heads=heads, kv_heads=kv_heads, head=head, scale=scale, window=window)[0]

    def shared_attention(self, q: Rows, *, state: int, heads: int, kv_heads: int, head: int, scale: float, window: int = 0) -> Rows:
        """Causal attention to the cache that an earlier `attention` of the pass fills (`last_state` right after it); no keys and values of its own."""
        _heads("shared_attention", heads, kv_heads, head)
        _widths("shared_attention", (q, heads * head))
        own = dict(kind="kv", kv_heads=kv_heads, head=head, window=window)
        _need(0 <= state < len(self._states), f"shared_attention: state {state} is none of the {len(self._states)} before it")
        _need(self._states[state] == own, f"shared_attention: state {state} is {self._states[state]}; expected {own}")
        return self._op("shared_attention", [q], [q.width], state=state, heads=heads, kv_heads=kv_heads, head=head, scale=scale, window=window)[0]

    @property
    def last_state(self) -> int:
        """The state of the newest operation that has one."""
        return len(self._states) - 1

    def attend(self, q: Rows, *, borrowed_state: int, heads: int, kv_heads: int, head: int, scale: float, window: int = 0) -> Rows:
        """Attention to another program's cache; window > 0: to its last `window` positions."""
        _heads("attend", heads, kv_heads, head)
        _widths("attend", (q, heads * head))
        return self._op(
            "attend", [q], [q.width], borrowed_state=borrowed_state, heads=heads, kv_heads=kv_heads, head=head, scale=scale, window=window
        )[0]

    def remember(self, k: Rows, v: Rows, *, kv_heads: int, head: int, window: int = 0) -> int:
        """Keys and values of a cache that other programs read; the state's number. window > 0: of which older positions may be forgotten."""
        _heads("remember", kv_heads, kv_heads, head)
        _widths("remember", (k, kv_heads * head), (v, kv_heads * head))
        state = self._state(kind="kv", kv_heads=kv_heads, head=head, window=window)
        self._op("remember", [k, v], [], state=state)
        return state

    def block_attention(
        self, q: Rows, k: Rows, v: Rows, *, borrowed_state: int, heads: int, kv_heads: int, head: int, scale: float, window: int = 0, causal: bool = False
    ) -> Rows:
        """Attention of a block's rows, which stand after a text: to another program's cache of that text, and to the block itself, its later rows
        too unless `causal`. window > 0: to what is less than `window` positions away, on both sides."""
        _heads("block_attention", heads, kv_heads, head)
        _widths("block_attention", (q, heads * head), (k, kv_heads * head), (v, kv_heads * head))
        shape = dict(heads=heads, kv_heads=kv_heads, head=head, scale=scale, window=window, causal=int(causal))
        return self._op("block_attention", [q, k, v], [q.width], borrowed_state=borrowed_state, **shape)[0]

    def block_conv(self, x: Rows, dynamic: Rows, base: np.ndarray, *, kernel: int, group: int) -> Rows:
        """sum over d < kernel of (base[d] + dynamic[d], one for each `group` values) * (x of the row d before), along a block of drafts.
        base: (kernel * x.width,); dynamic: kernel * x.width / group wide."""
        _need(x.width % group == 0, f"block_conv: groups of {group} do not divide a width of {x.width}")
        _need(np.shape(base) == (kernel * x.width,), f"block_conv: base has shape {np.shape(base)}; expected ({kernel * x.width},)")
        _widths("block_conv", (dynamic, kernel * (x.width // group)))
        return self._op("block_conv", [x, dynamic], [x.width], base=base, kernel=kernel, group=group)[0]

    def delta_net(
        self,
        qkv: Rows,
        z: Rows,
        a: Rows,
        b: Rows,
        *,
        key_heads: int,
        value_heads: int,
        head: int,
        conv: np.ndarray,
        kernel: int,
        decay: np.ndarray,
        dt_bias: np.ndarray,
        norm: np.ndarray,
        eps: float,
        key_of_value: Sequence[int],
    ) -> Rows:
        """Gated delta-net with its short convolution and its gated norm. conv: (channels * kernel,), a channel's taps together, oldest first;
        key_of_value: the key head of each value head."""
        channels = (2 * key_heads + value_heads) * head
        _need(0 < head <= LARGEST_HEAD, f"delta_net: heads of {head} values; expected 1 to {LARGEST_HEAD}")
        _widths("delta_net", (qkv, channels), (z, value_heads * head), (a, value_heads), (b, value_heads))
        for name, vector, length in (
            ("conv", conv, channels * kernel),
            ("decay", decay, value_heads),
            ("dt_bias", dt_bias, value_heads),
            ("norm", norm, head),
        ):
            _need(np.shape(vector) == (length,), f"delta_net: {name} has shape {np.shape(vector)}; expected ({length},)")
        _need(
            len(key_of_value) == value_heads and all(0 <= h < key_heads for h in key_of_value),
            f"delta_net: key_of_value must name one of {key_heads} key heads for each of {value_heads} value heads",
        )
        state = self._state(kind="delta", key_heads=key_heads, value_heads=value_heads, head=head, channels=channels, kernel=kernel)
        return self._op(
            "delta_net",
            [qkv, z, a, b],
            [z.width],
            state=state,
            key_heads=key_heads,
            value_heads=value_heads,
            head=head,
            conv=conv,
            kernel=kernel,
            decay=decay,
            dt_bias=dt_bias,
            norm=norm,
            eps=eps,
            key_of_value=list(key_of_value),
        )[0]

    def glu(self, gate: Rows, up: Rows, activation: str) -> Rows:
        """activation(gate) * up; activation is silu or gelu_tanh."""
        _widths("glu", (up, gate.width))
        return self._op("glu", [gate, up], [up.width], activation=activation)[0]

    def experts(
        self,
        x: Rows,
        router: Rows,
        gate: Any,
        up: Any,
        down: Any,
        *,
        used: int,
        activation: str,
        normalize: bool = True,
        scale: np.ndarray | None = None,
        gate_scale: np.ndarray | None = None,
        up_scale: np.ndarray | None = None,
    ) -> Rows:
        """sum of s_e scale_e down_e( activation(gate_e x) * up_e x ) over the `used` experts of each row's largest router logits; s_e is e's share of
        the softmax over all of them, or over the used ones with `normalize`. The weights hold a matrix for each expert, gate's and up's (F, hidden),
        down's (hidden, F). scale, gate_scale, up_scale: a factor an expert, of what down, gate and up give."""
        experts, F = router.width, gate.rows
        _need(1 <= used <= experts, f"experts: {used} of {experts} cannot be used")
        for name, weight, shape in (("gate", gate, (F, x.width)), ("up", up, (F, x.width)), ("down", down, (x.width, F))):
            found = weight.experts, weight.rows, weight.columns
            _need(found == (experts, *shape), f"experts: {name} has shape {found}; expected {(experts, *shape)}")
        scales = {"scale": scale, "gate_scale": gate_scale, "up_scale": up_scale}
        for name, factors in scales.items():
            if factors is not None:
                _need(np.shape(factors) == (experts,), f"experts: {name} has shape {np.shape(factors)}; expected ({experts},)")
        weights = {"gate": gate, "up": up, "down": down}
        return self._op("experts", [x, router], [x.width], **weights, used=used, activation=activation, normalize=int(normalize), **scales)[0]

    def split_heads(self, x: Rows, head: int) -> tuple[Rows, Rows]:
        """Every head's 2 * head values: the first halves together, the second halves together."""
        _need(x.width % (2 * head) == 0, f"split_heads: heads of 2 x {head} do not divide a width of {x.width}")
        first, second = self._op("split_heads", [x], [x.width // 2] * 2, head=head)
        return first, second

    def sigmoid_gate(self, x: Rows, gate: Rows) -> Rows:
        """x * sigmoid(gate); a gate of width 1 serves all of a row's values."""
        _need(gate.width in (1, x.width), f"sigmoid_gate: a gate {gate.width} wide for rows of width {x.width}")
        return self._op("sigmoid_gate", [x, gate], [x.width])[0]

    def add(self, a: Rows, b: Rows, scale: float = 1.0) -> Rows:
        """(a + b) * scale."""
        _widths("add", (b, a.width))
        return self._op("add", [a, b], [a.width], scale=scale)[0]

    def concat(self, a: Rows, b: Rows) -> Rows:
        """a's values, then b's."""
        return self._op("concat", [a, b], [a.width + b.width])[0]

    def slice(self, x: Rows, offset: int, width: int) -> Rows:
        """x's values offset .. offset + width - 1."""
        _need(0 <= offset and 0 < width <= x.width - offset, f"slice: values {offset} to {offset + width} of a width of {x.width}")
        return self._op("slice", [x], [width], offset=offset)[0]

    def layer_output(self, index: int, x: Rows) -> Rows:
        """x, the residual stream after layer `index`; block drafters read some layers."""
        self._layers[index] = x
        return x

    def hidden(self, h: Rows) -> None:
        """Marks the rows that a pass hands back: h's values, then those of the tapped layers."""
        for tap in self.taps:
            _need(tap in self._layers, f"the drafter reads layer {tap}, counted from 0, and the target has {len(self._layers)}; choose the drafter made for it")
            h = self.concat(h, self._layers[tap])
        self._op("hidden", [h], [])

    def head(self, h: Rows, weight: Any, softcap: float = 0.0) -> None:
        """Logits h W^T, softcap * tanh(logits / softcap) where softcap > 0, or the token of the largest."""
        _need(weight.columns == h.width, f"head: a weight with {weight.columns} columns for rows of width {h.width}")
        if isinstance(weight, Scaled):
            h, weight = self.scale(h, weight.factor), weight.weight
        self._op("head", [h], [], weight=weight, softcap=softcap)

    def ordered_head(self, h: Rows, weight: Any, centroids: Any, order: np.ndarray, top: int, softcap: float = 0.0) -> None:
        """As head, for the tokens of the `top` clusters whose centroids (clusters, h.width) score best; all others are impossible.

        order: all tokens, cluster by cluster, as many in each.
        """
        if isinstance(centroids, Scaled):
            centroids = centroids.weight  # the same order, whatever the factor
        if isinstance(weight, Scaled):
            h, weight = self.scale(h, weight.factor), weight.weight
        for w in (weight, centroids):
            _need(w.columns == h.width, f"ordered_head: a weight with {w.columns} columns for rows of width {h.width}")
        _need(0 < top <= centroids.rows, f"ordered_head: {top} of {centroids.rows} clusters")
        _need(weight.rows % centroids.rows == 0, f"ordered_head: {centroids.rows} clusters do not divide a vocabulary of {weight.rows}")
        _need(np.array_equal(np.sort(order), np.arange(weight.rows)), f"ordered_head: order does not list each of {weight.rows} tokens once")
        self._op("ordered_head", [h], [], weight=weight, centroids=centroids, order=[int(i) for i in order], top=top, softcap=softcap)

    def _op(self, kind: str, inputs: list[Rows], widths: list[int], **params: Any) -> tuple[Rows, ...]:
        made = tuple(Rows(len(self._widths) + i, width) for i, width in enumerate(widths))
        self._widths += widths
        self._ops.append(dict(kind=kind, inputs=[x.id for x in inputs], outputs=[x.id for x in made], **params))
        return made

    def _state(self, **state: Any) -> int:
        self._states.append(state)
        return len(self._states) - 1


def _need(fits: bool, otherwise: str) -> None:
    if not fits:
        raise ModelError(otherwise)


def _widths(op: str, *expected: tuple[Rows, int]) -> None:
    for place, (rows, width) in enumerate(expected):
        _need(rows.width == width, f"{op}: rows {place} are {rows.width} wide; expected {width}")


def _heads(op: str, heads: int, kv_heads: int, head: int) -> None:
    _need(kv_heads > 0 and heads > 0 and heads % kv_heads == 0, f"{op}: {kv_heads} key/value heads do not divide {heads} query heads")
    _need(0 < head <= LARGEST_HEAD, f"{op}: heads of {head} values; expected 1 to {LARGEST_HEAD}")
