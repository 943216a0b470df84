"""What microbenchmark figures need beside them: the machine, and its read speed before and after."""
from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from skipstone import _native
from skipstone.cli.bench import machine


def read_speed(threads: int) -> float:
    """Bytes a second that a plain read loop gets; measured anew at each call, since other work on the machine changes it."""
    return _native.read_bandwidth(threads) * 1e9


@cache
def threads() -> int:
    """SKIPSTONE_BENCH_THREADS, or all usable cores."""
    return int(os.environ.get("SKIPSTONE_BENCH_THREADS", "0")) or _native.default_threads()


@cache
def speed_before() -> float:
    return read_speed(threads())


@pytest.fixture(scope="session")
def thread_count() -> int:
    return threads()


@pytest.fixture
def bandwidth() -> Callable[[], float]:
    """Measures the read loop's bytes a second: right beside a figure, since it changes with other work on the machine."""
    return lambda: read_speed(threads())


def pytest_report_header() -> str:
    return f"machine: {json.dumps(machine(threads()))}\nread loop before: {speed_before() / 1e9:.1f} GB/s"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    before, after = speed_before(), read_speed(threads())
    terminalreporter.write_line(f"read loop: {before / 1e9:.1f} GB/s before, {after / 1e9:.1f} GB/s after, {threads()} threads")


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Saved runs keep the line too."""
    machine_info["skipstone"] = machine(threads())
