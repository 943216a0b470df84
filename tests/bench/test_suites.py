"""The microbenchmarks run: a case of each, once and unmeasured."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.mark.parametrize("suite, cases, passed", [
    ("bench_operations.py", "rows4 and (context128 or delta or norm or glu)", 7),
    ("bench_matmul.py", "rows2 and (Q4_K or F16)", 3),
])
def test_suite(suite: str, cases: str, passed: int) -> None:
    done = subprocess.run([sys.executable, "-m", "pytest", str(BENCH / "kernels" / suite), "-k", cases, "--benchmark-disable", "-q", "-p", "no:cacheprovider"],
                          capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0 and f"{passed} passed" in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]
