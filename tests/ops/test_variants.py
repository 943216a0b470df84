"""All instruction sets give the scalar kernels' bits: those of this machine, and those of 64-bit ARM, cross-compiled and run by qemu-aarch64.

variants.cpp runs every kernel of every table over the same inputs, and of instruction sets that this machine may not have the matrix products
(more_variants.cpp): AMX with its tile registers in plain C++, AVX-VNNI in the encoding of AVX-512 VNNI. The digests of the scalar kernels also compare ARM with this machine, so a text is the
same on both. Debian has what the ARM half needs: apt-get install g++-aarch64-linux-gnu qemu-user.
"""
from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
import skipstone
from blocks import filled_blocks, random_blocks
from skipstone import _native

ROOT = Path(__file__).resolve().parents[2]
CPU, FORMATS = ROOT / "csrc/backends/cpu", ROOT / "csrc/formats"
PROGRAM, MORE = (Path(__file__).with_name(name) for name in ("variants.cpp", "more_variants.cpp"))
CORE = Path(skipstone.__file__).resolve().parent
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=off", f"-I{ROOT / 'csrc'}"]
TYPES = [t["name"] for t in _native.types()]
ARM_COMPILER, QEMU = "aarch64-linux-gnu-g++", "qemu-aarch64"
ON_ARM = platform.machine() in ("aarch64", "arm64")


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def results(output: str) -> dict[str, str]:
    """Case -> bytes and digest of the scalar kernels. Every line but the first must end in "same"."""
    lines = output.splitlines()[1:]
    assert [line for line in lines if not line.endswith(" same")] == []
    return dict(re.fullmatch(r"(.+) (\d+ [0-9a-f]{16}) same", line).groups() for line in lines)  # type: ignore[union-attr,misc]


def arm_variants() -> dict[str, list[str]]:
    """Variant -> its compiler flags, as the build has them."""
    arm = re.search(r'MATCHES "aarch64.*?endif', (ROOT / "csrc/CMakeLists.txt").read_text(), re.DOTALL)
    assert arm
    return {name: flags.split() for name, flags in re.findall(r"cpu_variant\((\w+) ([^)]*)\)", arm[0])}


def x86_flags(variant: str) -> list[str]:
    """Compiler flags of a variant, as the build has them."""
    text = (ROOT / "csrc/CMakeLists.txt").read_text()
    wide = re.search(r"set\(avx512 (.*?)\)", text)
    flags = re.search(rf"cpu_variant\({variant} (.*?)\)", text)
    assert wide and flags
    return flags[1].replace("${avx512}", wide[1]).split()


