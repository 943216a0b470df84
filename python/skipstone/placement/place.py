"""From a model and what was asked for to a plan, and from a plan to programs on its devices."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import _native
from ..errors import ArgumentError, OutOfMemory
from .cut import Section, behind_sum, cut, experts_on_processor
from .machine import Card, processor
from .plan import COMMON_CONTEXT, Plan, Planner, describe
from .sizes import main_type

if TYPE_CHECKING:
    from ..models import DrafterNetwork, Network

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
         "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def memory_size(name: str, value: Any) -> int:
    """Bytes: a number of them, or a text such as "12GB", "800 MB", "11.5GiB". ArgumentError."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value) if isinstance(value, str) else None
    if found is None or found[2].upper() not in UNITS or not 0 < float(found[1]) * UNITS[found[2].upper()] < 2**60:
        raise ArgumentError(f"{name}: {value!r}; expected a size such as '12GB', '11.5GiB' or a number of bytes")
    return int(float(found[1]) * UNITS[found[2].upper()])


def number_or_auto(name: str, value: Any) -> int | None:
    """None for "auto", else a number of layers. ArgumentError."""
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ArgumentError(f"{name}: {value!r}; expected 'auto' or a number of layers, 0 or more")
    return value


def choose(network: Network, drafter: DrafterNetwork | None, cards: Sequence[Card], threads: int, context: int | None, kv_type: str,
           gpu_layers: int | None, cpu_experts: int | None, spread: bool = False) -> Plan:
    """The plan that promises most. context: None for what the model was trained for, or less where it does not all fit on cards with that.

    OutOfMemory where no plan fits.
    """
    trained = network.context_length
    contexts = [context] if context is not None else sorted({trained, min(trained, COMMON_CONTEXT), min(trained, COMMON_CONTEXT // 4)}, reverse=True)
    card_experts = "experts" in _native.gpu_operations()
    error: OutOfMemory | None = None
    for at, tokens in enumerate(contexts):
        model = describe(network, drafter, tokens, kv_type)
        if gpu_layers is None and not cpu_experts and cards and (
                whole := Planner(model, cards, processor(threads, measured=False), spread, card_experts).whole()):
            return replace(whole, trained_context=trained)
        if at + 1 < len(contexts) and at == 0 and gpu_layers is None and cards:
            continue                                        # a common context on cards rather than all that is possible beside them
        try:
            plan = Planner(model, cards, processor(threads, kind=main_type(network.spec)), spread, card_experts).best(gpu_layers, cpu_experts)
        except OutOfMemory as problem:
            error = problem
            continue
        return replace(plan, trained_context=trained)
    assert error is not None
    raise error


class Placed:
    """Makes the programs of a plan: first the model's, then its drafter's."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._sections: list[Section] = []

    def target(self, spec: dict[str, Any]) -> Any:
        """The program of a model's recorded pass: a MakeProgram."""
        plan = self.plan
        if plan.host_experts:
            spec = experts_on_processor(spec, set(plan.host_experts))
        if len(plan.stretches) == 1:
            return _program(plan.stretches[0].device, spec)
        self._sections = cut(spec, [s.first for s in plan.stretches[1:]])
        made: list[Any] = []
        for stretch, section in zip(plan.stretches, self._sections):
            own = section.spec
            if made and stretch.device != "cpu" and getattr(made[-1], "ends_in_sum", False):
                own = behind_sum(own)
            made.append(_program(stretch.device, own))
        return _native.SplitProgram(made)

    def drafter(self, spec: dict[str, Any]) -> Any:
        """The program of its drafter: where the last layers are."""
        if self.plan.host_drafter_experts:
            spec = experts_on_processor(spec, {0}, [])
        device = self.plan.stretches[-1].device
        if not self._sections or not any("borrowed_state" in op for op in spec["ops"]):
            return _program(device, spec)
        states = self._sections[-1].states
        ops = [{**op, "borrowed_state": states.index(int(op["borrowed_state"]))} if "borrowed_state" in op else op for op in spec["ops"]]
        return _native.SplitProgram([_program(device, {**spec, "ops": ops})])


def _program(device: str, spec: dict[str, Any]) -> Any:
    return _native.Program(spec) if device == "cpu" else _native.GpuProgram(spec, device)

