"""Attention alone on a card: many layers of Qwen3-8B's heads behind matmuls too small to count, 1 to 16 rows at several contexts.

    python bench/gpu/attention.py [--contexts 256,4096,32768] [--heads 32] [--kv-heads 8] [--head 128] [--layers 24] [--window 0] [--kv-type f16]

Prints a JSON line a context: microseconds a layer, how often the time of its cache's bytes at the card's measured copy speed that is, and how many rows of a
pass differ from the row alone. The matmul in front of each attention is measured by itself and taken off.
"""
from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from skipstone import _native

WIDTH = 32


def record(layers: int, heads: int, kv_heads: int, head: int, window: int, attention: bool) -> dict:
    rng = np.random.default_rng(1)
    widths: list[int] = []
    ops: list[dict] = []

    def op(kind: str, inputs: list[int], outs: list[int], **more: object) -> list[int]:
        ids = list(range(len(widths), len(widths) + len(outs)))
        widths.extend(outs)
        ops.append({"kind": kind, "inputs": inputs, "outputs": ids, **more})
        return ids

    def weight(rows: int, columns: int) -> _native.Weight:
        return _native.Weight("Q8_0", rows, columns, _native.quantize("Q8_0", rng.standard_normal(rows * columns).astype(np.float32)))

    (x,) = op("embed", [], [WIDTH], weight=weight(256, WIDTH), scale=1.0)
    frequencies = (1e6 ** (-np.arange(head // 2) / (head // 2))).astype(np.float32)
    sizes = [heads * head, kv_heads * head, kv_heads * head]
    last = x
    for layer in range(layers):
        q, k, v = op("matmul", [x], sizes, weights=[weight(n, WIDTH) for n in sizes])
        last = q
        if not attention:
            continue
        q, k = (op("rms_norm", [i], [widths[i]], weight=np.ones(head, np.float32), group=head, eps=1e-6)[0] for i in (q, k))
        q, k = (op("rope", [i], [widths[i]], head=head, rotated=head, frequencies=frequencies)[0] for i in (q, k))
        (last,) = op("attention", [q, k, v], [heads * head], state=layer, heads=heads, kv_heads=kv_heads, head=head, scale=head**-0.5, window=window)
    op("head", [last], [], weight=weight(256, heads * head), softcap=0.0)
    states = [{"kind": "kv", "kv_heads": kv_heads, "head": head, "window": window} for _ in range(layers)] if attention else []
    return {"widths": widths, "states": states, "ops": ops}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("heads", 32), ("kv-heads", 8), ("head", 128), ("layers", 24), ("window", 0), ("device", 0)):
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--contexts", default="256,4096,32768")
    p.add_argument("--kv-type", default="f16")
    a = p.parse_args()
    copy = _native.gpu_memory(a.device)["copy_bytes_per_second"]
    rng = np.random.default_rng(2)
    programs = [_native.GpuProgram(record(a.layers, a.heads, a.kv_heads, a.head, a.window, attention), a.device) for attention in (False, True)]
    size = 4 if a.kv_type == "f32" else 2
    for context in (int(c) for c in a.contexts.split(",")):
        ids = rng.integers(0, 256, context + 16).astype(np.int32)
        sequences = [None, programs[1].sequence(a.kv_type)]
        programs[1].run([(sequences[1], ids[:context])], want="none")
        alone = [np.asarray(programs[1].run([(sequences[1], ids[i:i + 1])])[0])[0].copy() for i in range(context, context + 16)]
        seen = min(context, a.window) if a.window else context
        nbytes = 2 * a.kv_heads * a.head * size * seen
        result: dict = {"device": _native.gpu_devices()[a.device]["description"], "heads": [a.heads, a.kv_heads, a.head], "kv_type": a.kv_type, "context": context, "window": a.window,
                        "copy_gb_a_second": round(copy / 1e9), "bytes_us": round(1e6 * nbytes / copy, 2), "us": {}, "times_bytes": {}, "rows_that_differ": {}}
        for rows in (1, 2, 3, 4, 6, 8, 12, 16):
            took = []
            for program, sequence in zip(programs, sequences, strict=True):
                times = []
                for _ in range(25):
                    if sequence is not None:
                        sequence.rollback(context)
                    begin = time.perf_counter()
                    program.run([(sequence, ids[context:context + rows])], want="choice")
                    times.append(time.perf_counter() - begin)
                took.append(statistics.median(times[5:]))
            sequences[1].rollback(context)
            z = np.asarray(programs[1].run([(sequences[1], ids[context:context + rows])])[0])
            result["us"][rows] = round(1e6 * (took[1] - took[0]) / a.layers, 2)
            result["times_bytes"][rows] = round(result["us"][rows] / (1e6 * nbytes / copy), 2)
            result["rows_that_differ"][rows] = sum(not np.array_equal(z[r], alone[r]) for r in range(rows))
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
