"""pack.py OUT TARGET.co ...: the code objects of all architectures in one file, which keeps the package small: those of one family are nearly the same.

The file is xz of lines "target offset bytes", an empty line, and the code objects, offsets counted from there (csrc/bindings/gpu.cpp reads it).
"""
from __future__ import annotations

import lzma
import sys
from pathlib import Path


def pack(out: Path, objects: list[Path]) -> None:
    index, data = "", b""
    for path in objects:
        code = path.read_bytes()
        assert code[:4] == b"\x7fELF", f"{path} is no code object"
        index += f"{path.stem.rpartition('-')[2]} {len(data)} {len(code)}\n"
        data += code
    out.write_bytes(lzma.compress(index.encode() + b"\n" + data, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    pack(Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]])
