"""NVIDIA's driver is found at run time, or its absence is a sentence: against small libraries of our own that stand in for libcuda."""
from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GPU = ROOT / "csrc" / "backends" / "gpu"
COMPILER = next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)
NO_COMPILER = "no C++ compiler (c++, g++, clang++ or $CXX) is here to build the driver's loader with"
pytestmark = [pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER),
              pytest.mark.skipif(os.name == "nt", reason="the stand-in libraries are built for dlopen")]

LIST = r"""
#include <cstdio>
#include <string>
#include "backends/gpu/cuda/driver.h"
extern "C" const char* list_cards() {
  static std::string out;
  std::string why;
  out.clear();
  for (const auto& c : skipstone::gpu::cuda::cards(why))
    out += c.name + " " + std::to_string(c.major) + "." + std::to_string(c.minor) + " " + std::to_string(c.processors) + " " +
           std::to_string(c.memory_bytes) + " " + std::to_string(c.l2_bytes) + "\n";
  out += "why: " + why;
  return out.c_str();
}
"""

FAKE = r"""
#include <cstddef>
#include <cstring>
extern "C" {
int cuDriverGetVersion(int* v) { *v = VERSION; return 0; }
int cuInit(unsigned) { return INIT; }
int cuGetErrorString(int, const char** t) { *t = "a fault"; return 0; }
int cuDeviceGetCount(int* n) { *n = CARDS; return 0; }
int cuDeviceGet(int* d, int i) { *d = i; return 0; }
int cuDeviceGetName(char* n, int, int d) { if (d == BROKEN) return 999; strcpy(n, d ? "Second card" : "First card"); return 0; }
int cuDeviceGetAttribute(int* v, int a, int) { *v = a == 75 ? 8 : a == 76 ? 9 : a == 16 ? 128 : a == 38 ? 1 << 20 : -1; return 0; }
int cuDeviceTotalMem_v2(size_t* b, int d) { *b = size_t(24 + d) << 30; return 0; }
"""


def build(out: Path, source: str, *more: str) -> Path:
    code = out.with_suffix(".cpp")
    code.write_text(source)
    command = [str(COMPILER), "-std=c++20", "-O1", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}", "-o", str(out), str(code), *more, "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return out


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(build(tmp_path_factory.mktemp("driver") / "loader.so", LIST, str(GPU / "cuda" / "driver.cpp"))))
    lib.list_cards.restype = ctypes.c_char_p
    return lib


def listed(library: ctypes.CDLL, path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    # The process's environment is what getenv sees; os.environ passes changes on.
    monkeypatch.setenv("SKIPSTONE_LIBCUDA", str(path))
    return str(library.list_cards().decode())


def fake(folder: Path, version: int = 12040, init: int = 0, cards: int = 2, broken: int = -1, without: str = "") -> Path:
    source = FAKE
    names = re.findall(r"F\((\w+), \(", (GPU / "cuda" / "driver.h").read_text())
    assert len(names) > 30
    source += "".join(f"int {name}() {{ return 1; }}\n" for name in names if f"int {name}(" not in FAKE and name != without) + "}\n"
    for key, value in {"VERSION": version, "INIT": init, "CARDS": cards, "BROKEN": broken}.items():
        source = re.sub(rf"\b{key}\b", str(value), source)
    return build(folder / "libfake.so", source)


def test_cards_are_listed(library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake(tmp_path)
    want = f"First card 8.9 128 {24 << 30} {1 << 20}\nSecond card 8.9 128 {25 << 30} {1 << 20}\nwhy: "
    assert listed(library, path, monkeypatch) == want
    assert listed(library, path, monkeypatch) == want      # loaded once, listed again


def test_no_library(library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = listed(library, tmp_path / "libnothing.so", monkeypatch)
    assert said.startswith("why: NVIDIA's driver library was not found") and "install NVIDIA's driver" in said


@pytest.mark.parametrize(("settings", "words"), [
    ({"version": 11080}, ["CUDA 11.8", "needs 12.0", "update the driver"]),
    ({"version": 11080, "without": "cuLaunchKernelEx"}, ["CUDA 11.8", "update the driver"]),
    ({"without": "cuLaunchKernelEx"}, ["lacks the function cuLaunchKernelEx", "update NVIDIA's driver"]),
    ({"init": 100}, ["no card", "CUDA_VISIBLE_DEVICES"]),
    ({"init": 803}, ["does not start", "a fault (803)"]),
    ({"cards": 0}, ["no card"]),
    ({"broken": 1}, ["card 1", "a fault (999)"]),
])
def test_reasons_are_sentences(library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int | str],
                               words: list[str]) -> None:
    said = listed(library, fake(tmp_path, **settings), monkeypatch)  # type: ignore[arg-type]
    assert said.startswith("why: ") and said.endswith("."), said
    assert all(word in said for word in words), said
