"""What a compiler made of the kernels for an AMD architecture: its notes, read with llvm-readelf, and its instructions, with llvm-objdump.

    python code_objects.py FILE.co|kernels-hip.xz ...      prints what is wrong with them
"""
from __future__ import annotations

import lzma
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = ("gfx1030", "gfx1100", "gfx1101", "gfx1151", "gfx1200", "gfx1201", "gfx90a", "gfx942")
HOT = r"matmul|attention|attend|rows_in_order|delta_rule|choose|experts"       # names of kernels that take a pass's time
DOT = {"gfx9": r"v_dot4c?_i32_i8", "gfx10": r"v_dot4c?_i32_i8", "gfx1[12]": r"v_dot4_i32_iu8"}
WIDE = {"gfx": r"global_load_(b128|dwordx4)"}
MOVES = {"gfx": r"_dpp\b"}
# Kernels by name, and what each target's code must contain.
QUANTIZED = r"(matmul|experts_enter|experts_leave)_(?!plain)"
RULES = ((QUANTIZED, "dot products of bytes", DOT), (QUANTIZED, "loads of 16 bytes", WIDE), (QUANTIZED, "lanes that trade without memory", MOVES))
# Memory of a thread's own is where registers are spilled to; generic addresses mean that a pointer's memory was not known.
FORBIDDEN = r"\b(scratch_(load|store)|buffer_(load|store)|flat_(load|store)|s_swappc)\w*"


def tool(name: str) -> str | None:
    """llvm-readelf or llvm-objdump by one of its names; None: not here."""
    return next((path for end in ("-19", "-20", "-21", "") if (path := shutil.which(name + end))), None)


def _run(name: str, *arguments: str) -> str:
    found = tool(name)
    assert found, f"{name} is not here (Debian: llvm-19)"
    return subprocess.run([found, *arguments], check=True, capture_output=True, text=True).stdout


def notes(path: Path) -> dict[str, dict[str, int]]:
    """By kernel the numbers of its notes: vgpr_count, vgpr_spill_count, group_segment_fixed_size, wavefront_size ..."""
    found: list[dict[str, str]] = []
    for line in _run("llvm-readelf", "--notes", str(path)).splitlines():
        if line.startswith("  - ."):
            found.append({})
        if found and (m := re.match(r"  (?:- |  )\.(\w+): +(\S+)$", line)):
            found[-1][m[1]] = m[2]
    return {k["name"]: {key: int(v) for key, v in k.items() if v.isdigit()} for k in found if "name" in k}


def code(path: Path) -> dict[str, str]:
    """Instructions by symbol."""
    text = _run("llvm-objdump", "-d", "--no-show-raw-insn", str(path))
    return {m[1]: part for part in re.split(r"\n(?=[0-9a-f]{16} <)", text)[1:] if (m := re.search("<(.+)>:", part))}


def problems(path: Path, target: str) -> list[str]:
    """Sentences: what is wrong with a code object."""
    said, instructions = [], code(path)
    for name, numbers in notes(path).items():
        text = instructions[name]
        if numbers["wavefront_size"] != (64 if target.startswith("gfx9") else 32):
            said.append(f"{name}: waves of {numbers['wavefront_size']}")
        if not re.match(HOT, name):
            continue
        if m := re.search(FORBIDDEN, text):
            said.append(f"{name}: {m[0]} ({numbers['vgpr_count']} registers, {numbers['vgpr_spill_count']} spilled)")
        for kernels, what, table in RULES:
            wanted = next((v for t, v in table.items() if re.match(t, target)), None)
            if wanted and re.match(kernels, name) and not re.search(wanted, text):
                said.append(f"{name}: no {what} ({wanted})")
    return said


def unpack(packed: Path, folder: Path) -> dict[str, Path]:
    """The code objects of what csrc/backends/gpu/hip/pack.py wrote, as files, by target."""
    index, _, data = lzma.decompress(packed.read_bytes()).partition(b"\n\n")
    out = {}
    for line in index.decode().splitlines():
        target, at, size = line.split()
        out[target] = folder / f"{target}.co"
        out[target].write_bytes(data[int(at):int(at) + int(size)])
    return out


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        files: dict[str, Path] = {}
        for argument in map(Path, sys.argv[1:]):
            files |= unpack(argument, Path(temporary)) if argument.suffix == ".xz" else {re.findall(r"gfx\w+", argument.name)[-1]: argument}
        bad = [f"{target}: {sentence}" for target, path in files.items() for sentence in problems(path, target)]
    print(*bad or ["ok"], sep="\n")
    sys.exit(bool(bad))
