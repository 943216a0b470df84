"""Joins Cython modules built with -DSKIPSTONE_FUZZ=ON (coverage.cpp) to the libFuzzer inside atheris."""
from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import ModuleType

import atheris

FUNCTIONS = [f"__sanitizer_cov_trace_{name}" for name in ("cmp1", "cmp2", "cmp4", "cmp8", "const_cmp1", "const_cmp2", "const_cmp4", "const_cmp8", "switch")]

CORE = str(next(Path(atheris.__file__).parent.glob("core_with_libfuzzer*")))
os.environ["SKIPSTONE_FUZZER"] = CORE          # for preload.cpp
core = ctypes.CDLL(CORE)


def join(modules: list[ModuleType]) -> int:
    """How many of the modules were built for it. To be called before fuzzing starts."""
    joined = 0
    for module in modules:
        built = ctypes.CDLL(module.__file__)
        if not hasattr(built, "skipstone_fuzz_counters"):
            continue
        count = ctypes.c_size_t.in_dll(built, "skipstone_fuzz_count").value
        counters, places = ((ctypes.c_uint8 * n).in_dll(built, f"skipstone_fuzz_{name}") for name, n in (("counters", count), ("places", 16 * count)))
        compare = (ctypes.c_void_p * len(FUNCTIONS)).in_dll(built, "skipstone_fuzz_compare")
        for i, name in enumerate(FUNCTIONS):
            compare[i] = ctypes.cast(getattr(core, name), ctypes.c_void_p).value
        # libFuzzer wants an address for each counter; which does not matter.
        address = ctypes.addressof(counters)
        ctypes.memmove(places, (ctypes.c_size_t * (2 * count))(*(n for i in range(count) for n in (address + i, 0))), 16 * count)
        core.__sanitizer_cov_8bit_counters_init(ctypes.c_void_p(address), ctypes.c_void_p(address + count))
        core.__sanitizer_cov_pcs_init(places, ctypes.c_void_p(ctypes.addressof(places) + 16 * count))
        joined += 1
    return joined
