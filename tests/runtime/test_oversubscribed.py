"""More threads than cores, a processor quota, a busy neighbour: passes end, texts stay the same, and waiting threads sleep instead of spinning.

What spinning wastes is counted, not timed: turns that a thread has spun before it went to sleep all the same.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinities")

# Spins of one wait at most (csrc/runtime/thread_pool.cpp).
SPINS = 2500
WORK = """
import json, os, sys
cores, threads = json.loads(sys.argv[1]), json.loads(sys.argv[2])
if cores:
    os.sched_setaffinity(0, cores)
import skipstone
from skipstone import _native, bundled
said = []
for n in threads:
    model = skipstone.load(bundled.QWEN35, device="cpu", threads=n)
    before = _native.spins_in_vain()
    result = model.generate("class Stack:\\n", max_tokens=48, seed=3, temperature=0.8, draft_tokens=3, stop_at_eos=False)
    said.append([n, _native.default_threads(), _native.spins_in_vain() - before, result.stats.passes, result.tokens])
print(json.dumps(said))
"""


def run(cores: list[int], threads: list[int], group: Path | None = None) -> list[tuple[int, int, int, int, list[int]]]:
    """[threads, usable cores, spins in vain, passes, tokens] a number of threads, in a process of its own."""
    def enter() -> None:
        assert group is not None
        (group / "cgroup.procs").write_text(str(os.getpid()))

    try:
        done = subprocess.run([sys.executable, "-c", WORK, json.dumps(cores), json.dumps(threads)], capture_output=True, text=True, timeout=300,
                              check=False, preexec_fn=enter if group else None)
    except subprocess.SubprocessError:
        pytest.skip("a process cannot be moved into the cgroup")            # real-time ones, for instance
    assert done.returncode == 0, done.stderr[-2000:]
    return [tuple(entry) for entry in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def text() -> list[int]:
    return run([], [1])[0][4]


def test_more_threads_than_cores(text: list[int]) -> None:
    core = min(os.sched_getaffinity(0))
    for threads, usable, spins, _, tokens in run([core], [2, 5]):
        assert tokens == text and usable == 1
        assert spins <= 10 * SPINS, f"{threads} threads on one core"        # a worker may still spin from a region before


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A cgroup of half a processor, where this process may make one."""
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu")):
        group = root / f"skipstone-test-{os.getpid()}"
        if not (root / "cgroup.procs").is_file():
            continue
        try:
            group.mkdir()
            if (group / "cpu.max").exists():
                (group / "cpu.max").write_text("50000 100000")
            else:
                (group / "cpu.cfs_period_us").write_text("100000")
                (group / "cpu.cfs_quota_us").write_text("50000")
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        yield group
        for _ in range(50):                                     # until the kernel has forgotten the processes
            try:
                group.rmdir()
                return
            except OSError:
                time.sleep(0.1)
        return
    pytest.skip("this process may make no cgroup with a processor quota")


def test_quota(text: list[int], half_a_core: Path) -> None:
    [(_, usable, spins, _, tokens)] = run([], [2], half_a_core)
    assert tokens == text and usable == 1
    assert spins <= 10 * SPINS


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2 if hasattr(os, "sched_getaffinity") else True, reason="needs two cores")
def test_busy_neighbour(text: list[int]) -> None:
    """One of two cores is kept busy: a wait may spin in vain, but once each, however long its partner is kept from running."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    busy = subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{cores[1]}])\nwhile True: pass"])
    try:
        [(_, usable, spins, passes, tokens)] = run(cores, [2])
    finally:
        busy.kill()
        busy.wait()
    assert tokens == text and usable == 2
    # A pass has some tens of barriers; drafting passes come between them. Spinning until the partner comes would be thousands of times that.
    assert spins <= SPINS * 200 * passes
