"""Drivers of our own in the vendors' place: a libcuda (fake_cuda.cpp) and a libamdhip64 (fake_hip.cpp) over emulated cards."""
from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER = next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)


def build(folder: Path, source: str = "fake_cuda.cpp", *more: str) -> Path:
    """The library and an image in `folder`; skips the test where it cannot be built. more: the compiler's arguments."""
    if COMPILER is None:
        pytest.skip("no C++ compiler (c++, g++, clang++ or $CXX) is here to build the emulated card with")
    alone = [] if "clang" in Path(COMPILER).name else ["-fno-gnu-unique"]      # two of them in one process share nothing
    command = [COMPILER, "-std=c++20", "-O2", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-w", "-shared", "-fPIC", *alone, *more, f"-I{ROOT / 'csrc'}", "-o", str(folder / "libcard.so"),
               str(Path(__file__).parent / source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and "ucontext" in built.stderr:
        pytest.skip(f"{COMPILER} has no ucontext.h, which the emulation switches fibers with")
    assert built.returncode == 0, built.stderr
    (folder / "image").write_bytes(b"\x7fELF" + bytes(60))
    return folder


@contextmanager
def emulated(nvidia: Path, amd: Path | None = None) -> Iterator[None]:
    """With the library in `nvidia` as NVIDIA's driver and the one in `amd` as AMD's runtime; None: there is no AMD card."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIPSTONE_LIBCUDA", str(nvidia / "libcard.so"))
        patch.setenv("SKIPSTONE_LIBAMDHIP64", str(amd / "libcard.so") if amd else "off")
        patch.setenv("SKIPSTONE_GPU_IMAGE", str(nvidia / "image"))
        yield
