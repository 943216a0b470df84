"""A libcuda of our own (fake_cuda.cpp) in the driver's place."""
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


def build(folder: Path) -> Path:
    """The library and an image in `folder`; skips the test where it cannot be built."""
    if COMPILER is None:
        pytest.skip("no C++ compiler (c++, g++, clang++ or $CXX) is here to build the emulated card with")
    command = [COMPILER, "-std=c++20", "-O2", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-w", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}", "-o", str(folder / "libcuda.so"),
               str(Path(__file__).parent / "fake_cuda.cpp")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and "ucontext" in built.stderr:
        pytest.skip(f"{COMPILER} has no ucontext.h, which the emulation switches fibers with")
    assert built.returncode == 0, built.stderr
    (folder / "image").write_bytes(b"\x7fELF" + bytes(60))
    return folder


@contextmanager
def emulated(folder: Path) -> Iterator[None]:
    """With the library in `folder` as NVIDIA's driver."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIPSTONE_LIBCUDA", str(folder / "libcuda.so"))
        patch.setenv("SKIPSTONE_GPU_IMAGE", str(folder / "image"))
        yield
