"""A numpy interpreter of recorded passes: what every operation means, without any of the native code.

It stands in for _native.Program, _native.Weight and their Sequence with the same calls, in float64 or float32. Weights are
dequantized by the gguf package. With quantize=True a matrix of blocks sees its input as the native kernels do, as 32-blocks of
int8; so what is left as a difference to them is rounding.
"""

from __future__ import annotations

import copy
from typing import Any

import gguf
import numpy as np

STEP_BACK = 32  # rows that every state can go back


class Weight:
    """Takes the place of _native.Weight: the same arguments, the matrix dequantized on demand."""

    def __init__(
        self, type: str, rows: int, columns: int, data: np.ndarray | list[np.ndarray], scales: np.ndarray | None = None, scale_columns: int = 0
    ) -> None:
        arrays = data if isinstance(data, list) else [data]
        self.type, self.rows, self.columns, self.experts = type, rows, columns, len(arrays)
        self._data, self.bytes = np.concatenate(arrays) if len(arrays) > 1 else arrays[0], sum(a.nbytes for a in arrays)
        self._dense: dict[Any, np.ndarray] = {}
        self._scales = None
        if scales is not None:
            stretches = np.asarray(scales, np.float32).reshape(self.experts, rows, -1)
            self._scales = np.repeat(stretches, scale_columns or columns, axis=2)[:, :, :columns]

    @property
    def blocks(self) -> bool:
        return self.type not in ("F32", "F16", "BF16")

    def dense(self, dtype: Any = np.float32) -> np.ndarray:
        """(rows, columns), or of experts (experts, rows, columns)"""
        if dtype not in self._dense:
            values = gguf.dequantize(self._data, gguf.GGMLQuantizationType[self.type])
            shape = (self.rows, self.columns) if self.experts == 1 else (self.experts, self.rows, self.columns)
            self._dense[dtype] = values.reshape(shape).astype(dtype)
            if self._scales is not None:
                self._dense[dtype] *= self._scales.reshape(shape).astype(dtype)
        return self._dense[dtype]

    def expert(self, e: int) -> Weight:
        """One expert's matrix alone."""
        size = len(self._data) // self.experts
        scales = None if self._scales is None else self._scales[e]
        return Weight(self.type, self.rows, self.columns, self._data[e * size : (e + 1) * size], scales, 1)


def round_to(x: np.ndarray, kv_type: str) -> np.ndarray:
    """Values as a cache of that type holds them."""
    if kv_type == "f16":
        return x.astype(np.float32).astype(np.float16).astype(x.dtype)
    if kv_type == "bf16":
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(x.dtype)
    if kv_type in ("q8_0", "q4_0"):
        blocks = np.ascontiguousarray(x, np.float32).reshape(*x.shape[:-1], -1, 32)
        above, below = blocks.max(axis=-1, keepdims=True), -blocks.min(axis=-1, keepdims=True)
        d = np.maximum(above, below) / np.float32(127) if kv_type == "q8_0" else np.where(above > below, above, -below) / np.float32(-8)
        d = np.clip(d, -65504, 65504).astype(np.float16).astype(np.float32)
        q = np.rint(blocks * np.where(d == 0, np.float32(0), np.float32(1) / np.where(d == 0, np.float32(1), d)))
        return (np.clip(q, *((-127, 127) if kv_type == "q8_0" else (-8, 7))) * d).reshape(x.shape).astype(x.dtype)
    return x.astype(np.float32).astype(x.dtype) if kv_type == "f32" else x


