"""AMD's HIP runtime is found at run time, or its absence is a sentence: against small libraries of our own, and a real one where it is installed."""
from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
import test_driver
from test_driver import GPU, build

pytestmark = test_driver.pytestmark

LIST = r"""
#include <string>
#include "backends/gpu/hip/driver.h"
extern "C" const char* list_cards() {
  static std::string out;
  std::string why;
  out.clear();
  for (const auto& c : skipstone::gpu::hip::cards(why))
    out += c.name + " " + c.target + " " + std::to_string(c.processors) + " " + std::to_string(c.wave) + " " + std::to_string(c.shared_a_block) + " " + std::to_string(c.memory_bytes) + "\n";
  out += "why: " + why;
  return out.c_str();
}
"""

FAKE = r"""
#include <cstddef>
#include <cstring>
extern "C" {
int hipRuntimeGetVersion(int* v) { *v = VERSION; return 0; }
const char* hipGetErrorString(int) { return "a fault"; }
int hipGetDeviceCount(int* n) { *n = CARDS; return COUNTED; }
int hipDeviceGetName(char* n, int, int d) { if (d == BROKEN) return 999; strcpy(n, d ? "" : "First card"); return 0; }
int hipDeviceGetAttribute(int* v, int a, int) { *v = a == 63 ? 48 : a == 87 ? 32 : a == 74 ? 65536 : -1; return 0; }
int hipDeviceTotalMem(size_t* b, int d) { *b = size_t(24 + d) << 30; return 0; }
int PROPERTIES(void* p, int d) { strcpy(static_cast<char*>(p) + AT, d ? "gfx90a:sramecc+:xnack-" : "gfx1100"); return 0; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(build(tmp_path_factory.mktemp("hip") / "loader.so", LIST, str(GPU / "hip" / "driver.cpp"))))
    lib.list_cards.restype = ctypes.c_char_p
    return lib


def listed(library: ctypes.CDLL, path: Path | str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SKIPSTONE_LIBAMDHIP64", str(path))
    return str(library.list_cards().decode())


def fake(folder: Path, version: int = 60443482, counted: int = 0, cards: int = 2, broken: int = -1, without: str = "", properties: str = "hipGetDevicePropertiesR0600", at: int = 1160) -> Path:
    names = re.findall(r"F\([\w *]+, (hip\w+), \(", (GPU / "hip" / "driver.h").read_text())
    assert len(names) > 20
    source = FAKE + "".join(f"int {name}() {{ return 1; }}\n" for name in names if f" {name}(" not in FAKE and name != without) + "}\n"
    for key, value in {"VERSION": version, "COUNTED": counted, "CARDS": cards, "BROKEN": broken, "PROPERTIES": properties, "AT": at}.items():
        source = re.sub(rf"\b{key}\b", str(value), source)
    return build(folder / "libfake.so", source)


@pytest.mark.parametrize("of_hip_5", [False, True])
def test_cards_are_listed(library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_hip_5: bool) -> None:
    path = fake(tmp_path, version=50221153, properties="hipGetDeviceProperties", at=396) if of_hip_5 else fake(tmp_path)
    want = f"First card gfx1100 48 32 65536 {24 << 30}\nAMD card, gfx90a gfx90a 48 32 65536 {25 << 30}\nwhy: "
    assert listed(library, path, monkeypatch) == want
    assert listed(library, path, monkeypatch) == want      # loaded once, listed again


@pytest.mark.parametrize(("settings", "words"), [
    ({"version": 40200000}, ["version 4.2", "needs 5.2", "update ROCm"]),
    ({"without": "hipModuleLaunchKernel"}, ["lacks the function hipModuleLaunchKernel", "update ROCm"]),
    ({"properties": "hipSomething"}, ["lacks the function hipGetDeviceProperties"]),
    ({"counted": 100, "cards": 0}, ["no card", "HIP_VISIBLE_DEVICES", "/dev/kfd"]),
    ({"cards": 0}, ["no card"]),
    ({"counted": 3}, ["cannot count its cards", "a fault (3)"]),
    ({"broken": 1}, ["card 1", "a fault (999)"]),
])
def test_reasons_are_sentences(library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int | str], words: list[str]) -> None:
    said = listed(library, fake(tmp_path, **settings), monkeypatch)  # type: ignore[arg-type]
    assert said.startswith("why: ") and said.endswith("."), said
    assert all(word in said for word in words), said


def test_no_library(library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = listed(library, tmp_path / "libnothing.so", monkeypatch)
    assert said.startswith("why: AMD's HIP runtime was not found") and "install ROCm's HIP runtime" in said
    assert "turned off" in listed(library, "off", monkeypatch)


def test_a_real_runtime(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by one of its usual names: its functions are there with these shapes, and it lists its cards or says that there is none."""
    for name in ("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"):
        try:
            ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        pytest.skip("no HIP runtime is installed (Debian: libamdhip64-5)")
    said = listed(library, "", monkeypatch)
    assert "gfx" in said or "it shows no card" in said, said
