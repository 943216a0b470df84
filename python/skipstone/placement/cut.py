"""A recorded pass cut at borders between layers into sections, each a pass of its own.

A section hands the rows that later ones read to the next, as one `hidden`; that takes them as its `input`. Between the layers of a model without per-layer
inputs that is one buffer. A state belongs to one section, so where layers share a cache there is no cut between them.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ModelError


@dataclass(frozen=True)
class Section:
    """spec: what _native.Program takes. states: which of the whole's states it has, in its own order."""

    spec: dict[str, Any]
    states: tuple[int, ...]


def open_borders(spec: dict[str, Any]) -> list[int]:
    """The numbers of the borders at which the recorded pass can be cut; border i is where layer i begins. The first one always is: nothing is before it."""
    last: dict[int, int] = {}
    first: dict[int, int] = {}
    for at, op in enumerate(spec["ops"]):
        if "state" in op:
            first.setdefault(int(op["state"]), at)
            last[int(op["state"])] = at
    return [i for i, border in enumerate(spec["borders"][:-1]) if i == 0 or not any(first[s] < border <= last[s] for s in first)]


def cut(spec: dict[str, Any], at: list[int]) -> list[Section]:
    """The sections between the borders `at` (numbers, ascending, none of them 0). ModelError where a cut goes through a state."""
    ops, starts = spec["ops"], [0, *(spec["borders"][i] for i in at), len(spec["ops"])]
    closed = sorted(set(at) - set(open_borders(spec)))
    if closed:
        raise ModelError(f"a model cannot be cut before layer {closed[0]}: layers before and after it share a cache")
    written = {buffer: i for i, op in enumerate(ops) for buffer in op["outputs"]}
    read: dict[int, int] = {}
    for i, op in enumerate(ops):
        for buffer in op["inputs"]:
            read[buffer] = i
    crossing = [sorted(b for b in read if written[b] < start <= read[b]) for start in starts]
    return [_section(spec, starts[i], starts[i + 1], crossing[i], crossing[i + 1]) for i in range(len(starts) - 1)]


def _section(spec: dict[str, Any], first: int, last: int, taken: list[int], given: list[int]) -> Section:
    widths: list[int] = []
    ops: list[dict[str, Any]] = []
    number: dict[int, int] = {}         # of the whole's buffers, here
    states = sorted({int(op["state"]) for op in spec["ops"][first:last] if "state" in op})

    def buffer(width: int) -> int:
        widths.append(width)
        return len(widths) - 1

    def op(kind: str, inputs: list[int], width: int | None, **more: Any) -> int:
        out = [] if width is None else [buffer(width)]
        ops.append({"kind": kind, "inputs": inputs, "outputs": out, **more})
        return out[0] if out else -1

    if taken:
        together = op("input", [], sum(spec["widths"][b] for b in taken))
        at = 0
        for b in taken:
            width = spec["widths"][b]
            number[b] = together if len(taken) == 1 else op("slice", [together], width, offset=at)
            at += width
    for recorded in spec["ops"][first:last]:
        for b in recorded["outputs"]:
            number[b] = buffer(spec["widths"][b])
        moved = {**recorded, "inputs": [number[b] for b in recorded["inputs"]], "outputs": [number[b] for b in recorded["outputs"]]}
        if "state" in moved:
            moved["state"] = states.index(int(moved["state"]))
        ops.append(moved)
    if given:
        together, width = number[given[0]], spec["widths"][given[0]]
        for b in given[1:]:
            width += spec["widths"][b]
            together = op("concat", [together, number[b]], width)
        op("hidden", [together], None)
    return Section({"widths": widths, "states": [spec["states"][s] for s in states], "ops": ops}, tuple(states))


def experts_on_processor(spec: dict[str, Any], layers: set[int], borders: list[int] | None = None) -> dict[str, Any]:
    """The spec of a card's pass whose experts of these layers (all, where borders is None) are the processor's."""
    starts = spec["borders"] if borders is None else borders
    ops = []
    for at, op in enumerate(spec["ops"]):
        layer = sum(at >= b for b in starts) - 1
        ops.append({**op, "device": "cpu"} if op["kind"] == "experts" and (not starts or layer in layers) else op)
    return {**spec, "ops": ops}


def behind_sum(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec of a card's section whose input another card's section made at a matmul's end (GpuProgram.ends_in_sum): a norm that follows is then
    computed as in one program, so that the bits are those of the whole."""
    first = {**spec["ops"][0], "behind_sum": 1.0}
    return {**spec, "ops": [first, *spec["ops"][1:]]}
