"""What stands between the matrix products: attention over a cache, the gated delta-net, norms.

    pytest bench/kernels/bench_operations.py
    pytest bench/kernels/bench_operations.py -k 'attention and rows4' --benchmark-json=out.json

Each is recorded as a program of its own, four times in a row with a state for each as the layers of a model have, so that the caches and states
come out of memory as they do in a model. extra_info holds microseconds a layer, the bytes of cache or state that a layer reads (and writes), and
GB/s. SKIPSTONE_BENCH_THREADS sets the threads. The sizes are those of Qwen3-8B, Gemma 4 31B's global layers and Qwen3.5-27B.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skipstone import _native
from skipstone.models.builder import Builder, Rows

LAYERS, TOKENS = 4, 32
ROWS = (1, 2, 4, 8, 16)
rows_parameter = pytest.mark.parametrize("rows", ROWS, ids=lambda rows: f"rows{rows}")


class Layers:
    """A program of LAYERS times `layer`, which takes and gives rows of `width`."""

    def __init__(self, width: int, layer: Callable[[Builder, Rows], Rows], threads: int) -> None:
        b = Builder()
        table = np.random.default_rng(0).standard_normal((TOKENS, width), dtype=np.float32)
        x = b.embed(_native.Weight("F32", TOKENS, width, table.view(np.uint8).reshape(-1)))
        for _ in range(LAYERS):
            x = layer(b, x)
        b.hidden(x)
        self.program, self.threads = _native.Program(b.spec()), threads
        self.sequence = self.program.sequence("f16")

    def run(self, rows: int) -> None:
        self.program.run([(self.sequence, np.arange(rows, dtype=np.int32) % TOKENS)], want="none", threads=self.threads)

    def fill(self, context: int) -> None:
        for start in range(0, context, 512):
            self.run(min(512, context - start))


def measure(benchmark: Any, layers: Layers, rows: int, name: str, bytes_a_layer: int) -> None:
    """Times a pass of `rows`, which leaves the sequence as it was."""
    length = layers.sequence.length

    def once() -> None:
        layers.run(rows)
        layers.sequence.rollback(length)

    benchmark.group = name
    benchmark(once)
    if benchmark.stats is not None:
        seconds = benchmark.stats.stats.median / LAYERS
        benchmark.extra_info.update(isa=_native.isa(), threads=layers.threads, microseconds_a_layer=1e6 * seconds, bytes_a_layer=bytes_a_layer,
                                    gigabytes_per_second=bytes_a_layer / seconds / 1e9)


def first_half(b: Builder, x: Rows, times: int) -> Rows:
    """The first 1 / 2^times of the values, in whole heads where the width has them."""
    for _ in range(times):
        x = b.split_heads(x, x.width // 2)[0]
    return x


@rows_parameter
@pytest.mark.parametrize("context", (128, 2048), ids=lambda context: f"context{context}")
@pytest.mark.parametrize("heads, halvings, head", [(32, 2, 128), (32, 3, 512)], ids=["32of8x128", "32of4x512"])
def test_attention(benchmark: Any, thread_count: int, heads: int, halvings: int, head: int, context: int, rows: int) -> None:
    kv_heads = heads >> halvings

    def layer(b: Builder, x: Rows) -> Rows:
        kv = first_half(b, x, halvings)
        return b.attention(x, kv, kv, heads=heads, kv_heads=kv_heads, head=head, scale=head**-0.5)

    layers = Layers(heads * head, layer, thread_count)
    layers.fill(context)
    measure(benchmark, layers, rows, f"attention, {heads} heads of {kv_heads} x {head}, context {context}", 2 * 2 * context * kv_heads * head)


@rows_parameter
def test_delta_net(benchmark: Any, thread_count: int, rows: int) -> None:
    key_heads, value_heads, head, kernel, wide = 16, 48, 128, 4, 16384
    rng = np.random.default_rng(2)
    channels = (2 * key_heads + value_heads) * head                  # 10240

    def layer(b: Builder, x: Rows) -> Rows:
        k8, k2 = first_half(b, x, 1), first_half(b, x, 3)
        gates = first_half(b, x, 8)                                  # 64, of which a and b take 48
        narrow = b.matmul(gates, _native.Weight("F32", value_heads, 64, rng.standard_normal((value_heads, 64), dtype=np.float32).view(np.uint8).reshape(-1)))
        z = b.concat(first_half(b, x, 2), k2)                        # 6144
        y = b.delta_net(b.concat(k8, k2), z, narrow, narrow, key_heads=key_heads, value_heads=value_heads, head=head,
                        conv=0.1 * rng.standard_normal(channels * kernel, dtype=np.float32), kernel=kernel, decay=np.full(value_heads, -0.5, np.float32),
                        dt_bias=np.full(value_heads, 0.5, np.float32), norm=np.ones(head, np.float32), eps=1e-6,
                        key_of_value=[v % key_heads for v in range(value_heads)])
        return b.concat(b.concat(y, z), b.concat(k2, k2))            # 6144 + 6144 + 4096

    layers = Layers(wide, layer, thread_count)
    layers.fill(64)
    measure(benchmark, layers, rows, "delta-net, 48 value heads of 128", 2 * 4 * value_heads * head * head)


@rows_parameter
@pytest.mark.parametrize("width, group", [(4096, None), (4096, 128)], ids=["rows", "heads"])
def test_rms_norm(benchmark: Any, thread_count: int, width: int, group: int | None, rows: int) -> None:
    weight = np.ones(group or width, np.float32)
    layers = Layers(width, lambda b, x: b.rms_norm(x, weight, 1e-6, group=group), thread_count)
    measure(benchmark, layers, rows, f"rms_norm, {width} values" + (f" in heads of {group}" if group else ""), 2 * 4 * rows * width)


@rows_parameter
@pytest.mark.parametrize("activation", ("silu", "gelu_tanh"))
def test_glu(benchmark: Any, thread_count: int, activation: str, rows: int) -> None:
    layers = Layers(12288, lambda b, x: b.glu(x, x, activation), thread_count)
    measure(benchmark, layers, rows, f"glu, {activation}, 12288 values", 3 * 4 * rows * 12288)
