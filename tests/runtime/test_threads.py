"""The thread pool: any number of members, after a fork, and under two callers at once."""
from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from skipstone import _native


@pytest.fixture(scope="module")
def product() -> tuple[np.ndarray, _native.Weight, bytes]:
    rng = np.random.default_rng(0)
    w = _native.Weight("F32", 64, 48, rng.standard_normal((64, 48)).astype(np.float32).reshape(-1).view(np.uint8))
    x = rng.standard_normal((5, 48)).astype(np.float32)
    return x, w, _native.matmul(x, w, 1).tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 40])
def test_any_number_of_threads(product: tuple[np.ndarray, _native.Weight, bytes], threads: int) -> None:
    x, w, want = product
    assert all(_native.matmul(x, w, threads).tobytes() == want for _ in range(50))


def test_two_callers_take_turns(product: tuple[np.ndarray, _native.Weight, bytes]) -> None:
    x, w, want = product
    wrong: list[int] = []

    def work(threads: int) -> None:
        wrong.extend(1 for _ in range(200) if _native.matmul(x, w, threads).tobytes() != want)

    callers = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3, 4)]
    for c in callers:
        c.start()
    for c in callers:
        c.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(product: tuple[np.ndarray, _native.Weight, bytes]) -> None:
    x, w, want = product
    assert _native.matmul(x, w, 2).tobytes() == want
    child = os.fork()
    if child == 0:
        os._exit(0 if _native.matmul(x, w, 2).tobytes() == want else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_default_threads_follow_the_affinity() -> None:
    assert 1 <= _native.default_threads() <= len(os.sched_getaffinity(0))
