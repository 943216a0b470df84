"""skipstone devices: what this machine can run models on, and what it cannot."""
from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from .output import console, errors_as_messages, print_json


def memory_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the processors and cards that models can run on; for the rest, why not."""
    with errors_as_messages():
        from .. import _native
        from ..decode.stats import read_bandwidth
        from ..loading import devices

        found: list[dict[str, Any]] = []
        for device in devices():
            found.append({"name": device.name, "description": device.description, "usable_cores": device.threads, "isa": device.isa, "isas": list(device.isas),
                          "memory_bytes": memory_bytes(), "read_bytes_per_second": round(read_bandwidth(device.threads))})
        missing: list[dict[str, Any]] = []
        for card in _native.gpu_devices():
            if card["problem"]:
                missing.append({"name": "CUDA", "reason": card["problem"].rstrip("."), "fix": "models run on the processor meanwhile"})
            else:
                found.append({"name": card["name"], "description": card["description"], "memory_bytes": card["memory"], "capability": list(card["capability"])})
        missing.append({"name": "HIP", "reason": "this version has no HIP back end yet", "fix": "models run on the processor; nothing needs to be done"})
        if as_json:
            print_json({"devices": found, "unavailable": missing})
            return
        out = console()
        for d in found:
            out.print(f"[bold green]{d['name']}[/]   {d['description']}")
            if "isa" not in d:
                out.print(f"      {d['memory_bytes'] / 2**30:.1f} GiB of memory; load(..., device={d['name']!r}) runs a model there")
                continue
            out.print(f"      {d['usable_cores']} usable cores, {d['memory_bytes'] / 2**30:.1f} GiB of memory, reads {d['read_bytes_per_second'] / 1e9:.1f} GB/s")
            others = ", ".join(name for name in d["isas"] if name != d["isa"])
            out.print(f"      instruction set {d['isa']}; SKIPSTONE_ISA can ask for: {others}" if others else f"      instruction set {d['isa']}")
        for m in missing:
            out.print(f"[dim]{m['name']:<5} {m['reason']}; {m['fix']}[/]")
