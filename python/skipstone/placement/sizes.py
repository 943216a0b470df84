"""What the parts of a recorded pass need: memory on a card and on the processor, bytes that a pass reads, kernels. From the recording alone: weights may be
stand-ins that know their sizes."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from .. import _native

CHUNK = 256                             # positions of a cache that are taken at once
PASS_ROWS = 512                         # of a card's pass
PARTIAL_BYTES = 512 << 20               # most that a card keeps of attention's partial results
ROW_BYTES = {"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18)}   # values and bytes of a block


@dataclass(frozen=True)
class SizedWeight:
    """A weight matrix by its sizes, in place of a native Weight: for plans, and to learn whether a model can be run."""

    type: str
    rows: int
    columns: int
    data: Any
    scales: Any = None
    scale_columns: int = 0
    headers_only: ClassVar[bool] = True

    @property
    def experts(self) -> int:
        return len(self.data) if isinstance(self.data, list) else 1

    @property
    def bytes(self) -> int:
        return sum(int(a.nbytes) for a in self.data) if isinstance(self.data, list) else int(self.data.nbytes)


@cache
def _on_card(kind: str, rows: int, columns: int) -> int:
    return int(_native.gpu_weight_bytes(kind, rows, columns))


def card_bytes(weight: Any) -> int:
    """Memory of a weight on a card, all its experts together."""
    return int(weight.experts) * _on_card(str(weight.type), int(weight.rows), int(weight.columns))


@dataclass(frozen=True)
class Experts:
    """The experts of one layer: memory on a card and on the processor, of `count` experts of which a row takes `used`."""

    card: int
    bytes: int
    count: int
    used: int

    def read(self, rows: int) -> float:
        """Bytes that a pass over so many rows reads, where every row chooses at random."""
        return self.bytes * (1 - (1 - self.used / self.count) ** rows)


@dataclass(frozen=True)
class Part:
    """A stretch of operations: a layer, or what stands before or after the layers.

    card, bytes: of its dense weights on a card, on the processor. table: bytes of embedding tables, which stay in the mapped file. states: caches and
    recurrent states. operations: that a pass goes through. unknown: what no card runs yet, in words, experts aside.
    """

    card: int
    bytes: int
    table: int
    experts: Experts | None
    states: tuple[dict[str, Any], ...]
    matmuls: int
    operations: int
    unknown: tuple[str, ...]


def part(ops: Iterable[Mapping[str, Any]], states: list[dict[str, Any]]) -> Part:
    """Of operations and the states of their whole program."""
    runs = set(_native.gpu_operations()) | {"experts"}
    card = size = table = matmuls = count = 0
    experts = None
    used: set[int] = set()
    unknown: dict[str, None] = {}
    for op in ops:
        count += 1
        kind = op["kind"]
        if kind not in runs:
            unknown[f"the operation '{kind}'"] = None
        if "state" in op:
            used.add(int(op["state"]))
        if kind == "embed":
            table += int(op["weight"].bytes)
        elif kind == "experts":
            three = op["gate"], op["up"], op["down"]
            experts = Experts(sum(map(card_bytes, three)), sum(int(w.bytes) for w in three), int(op["gate"].experts), int(op["used"]))
        elif kind == "head" or kind == "matmul":
            matmuls += 1
            for weight in [op["weight"]] if kind == "head" else op["weights"]:
                card += card_bytes(weight)
                size += int(weight.bytes)
        elif kind == "ordered_head":
            for weight in (op["weight"], op["centroids"]):
                size += int(weight.bytes)
        for weights in op.values():
            if any(getattr(w, "scales", None) is not None for w in (weights if isinstance(weights, list) else [weights])):
                unknown["weights with scales beside them (FP8, or a .scale tensor)"] = None
    return Part(card, size, table, experts, tuple(states[s] for s in sorted(used)), matmuls, count, tuple(unknown))


def layers(spec: Mapping[str, Any]) -> tuple[Part, list[Part], Part]:
    """What stands before the layers, the layers, what stands after them."""
    ops, borders, states = spec["ops"], spec["borders"], spec["states"]
    return (part(ops[:borders[0]], states), [part(ops[a:b], states) for a, b in zip(borders, borders[1:])], part(ops[borders[-1]:], states))


def main_type(spec: Mapping[str, Any]) -> str:
    """The type of most bytes of the weights, embedding tables aside."""
    total: dict[str, int] = {}
    for op in spec["ops"]:
        weights = [op[w] for w in ("gate", "up", "down")] if op["kind"] == "experts" else op.get("weights", ())
        for weight in weights:
            total[str(weight.type)] = total.get(str(weight.type), 0) + int(weight.bytes)
    return max(total, key=lambda kind: total[kind], default="Q4_K")


def row_bytes(head: int, kv_type: str) -> int:
    values, size = ROW_BYTES[kv_type]
    return -(-head // values) * size


def state_bytes(state: Mapping[str, Any], context: int, kv_type: str) -> int:
    """Of one text of `context` tokens: a cache, of a window no more than its ring; a recurrent state, twice, as a mark of it is kept."""
    if state["kind"] == "kv":
        chunks = -(-context // CHUNK)
        if state["window"]:
            chunks = min(chunks, -(-(state["window"] + 1 + 512 + 64) // CHUNK) + 1)
        return 2 * int(state["kv_heads"]) * row_bytes(int(state["head"]), kv_type) * CHUNK * chunks
    head, values = int(state["head"]), int(state["value_heads"])
    return 8 * (values * (head * head + 32 + 64 * head) + 64 * int(state["channels"]))


def state_read(state: Mapping[str, Any], position: int, kv_type: str) -> int:
    """Bytes of it that a pass over a row at that position reads (and, of a recurrent state, writes)."""
    if state["kind"] == "kv":
        seen = min(position, state["window"]) if state["window"] else position
        return 2 * int(state["kv_heads"]) * row_bytes(int(state["head"]), kv_type) * seen
    return 8 * int(state["value_heads"]) * int(state["head"]) ** 2


def scratch_bytes(spec: Mapping[str, Any], first: int, last: int, context: int) -> int:
    """What passes of a card over operations first .. last - 1 work in, as far as it can be said before: buffers that live at the same time, partial
    results of attention, tables of angles, the head's logits, a delta-net's steps."""
    ops, widths = spec["ops"], spec["widths"]
    read: dict[int, int] = {}
    for at in range(first, last):
        for b in ops[at]["inputs"]:
            read[b] = at
    live: dict[int, int] = {}
    most = 0
    partial = angles = head = delta = 0
    widest: set[int] = set()
    for at in range(first, last):
        op = ops[at]
        live.update({b: widths[b] for b in (*op["inputs"], *op["outputs"])})
        most = max(most, sum(live.values()))
        live = {b: w for b, w in live.items() if read.get(b, at) > at}
        if op["kind"] in ("attention", "attend", "shared_attention"):
            span = 64 if op["head"] <= 128 else 32 if op["head"] <= 256 else 16
            seen = min(op["window"], context) if op["window"] else context
            partial = max(partial, min(PARTIAL_BYTES, PASS_ROWS * (seen // span + 2) * op["heads"] * (op["head"] + 2) * 4))
        elif op["kind"] == "rope":
            angles = max(angles, 2 * 4 * op["rotated"] * max(2048, context))
        elif op["kind"] == "head":
            head = 16 * op["weight"].rows * 4 + 16 * op["weight"].columns * 8
        elif op["kind"] == "matmul":
            widest.add(op["weights"][0].columns)
        elif op["kind"] == "delta_net":
            values = op["value_heads"] * op["head"]
            delta = max(delta, PASS_ROWS * 4 * (2 * values + (2 * op["key_heads"] + op["value_heads"]) * op["head"]) + 8 * values * op["head"])
    return int(1.3 * most * PASS_ROWS * 4) + sum(3 * PASS_ROWS * w for w in widest) + partial * 4 // 3 + angles + head + delta + (16 << 20)