def more_variants() -> dict[str, list[str]]:
    """Parts of more_variants.cpp that run here -> their compiler flags."""
    if "avx512" not in _native.isas():
        return {"PLAIN": []}
    return {"PLAIN": [], "WIDE": x86_flags("avx512"), "EVEX": [*x86_flags("avxvnni"), "-mno-avxvnni", "-mavx512vl", "-mavx512vnni"]}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 rows of every type: random, and for quantized types four of one byte repeated; an odd number of blocks where the type allows it."""
    path = tmp_path_factory.mktemp("weights") / "weights"
    rng = np.random.default_rng(11)
    with path.open("wb") as file:
        for name in TYPES:
            block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][0]
            columns = 512 if block == 256 else 320 if block == 64 else 96 if block == 1 else 352
            parts = [random_blocks(rng, name, 13 * columns)] if block == 1 else [random_blocks(rng, name, 9 * columns)]
            parts += [filled_blocks(rng, name, columns, fill) for fill in (0x00, 0xFF, 0x80, 0x7F) if block > 1]
            file.write(f"{name} 13 {columns}\n".encode() + np.concatenate(parts).tobytes())
    return path


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> str:
    """Output of the program on this machine, with the kernels that are installed."""
    compiler = next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)
    if compiler is None:
        pytest.skip("no C++ compiler (c++, g++, clang++ or $CXX) is here to build the program with")
    folder = tmp_path_factory.mktemp("here")
    jobs = [(folder / "variants.o", PROGRAM, []), *((folder / f"{name}.o", MORE, [f"-D{name}", *flags]) for name, flags in more_variants().items())]
    with ThreadPoolExecutor(2) as two:
        list(two.map(lambda job: run(compiler, *FLAGS, "-O1", *job[2], "-c", job[1], "-o", job[0]), jobs))
    run(compiler, *(job[0] for job in jobs), "-o", folder / "variants", f"-L{CORE}", "-lskipstone_core", f"-Wl,-rpath,{CORE}")
    return run(folder / "variants", weights)


@pytest.fixture(scope="module")
def arm_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if ON_ARM:
        pytest.skip("this machine is ARM itself: its kernels are tested directly")
    missing = [f"{tool} (Debian: {package})" for tool, package in ((ARM_COMPILER, "g++-aarch64-linux-gnu"), (QEMU, "qemu-user")) if not shutil.which(tool)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("arm")
    jobs = [(folder / f"{name}.o", CPU / name / "kernels.cpp", flags) for name, flags in (("baseline", []), *arm_variants().items())]
    jobs += [(folder / f"{source.stem}.o", source, ["-DSKIPSTONE_ARM64"]) for source in (*CPU.glob("*.cpp"), *FORMATS.glob("*.cpp"), PROGRAM)]
    with ThreadPoolExecutor(2) as two:
        list(two.map(lambda job: run(ARM_COMPILER, *FLAGS, *job[2], "-c", job[1], "-o", job[0]), jobs))
    run(ARM_COMPILER, "-static", *(job[0] for job in jobs), "-o", folder / "variants")
    return folder / "variants"


def test_instruction_sets_agree(here: str) -> None:
    isas, more = " ".join(_native.isas()), {"PLAIN": "plain_tiles", "WIDE": "wide_tiles", "EVEX": "evex"}
    assert re.fullmatch(rf"isas {isas}; chosen \w+; compared {isas} {' '.join(more[part] for part in more_variants())}", here.splitlines()[0])
    assert results(here)


# Processors that have AVX-VNNI and no AVX-512 refuse the latter's encoding of the same instruction.
@pytest.mark.skipif(ON_ARM or not shutil.which("objdump"), reason="needs an x86 machine with objdump (Debian: binutils)")
def test_avx_vnni_stays_within_avx(tmp_path: Path) -> None:
    run("c++", *FLAGS, *x86_flags("avxvnni"), "-c", CPU / "avxvnni/kernels.cpp", "-o", tmp_path / "kernels.o")
    code = run("objdump", "-d", "--no-show-raw-insn", tmp_path / "kernels.o")
    products = [line for line in code.splitlines() if "vpdpbusd" in line]
    assert len(products) > 100 and all("{vex}" in line and "%ymm" in line for line in products)
    assert not re.search(r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2\d|3[01])", code)


def test_every_kernel_and_type_is_run(here: str) -> None:
    table = (CPU / "kernels.h").read_text().split("struct Kernels {")[1].split("};")[0]
    kernels = set(re.findall(r"\(\*(\w+)\)\(", table))
    assert len(kernels) > 15 and {case.split()[0] for case in results(here)} == kernels - {"lay_out_row"}      # null but for tiles, whose products run it
    assert {case.split()[1] for case in results(here) if case.startswith("matmul ")} == set(TYPES)


# Processors with everything, with dot products only, and with neither.
@pytest.mark.slow
@pytest.mark.parametrize(("processor", "isas"), [("max", ["i8mm", "neon", "generic"]), ("neoverse-n1", ["neon", "generic"]), ("cortex-a53", ["generic"])])
def test_arm_gives_the_bits_of_this_machine(processor: str, isas: list[str], arm_program: Path, weights: Path, here: str) -> None:
    output = run(QEMU, "-cpu", processor, arm_program, weights)
    assert output.splitlines()[0] == f"isas {' '.join(isas)}; chosen {isas[0]}; compared {' '.join(isas)}"
    assert results(output) == results(here)
