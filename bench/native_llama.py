"""Builds llama.cpp for this machine, with all instruction sets that it has, from the source in PyPI's llama_cpp_python, for compare_cpu.py and compare_gpu.py.

    python bench/native_llama.py FOLDER
    python bench/compare_cpu.py FILE --native-library "$(python bench/native_llama.py FOLDER)"
    python bench/compare_gpu.py FILE --native-library "$(python bench/native_llama.py OTHER --cuda 90)"

Prints the path of libllama.so; where it is already built, at once. Needs a C++ compiler and CMake, and takes some minutes.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
from pathlib import Path

VERSION = "0.3.36"
# The library alone, and nothing that is fetched while it builds.
OFF = ("LLAMA_BUILD_TOOLS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_SERVER", "LLAMA_BUILD_COMMON", "LLAMA_CURL")


def run(*command: object) -> None:
    """Its output goes to standard error, so that the path is all that stands on standard output."""
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)


def build(folder: Path, jobs: int, cuda: str) -> Path:
    """The path of the library. cuda: compute capability to build for (90: an H100), none by default."""
    library = folder / "build/bin/libllama.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"llama_cpp_python-{VERSION}"
    if not source.is_dir():
        run(sys.executable, "-m", "pip", "download", f"llama_cpp_python=={VERSION}", "--no-binary", ":all:", "--no-deps", "-d", folder)
        with tarfile.open(folder / f"{source.name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    run("cmake", "-S", source / "vendor/llama.cpp", "-B", folder / "build", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=ON",
        *(f"-D{name}=OFF" for name in OFF), *(("-DGGML_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={cuda}") if cuda else ()))
    run("cmake", "--build", folder / "build", "--target", "llama", "-j", jobs)
    return library


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--cuda", default="", metavar="CAPABILITY", help="with CUDA, for cards of this capability (90: an H100); needs nvcc")
    chosen = parser.parse_args()
    try:
        print(build(chosen.folder.resolve(), max(1, chosen.jobs), chosen.cuda))
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"native_llama.py: {error}")


if __name__ == "__main__":
    main()