def quantized(x: np.ndarray) -> np.ndarray:
    """Rows as blocks of 32 int8 with a float32 scale, the largest magnitude being 127; values again."""
    blocks = np.ascontiguousarray(x, np.float32).reshape(*x.shape[:-1], -1, 32)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    inverse = np.where(largest > 0, np.float32(127) / np.where(largest > 0, largest, 1), 0).astype(np.float32)
    return (np.rint(blocks * inverse).astype(x.dtype) * (largest / np.float32(127)).astype(x.dtype)).reshape(x.shape)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "silu": lambda x: x * sigmoid(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


class Sequence:
    """States of one text. A cache holds keys and values (length, kv heads, head); a delta-net its matrices and the last inputs of its convolution."""

    def __init__(self, states: list[dict[str, Any]], kv_type: str, dtype: Any) -> None:
        self.length, self.kv_type, self.dtype, self.specs = 0, kv_type, dtype, states
        self.states = [self._empty(s) for s in states]

    def _empty(self, s: dict[str, Any]) -> dict[str, Any]:
        if s["kind"] == "kv":
            return {"k": np.zeros((0, s["kv_heads"], s["head"]), self.dtype), "v": np.zeros((0, s["kv_heads"], s["head"]), self.dtype)}
        start = np.zeros((s["value_heads"], s["head"], s["head"]), self.dtype), np.zeros((s["kernel"] - 1, s["channels"]), self.dtype)
        return {"at": {0: start}}  # state by length, the last STEP_BACK + 1 of them

    def rollback(self, length: int) -> bool:
        if any("at" in s and length not in s["at"] for s in self.states):
            self.length, self.states = 0, [self._empty(s) for s in self.specs]
            return False
        for s in self.states:
            if "at" in s:
                s["at"] = {n: state for n, state in s["at"].items() if n <= length}
            else:
                s["k"], s["v"] = s["k"][:length], s["v"][:length]
        self.length = length
        return True

    def copy(self) -> Sequence:
        other = copy.copy(self)
        other.states = [{"at": dict(s["at"])} if "at" in s else dict(s) for s in self.states]
        return other


class Interpreter:
    """Takes the place of _native.Program."""

    def __init__(self, spec: dict[str, Any], dtype: Any = np.float64, quantize: bool = False) -> None:
        self.spec, self.dtype, self.quantize = spec, dtype, quantize
        width = {op["kind"]: op for op in spec["ops"]}
        head = width.get("head") or width.get("embed")
        self.vocabulary = head["weight"].rows if head else 0
        self.hidden_width = spec["widths"][width["hidden"]["inputs"][0]] if "hidden" in width else 0
        self.input_width = spec["widths"][width["input"]["outputs"][0]] if "input" in width else 0
        self.borrows, self.blocks = "attend" in width, "block_attention" in width

    def sequence(self, kv_type: str = "f16") -> Sequence:
        return Sequence(self.spec["states"], kv_type, self.dtype)

    def run(self, parts: Any, hidden: Any = None, borrow: Any = None, want: str = "logits", rows: str = "all", threads: int = 0) -> tuple[Any, Any]:
        logits, out, first = [], [], 0
        for i, (sequence, tokens) in enumerate(parts):
            given = None if hidden is None else np.asarray(hidden)[first : first + len(tokens)]
            z, h = self._part(sequence, np.asarray(tokens), given, borrow[i] if borrow else None, want != "none", rows == "last")
            logits.append(z)
            out.append(h)
            first += len(tokens)
        handed = np.concatenate(out).astype(np.float32) if self.hidden_width else None
        if want == "none":
            return None, handed
        result = np.concatenate(logits).astype(np.float32)
        return result if want == "logits" else result.argmax(axis=1).astype(np.int32), handed

    def chain(self, sequence: Any, tokens: Any, hidden: Any, steps: int, borrow: Any = None, sampler: Any = None, threads: int = 0) -> list[int]:
        kept = (sequence.length if sequence else 0) + len(tokens)
        drafts: list[int] = []
        for _ in range(steps):
            logits, out = self.run([(sequence, tokens)], hidden, [borrow] if borrow else None, rows="last")
            drafts.append(int(logits[-1].argmax()))
            tokens, hidden = np.asarray(drafts[-1:], np.int32), out[-1:]
        if sequence:
            sequence.rollback(kept)
        return drafts

    def _part(self, sequence: Any, tokens: np.ndarray, given: Any, borrow: Any, wanted: bool, last: bool) -> tuple[Any, Any]:
        start = borrow.length if self.borrows or self.blocks else sequence.length if sequence else 0
        positions = np.full(len(tokens), start) if self.borrows else start + np.arange(len(tokens))
        buffers: dict[int, np.ndarray] = {}
        logits = hidden = None
        for op in self.spec["ops"]:
            x = [buffers[i] for i in op["inputs"]]
            kind = op["kind"]
            if kind == "embed":
                made = [op["weight"].dense(self.dtype)[tokens] * self._number(op["scale"])]
            elif kind == "input":
                made = [np.asarray(given, self.dtype)]
            elif kind == "hidden":
                hidden, made = x[0], []
            elif kind == "head":
                made = []
                if wanted:
                    logits = self._matmul(x[0][-1:] if last else x[0], op["weight"])
                    if op["softcap"]:
                        logits = op["softcap"] * np.tanh(logits / op["softcap"])
            elif kind == "ordered_head":
                made = []
                if wanted:
                    logits = self._ordered(op, x[0][-1:] if last else x[0])
            elif kind == "matmul":
                made = [self._matmul(x[0], w) for w in op["weights"]]
            else:
                made = getattr(self, "_" + kind)(op, *x, sequence=sequence, borrow=borrow, positions=positions)
            for buffer, rows in zip(op["outputs"], made, strict=True):
                assert rows.shape == (len(tokens), self.spec["widths"][buffer]), (kind, rows.shape, self.spec["widths"][buffer])
                buffers[buffer] = rows.astype(self.dtype)
        if sequence:
            sequence.length += len(tokens)
        return logits, hidden

    def _number(self, value: float) -> Any:
        return self.dtype(np.float32(value))

    def _matmul(self, x: np.ndarray, weight: Any) -> np.ndarray:
        return (quantized(x) if self.quantize and weight.blocks else x) @ weight.dense(self.dtype).T

    def _ordered(self, op: Any, y: np.ndarray) -> np.ndarray:
        """Logits of the tokens in the open clusters, -infinity elsewhere."""
        scores = self._matmul(y, op["centroids"])
        open_ones = np.argsort(-scores, axis=1, kind="stable")[:, : op["top"]]
        ids = np.asarray(op["order"]).reshape(op["centroids"].rows, -1)[open_ones].reshape(len(y), -1)
        logits = self._matmul(y, op["weight"])
        if op["softcap"]:
            logits = op["softcap"] * np.tanh(logits / op["softcap"])
        made = np.full_like(logits, -np.inf)
        np.put_along_axis(made, ids, np.take_along_axis(logits, ids, axis=1), axis=1)
        return made

    def _rms_norm(self, op: Any, x: np.ndarray, **_: Any) -> list[np.ndarray]:
        groups = x.reshape(len(x), -1, op["group"])
        y = groups / np.sqrt((groups**2).mean(axis=-1, keepdims=True) + self._number(op["eps"]))
        return [(y if op["weight"] is None else y * op["weight"].astype(self.dtype)).reshape(x.shape)]

    def _rope(self, op: Any, x: np.ndarray, positions: np.ndarray, **_: Any) -> list[np.ndarray]:
        half = op["rotated"] // 2
        angle = (positions.astype(np.float32)[:, None] * np.asarray(op["frequencies"], np.float32))[:, None, :].astype(np.float64)
        cos, sin = np.cos(angle).astype(self.dtype), np.sin(angle).astype(self.dtype)
        heads = x.reshape(len(x), -1, op["head"]).copy()
        a, b = heads[..., :half].copy(), heads[..., half : 2 * half].copy()
        heads[..., :half], heads[..., half : 2 * half] = a * cos - b * sin, b * cos + a * sin
        return [heads.reshape(x.shape)]

    def _attention(self, op: Any, q: np.ndarray, k: np.ndarray, v: np.ndarray, sequence: Any, positions: np.ndarray, **_: Any) -> list[np.ndarray]:
        state, shape = sequence.states[op["state"]], (len(q), op["kv_heads"], op["head"])
        state["k"] = np.concatenate([state["k"], round_to(k, sequence.kv_type).reshape(shape)])
        state["v"] = np.concatenate([state["v"], round_to(v, sequence.kv_type).reshape(shape)])
        distance = positions[:, None] - np.arange(len(state["k"]))
        visible = (distance >= 0) & (distance < op["window"] if op["window"] else True)
        return [self._attend_to(op, q, state, visible)]

    def _shared_attention(self, op: Any, q: np.ndarray, sequence: Any, positions: np.ndarray, **_: Any) -> list[np.ndarray]:
        state = sequence.states[op["state"]]
        distance = positions[:, None] - np.arange(len(state["k"]))
        return [self._attend_to(op, q, state, (distance >= 0) & (distance < op["window"] if op["window"] else True))]

    def _attend(self, op: Any, q: np.ndarray, borrow: Any, **_: Any) -> list[np.ndarray]:
        state = borrow.states[op["borrowed_state"]]
        held = np.arange(len(state["k"]))
        visible = np.broadcast_to(held >= len(held) - op["window"] if op["window"] else held >= 0, (len(q), len(held)))
        return [self._attend_to(op, q, state, visible)]

    def _remember(self, op: Any, k: np.ndarray, v: np.ndarray, sequence: Any, **_: Any) -> list[np.ndarray]:
        state = sequence.states[op["state"]]
        for name, rows in (("k", k), ("v", v)):
            state[name] = np.concatenate([state[name], round_to(rows, sequence.kv_type).reshape(len(rows), *state[name].shape[1:])])
        return []

    def _block_attention(self, op: Any, q: np.ndarray, k: np.ndarray, v: np.ndarray, borrow: Any, positions: np.ndarray, **_: Any) -> list[np.ndarray]:
        text = borrow.states[op["borrowed_state"]]
        shape = (len(q), op["kv_heads"], op["head"])
        both = {"k": np.concatenate([text["k"], k.reshape(shape)]), "v": np.concatenate([text["v"], v.reshape(shape)])}
        at = np.arange(len(both["k"]))
        distance = positions[:, None] - at
        visible = np.abs(distance) < op["window"] if op["window"] else np.ones_like(distance, bool)
        return [self._attend_to(op, q, both, visible & (distance >= 0) if op["causal"] else visible)]

    def _block_conv(self, op: Any, x: np.ndarray, dynamic: np.ndarray, **_: Any) -> list[np.ndarray]:
        y, base = np.zeros_like(x), np.asarray(op["base"], self.dtype).reshape(op["kernel"], -1)
        taps = np.repeat(dynamic.reshape(len(x), op["kernel"], -1), op["group"], axis=2) + base
        for d in range(min(op["kernel"], len(x))):
            y[d:] += taps[d:, d] * x[: len(x) - d]
        return [y]

    def _attend_to(self, op: Any, q: np.ndarray, state: Any, visible: np.ndarray) -> np.ndarray:
        rows, group = len(q), op["heads"] // op["kv_heads"]
        q = q.reshape(rows, op["kv_heads"], group, op["head"])
        scores = np.einsum("tkgd,nkd->kgtn", q, state["k"], optimize=True) * self._number(op["scale"])
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.einsum("kgtn,nkd->tkgd", weights, state["v"], optimize=True).reshape(rows, -1)

    def _delta_net(self, op: Any, qkv: np.ndarray, z: np.ndarray, a: np.ndarray, b: np.ndarray, sequence: Any, **_: Any) -> list[np.ndarray]:
        at = sequence.states[op["state"]]["at"]
        S, past = at[sequence.length]
        nk, nv, d, kernel = op["key_heads"], op["value_heads"], op["head"], op["kernel"]
        taps = op["conv"].reshape(-1, kernel).astype(self.dtype)
        inputs = np.concatenate([past, qkv])
        mixed = ACTIVATIONS["silu"](sum(inputs[t : t + len(qkv)] * taps[:, t] for t in range(kernel)))
        q, k, v = np.split(mixed, [nk * d, 2 * nk * d], axis=1)
        q, k, v = q.reshape(-1, nk, d), k.reshape(-1, nk, d), v.reshape(-1, nv, d)
        unit = lambda x: x / np.sqrt((x**2).sum(axis=-1, keepdims=True) + 1e-6)  # noqa: E731
        q, k = unit(q)[:, op["key_of_value"]] / np.sqrt(d), unit(k)[:, op["key_of_value"]]
        gamma = np.exp(op["decay"].astype(self.dtype) * np.logaddexp(0, a + op["dt_bias"].astype(self.dtype)))
        beta = sigmoid(b)
        out = np.empty_like(v)
        for t in range(len(v)):
            S = S * gamma[t][:, None, None]
            e = v[t] - np.einsum("hkv,hk->hv", S, k[t])
            S = S + k[t][:, :, None] * (beta[t][:, None] * e)[:, None, :]
            out[t] = np.einsum("hkv,hk->hv", S, q[t])
            if t >= len(v) - STEP_BACK - 1:
                at[sequence.length + t + 1] = S, inputs[t + 1 : t + kernel]
        for n in [n for n in at if n < sequence.length + len(v) - STEP_BACK]:
            del at[n]
        normed = out / np.sqrt((out**2).mean(axis=-1, keepdims=True) + self._number(op["eps"])) * op["norm"].astype(self.dtype)
        return [normed.reshape(z.shape) * ACTIVATIONS["silu"](z)]

    def _glu(self, op: Any, gate: np.ndarray, up: np.ndarray, **_: Any) -> list[np.ndarray]:
        return [ACTIVATIONS[op["activation"]](gate) * up]

    def _experts(self, op: Any, x: np.ndarray, router: np.ndarray, **_: Any) -> list[np.ndarray]:
        ones = np.ones(router.shape[1], self.dtype)
        scale, gate_scale, up_scale = (ones if op[n] is None else op[n].astype(self.dtype) for n in ("scale", "gate_scale", "up_scale"))
        order = np.argsort(-router, axis=1, kind="stable")[:, : op["used"]]
        shares = np.exp(router - router.max(axis=1, keepdims=True))
        shares /= (np.take_along_axis(shares, order, axis=1) if op["normalize"] else shares).sum(axis=1, keepdims=True)
        y = np.zeros_like(x)
        for e in range(router.shape[1]):
            rows = np.flatnonzero((order == e).any(axis=1))
            if len(rows):
                gate, up = (self._matmul(x[rows], op[n].expert(e)) for n in ("gate", "up"))
                mixed = ACTIVATIONS[op["activation"]](gate * gate_scale[e]) * (up * up_scale[e])
                y[rows] += (shares[rows, e] * scale[e])[:, None] * self._matmul(mixed, op["down"].expert(e))
        return [y]

    def _split_heads(self, op: Any, x: np.ndarray, **_: Any) -> list[np.ndarray]:
        heads = x.reshape(len(x), -1, 2, op["head"])
        return [heads[:, :, 0].reshape(len(x), -1), heads[:, :, 1].reshape(len(x), -1)]

    def _sigmoid_gate(self, op: Any, x: np.ndarray, gate: np.ndarray, **_: Any) -> list[np.ndarray]:
        return [x * sigmoid(gate)]

    def _add(self, op: Any, a: np.ndarray, b: np.ndarray, **_: Any) -> list[np.ndarray]:
        return [(a + b) * self._number(op["scale"])]

    def _concat(self, op: Any, a: np.ndarray, b: np.ndarray, **_: Any) -> list[np.ndarray]:
        return [np.concatenate([a, b], axis=1)]

    def _slice(self, op: Any, x: np.ndarray, **_: Any) -> list[np.ndarray]:
        return [x[:, op["offset"] :][:, : self.spec["widths"][op["outputs"][0]]]]
