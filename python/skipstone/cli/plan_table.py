"""What skipstone info --plan prints: where the parts of a model go and what speed to expect."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .output import console, print_json, shown

if TYPE_CHECKING:
    from ..placement.plan import Plan


def show_plan(path: str, draft: Any, device: str, gpu_layers: Any, cpu_experts: Any, memory: str | None, context: int | None, kv_type: str,
              threads: int | None, as_json: bool) -> None:
    """Plans as load would and prints the plan. Arguments are those of load."""
    from .. import _native
    from ..decode.options import integer
    from ..loading import KV_TYPES, Wanted, plan_for
    from ..errors import ArgumentError

    if kv_type not in KV_TYPES:
        raise ArgumentError(f"--kv-type: {kv_type!r}; expected one of {', '.join(KV_TYPES)}")
    threads = int(_native.default_threads()) if threads is None else integer("--threads", threads, 1, 1024)
    wanted = Wanted.of(device, None, gpu_layers, cpu_experts, memory, assume=True)
    plan = plan_for(path, draft, wanted, threads, kv_type, context)
    if as_json:
        print_json({"model": path, **as_dict(plan)})
    else:
        _print(path, plan)


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan for JSON."""
    speeds = []
    for context in sorted(plan.passes[1]):
        drafted = plan.drafted(context)
        speeds.append({"context": context, "tokens_per_second": 1 / plan.passes[1][context],
                       "pass_seconds": {str(rows): seconds[context] for rows, seconds in plan.passes.items()},
                       "drafts": drafted[0] if drafted else None, "drafted_tokens_per_second": drafted[1] if drafted else None})
    cpu = plan.processor
    return {"layers": [{"device": s.device, "first": s.first, "last": s.last - 1} for s in plan.stretches], "cpu_experts": list(plan.host_experts),
            "cpu_drafter_experts": plan.host_drafter_experts, "context": plan.context, "trained_context": plan.trained_context, "kv_type": plan.kv_type,
            "memory": {device: {"parts": parts, "bytes": sum(parts.values()), "usable_bytes": plan.budgets[device]} for device, parts in plan.memory.items()},
            "speed": speeds, "draft_seconds": plan.draft_seconds, "assumed_acceptance": list(_acceptance()),
            "figures": {"cards": [{"name": c.name, "description": c.description, "measured": c.measured, "copy_bytes_per_second": c.copy,
                                   "to_card_bytes_per_second": c.to_card, "from_card_bytes_per_second": c.from_card, "meeting_seconds": c.meeting}
                                  for c in plan.cards],
                        "processor": {"threads": cpu.threads, "measured": True, "read_bytes_per_second": cpu.read,
                                      "matmul_type": cpu.kind, "matmul_bytes_per_second": {str(k): v for k, v in cpu.matmul.items()}}},
            "notes": list(plan.notes)}


def _acceptance() -> tuple[float, ...]:
    from ..placement.plan import ACCEPTANCE

    return ACCEPTANCE


def _print(path: str, plan: Plan) -> None:
    from rich.table import Table

    out = console()
    cut = f" of {plan.trained_context} (context={plan.trained_context} asks for all)" if plan.context < plan.trained_context else ""
    out.print(f"[bold]{shown(path)}[/]  context {plan.context}{cut}, KV cache {plan.kv_type}", soft_wrap=True)
    for s in plan.stretches:
        end = ", with the head" + (" and the drafter" if plan.draft_seconds is not None else "") if s is plan.stretches[-1] else ""
        out.print(f"layers {s.first} to {s.last - 1}: {s.device}{end}")
    if plan.host_experts:
        out.print(f"experts of layers {_ranges(plan.host_experts)}: cpu" + (", the drafter's too" if plan.host_drafter_experts else ""))
    elif plan.host_drafter_experts:
        out.print("experts of the drafter: cpu")
    kinds = list(dict.fromkeys(kind for parts in plan.memory.values() for kind in parts))
    table = Table("GB", *kinds, "all", "usable", box=None, header_style="dim", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for device, parts in plan.memory.items():
        table.add_row(device, *(f"{parts[k] / 1e9:.2f}" if k in parts else "" for k in kinds), f"{sum(parts.values()) / 1e9:.2f}", f"{plan.budgets[device] / 1e9:.2f}")
    out.print(table)
    out.print("[dim]embeddings stay in the mapped file, a row a token is read[/]")
    speeds = Table("after tokens", "1 row, ms", "tokens/s", "drafted, tokens/s", box=None, header_style="dim", pad_edge=False)
    for column in speeds.columns:
        column.justify = "right"
    for context in sorted(plan.passes[1]):
        drafted = plan.drafted(context)
        speeds.add_row(f"{context}", f"{1e3 * plan.passes[1][context]:.2f}", f"{1 / plan.passes[1][context]:,.1f}", f"{drafted[1]:,.1f} ({drafted[0]} drafts)" if drafted else "no drafter")
    out.print(speeds)
    for c in plan.cards:
        how = "measured" if c.measured else "assumed"
        out.print(f"[dim]{how}: {c.name} ({shown(c.description)}) copies {c.copy / 1e9:,.0f} GB/s, takes {c.to_card / 1e9:.1f} and hands back {c.from_card / 1e9:.1f} GB/s, "
                  f"a message there and back {c.meeting * 1e6:.0f} µs[/]", soft_wrap=True)
    cpu = plan.processor
    rates = ", ".join(f"{rate / 1e9:.1f} over {rows}" for rows, rate in sorted(cpu.matmul.items()))
    out.print(f"[dim]measured: cpu reads {cpu.read / 1e9:.1f} GB/s with {cpu.threads} threads" + (f"; matrices in {cpu.kind}, GB/s by rows: {rates}" if rates else "") + "[/]", soft_wrap=True)
    if plan.draft_seconds is not None:
        out.print(f"[dim]assumed: drafts are accepted with {', '.join(f'{a:.2f}' for a in _acceptance())} by position[/]")
    for note in plan.notes:
        out.print(shown(note), soft_wrap=True)


def _ranges(numbers: tuple[int, ...]) -> str:
    """0 to 3, 7"""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a} to {b}" if b > a else str(a) for a, b in runs)
