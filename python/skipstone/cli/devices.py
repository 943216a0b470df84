"""skipstone devices: what this machine can run models on, and what it cannot."""
from __future__ import annotations

import os
from itertools import takewhile
from typing import Annotated, Any

import typer

from .output import console, errors_as_messages, print_json, shown


def memory_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# What each instruction set needs of the processor, best first; the first that runs here is used, and all give the same bits.
NEEDS = {"amx": "AMX tiles of bytes that the system lets programs use", "avx512": "AVX-512 with VNNI", "avxvnni": "AVX-VNNI", "avx2": "AVX2 with FMA"}


def _unavailable(cards: list[dict[str, Any]], isas: list[str]) -> list[dict[str, Any]]:
    """What cannot be used here: name, reason, and what to do about it."""
    better = takewhile(lambda name: name not in isas, NEEDS)
    missing = [{"name": name, "reason": f"this processor has no {NEEDS[name]}", "fix": f"none is needed: {isas[0]} gives the same bits, more slowly"} for name in better]
    for card in cards:
        if card["problem"]:
            reason, _, fix = card["problem"].rstrip(".").rpartition("; ")
            known = card["name"].upper() if ":" not in card["name"] else card["name"]
            look = "nvidia-smi" if card["name"].startswith("cuda") else "rocminfo"
            missing.append({"name": known, "reason": reason or fix, "fix": fix if reason else f"check that {look} shows the card; models run on the processor meanwhile"})
    return missing


def command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the processors and cards that models can run on; for the rest, why not."""
    with errors_as_messages():
        from .. import _native
        from ..decode.stats import read_bandwidth
        from ..errors import DeviceError
        from ..loading import devices

        found: list[dict[str, Any]] = []
        for device in devices():
            found.append({"name": device.name, "description": device.description, "usable_cores": device.threads, "isa": device.isa, "isas": list(device.isas),
                          "memory_bytes": memory_bytes(), "read_bytes_per_second": round(read_bandwidth(device.threads))})
        cards, unreachable = _native.gpu_devices(), []
        for card in cards:
            if card["problem"]:
                continue
            try:
                memory = _native.gpu_memory(card["name"])
            except DeviceError as error:
                unreachable.append({"name": card["name"], "reason": str(error).rstrip("."), "fix": "models run on the processor meanwhile"})
                continue
            found.append({"name": card["name"], "description": card["description"], "memory_bytes": card["memory"],
                          **({"target": card["target"]} if "target" in card else {"capability": list(card["capability"])}),
                          "free_bytes": memory["free_bytes"], "copy_bytes_per_second": round(memory["copy_bytes_per_second"]), "read_bytes_per_second": round(memory["read_bytes_per_second"])})
        missing = unreachable + _unavailable(cards, list(_native.isas()))
        if as_json:
            print_json({"devices": found, "unavailable": missing, "auto": next((d["name"] for d in found if "isa" not in d), "cpu")})
            return
        out = console()
        for d in found:
            out.print(f"[bold green]{d['name']}[/]   {d['description']}")
            if "isa" not in d:
                out.print(f"      {d['free_bytes'] / 2**30:.1f} of {d['memory_bytes'] / 2**30:.1f} GiB of memory free, copies {d['copy_bytes_per_second'] / 1e9:,.0f} GB/s, reads {d['read_bytes_per_second'] / 1e9:,.0f} GB/s")
                continue
            out.print(f"      {d['usable_cores']} usable cores, {d['memory_bytes'] / 2**30:.1f} GiB of memory, reads {d['read_bytes_per_second'] / 1e9:.1f} GB/s")
            others = ", ".join(name for name in d["isas"] if name != d["isa"])
            out.print(f"      instruction set {d['isa']}; SKIPSTONE_ISA can ask for: {others}" if others else f"      instruction set {d['isa']}")
        auto = next((d["name"] for d in found if "isa" not in d), "cpu")
        out.print(f"device='auto' takes {auto}" + ("" if auto == "cpu" else " where it holds and runs the model, else cpu"))
        for m in missing:
            out.print(f"[dim]{m['name']:<5} {shown(m['reason'])}\n      fix: {shown(m['fix'])}[/]")
