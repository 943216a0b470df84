"""AMD's code objects: the kernels compile for every kind of target, and what the package holds is sound."""
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import code_objects
import pytest

import skipstone

ROOT = Path(__file__).resolve().parents[2]
CLANG = next((c for c in ("clang-19", "clang-20", "clang-21", "amdclang++") if shutil.which(c)), None)
FLAGS = ["-x", "hip", "--cuda-device-only", "--no-gpu-bundle-output", "-nogpuinc", "-nogpulib", "-mcode-object-version=5", "-std=c++17", "-O3", "-ffp-contract=off", f"-I{ROOT / 'csrc'}"]
PACKED = Path(skipstone.__file__).parent / "gpu" / "kernels-hip.xz"
needs_clang = pytest.mark.skipif(CLANG is None, reason="no clang with AMD's back end is here (Debian: clang-19 lld-19)")
needs_tools = pytest.mark.skipif(not (code_objects.tool("llvm-readelf") and code_objects.tool("llvm-objdump")), reason="llvm-readelf and llvm-objdump are not here (Debian: llvm-19)")
needs_image = pytest.mark.skipif(not PACKED.exists(), reason="this installation has no kernels for AMD cards (SKIPSTONE_HIP)")


def compiled(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(CLANG), *FLAGS, *arguments], capture_output=True, text=True, check=False)


@needs_clang
@pytest.mark.parametrize("target", ["gfx1030", "gfx1100", "gfx1201", "gfx90a"])
def test_the_kernels_are_hip_too(target: str) -> None:
    """Every kernel passes the compiler's front end for a target of each kind: seconds, where code takes a minute."""
    done = compiled(f"--offload-arch={target}", "-fsyntax-only", str(ROOT / "csrc" / "backends" / "gpu" / "kernels.cu"))
    assert done.returncode == 0, "what is written for NVIDIA alone belongs in port.h, beside AMD's form:\n" + done.stderr


@needs_image
@needs_tools
def test_every_target_is_sound(tmp_path: Path) -> None:
    found = code_objects.unpack(PACKED, tmp_path)
    assert tuple(found) == code_objects.TARGETS
    kernels = {target: set(code_objects.notes(path)) for target, path in found.items()}
    assert all(names == kernels["gfx1100"] for names in kernels.values())
    assert {"rows_in_order", "delta_rule", "choose", "matmul_plain", "matmul_q4_k_team4_columns8", "matmul_q8_0_team4_columns16", "attention_128_f16_1", "experts_leave_q6_k_columns8"} <= kernels["gfx1100"]
    assert [f"{target}: {sentence}" for target, path in found.items() for sentence in code_objects.problems(path, target)] == []


BAD = r"""
extern "C" __attribute__((global)) void matmul_spills(int* p, int n) {
  int kept[300];
  for (int i = 0; i < 300; ++i) kept[i] = p[i * n];
  for (int i = 0; i < 300; ++i) p[kept[(i * n) % 300]] = kept[i];
}
extern "C" __attribute__((global)) void rows_in_order(int* p) { *p = 1; }
"""


@needs_clang
@needs_tools
@pytest.mark.parametrize("target", ["gfx1100", "gfx90a"])
def test_what_is_not_sound_is_found(tmp_path: Path, target: str) -> None:
    (tmp_path / "bad.hip").write_text(BAD)
    done = compiled(f"--offload-arch={target}", "-o", str(tmp_path / "bad.co"), str(tmp_path / "bad.hip"))
    assert done.returncode == 0, done.stderr
    said = code_objects.problems(tmp_path / "bad.co", target)
    assert all(s.startswith("matmul_spills: ") for s in said), said
    assert any("_store" in s for s in said) and any("no dot products" in s for s in said) and any("no loads of 16 bytes" in s for s in said)
