"""Whole passes on a card: Qwen3-8B's shape with random weights, 1 to 16 rows after 256 positions, and prompts. Prints one JSON line a type.

    python bench/gpu/passes.py [--types Q8_0,Q4_K] [--device 0] [--layers 36] [--context 256]
"""
from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from skipstone import _native

HIDDEN, HEADS, KV_HEADS, HEAD, INNER, VOCABULARY = 4096, 32, 8, 128, 12288, 151936
BLOCKS = {"Q8_0": (32, 34, (0,)), "Q4_K": (256, 144, (0, 2)), "Q6_K": (256, 210, (208,))}


def weight(rng: np.random.Generator, name: str, rows: int, columns: int) -> _native.Weight:
    values, size, halves = BLOCKS[name]
    blocks = np.frombuffer(rng.bytes(rows * columns // values * size), np.uint8).reshape(-1, size).copy()
    for at in halves:
        scale = np.full(len(blocks), {"Q8_0": 3e-4, "Q4_K": 1e-4, "Q6_K": 2e-5}[name], np.float16)
        blocks[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
    return _native.Weight(name, rows, columns, blocks.reshape(-1))


def record(name: str, layers: int) -> tuple[dict, int]:
    rng = np.random.default_rng(1)
    widths: list[int] = []
    ops: list[dict] = []
    total = 0

    def op(kind: str, inputs: list[int], outs: list[int], **more: object) -> list[int]:
        ids = list(range(len(widths), len(widths) + len(outs)))
        widths.extend(outs)
        ops.append({"kind": kind, "inputs": inputs, "outputs": ids, **more})
        return ids

    def matmul(x: int, sizes: list[int]) -> list[int]:
        nonlocal total
        weights = [weight(rng, name, n, widths[x]) for n in sizes]
        total += sum(w.bytes for w in weights)
        return op("matmul", [x], sizes, weights=weights)

    def norm(x: int, group: int) -> int:
        return op("rms_norm", [x], [widths[x]], weight=np.ones(group, np.float32), group=group, eps=1e-6)[0]

    table = weight(rng, name, VOCABULARY, HIDDEN)
    total += table.bytes
    (x,) = op("embed", [], [HIDDEN], weight=table, scale=1.0)
    frequencies = (1e6 ** (-np.arange(HEAD // 2) / (HEAD // 2))).astype(np.float32)
    for layer in range(layers):
        q, k, v = matmul(norm(x, HIDDEN), [HEADS * HEAD, KV_HEADS * HEAD, KV_HEADS * HEAD])
        q, k = (op("rope", [norm(i, HEAD)], [widths[i]], head=HEAD, rotated=HEAD, frequencies=frequencies)[0] for i in (q, k))
        (o,) = op("attention", [q, k, v], [HEADS * HEAD], state=layer, heads=HEADS, kv_heads=KV_HEADS, head=HEAD, scale=HEAD**-0.5, window=0)
        (x,) = op("add", [x, matmul(o, [HIDDEN])[0]], [HIDDEN], scale=1.0)
        gate, up = matmul(norm(x, HIDDEN), [INNER, INNER])
        (y,) = op("glu", [gate, up], [INNER], activation="silu")
        (x,) = op("add", [x, matmul(y, [HIDDEN])[0]], [HIDDEN], scale=1.0)
    op("head", [norm(x, HIDDEN)], [], weight=table, softcap=0.0)
    states = [{"kind": "kv", "kv_heads": KV_HEADS, "head": HEAD, "window": 0} for _ in range(layers)]
    return {"widths": widths, "states": states, "ops": ops}, total


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--types", default="Q8_0,Q4_K")
    p.add_argument("--device", type=int, default=0)
    p.add_argument("--layers", type=int, default=36)
    p.add_argument("--context", type=int, default=256)
    p.add_argument("--copy", type=float, default=3.0e12, help="bytes a second of a device copy, read and written")
    a = p.parse_args()
    device = _native.gpu_devices()[a.device]["description"]
    for name in a.types.split(","):
        start = time.perf_counter()
        spec, total = record(name, a.layers)
        made = time.perf_counter()
        program = _native.GpuProgram(spec, a.device)
        loaded = time.perf_counter()
        rng = np.random.default_rng(2)
        ids = rng.integers(0, VOCABULARY, a.context + 1024).astype(np.int32)
        sequence = program.sequence("f16")
        program.run([(sequence, ids[:a.context])], want="none")
        single = []
        for t in ids[a.context:a.context + 16]:
            single.append(program.run([(sequence, np.array([t], np.int32))], want="logits")[0][0].copy())
        result: dict = {"device": device, "shape": "Qwen3-8B", "type": name, "layers": a.layers, "context": a.context, "bytes": total, "ms": {}, "load_s": round(loaded - made, 2), "generate_s": round(made - start, 2)}
        for rows in (1, 2, 4, 8, 16):
            times, wrong = [], 0
            for i in range(25):
                sequence.rollback(a.context)
                begin = time.perf_counter()
                program.run([(sequence, ids[a.context:a.context + rows])], want="choice")
                times.append(time.perf_counter() - begin)
            sequence.rollback(a.context)
            z = program.run([(sequence, ids[a.context:a.context + rows])], want="logits")[0]
            wrong = sum(not np.array_equal(z[r], single[r]) for r in range(rows))
            result["ms"][rows] = round(1e3 * statistics.median(times[5:]), 3)
            result.setdefault("rows_that_differ", {})[rows] = wrong
        result["share_of_copy"] = round(total / (result["ms"][1] * 1e-3) / a.copy, 3)
        result["kernels_a_layer"] = (len(program.kernels) - 2) / a.layers
        fresh = program.sequence("f16")
        times = []
        for _ in range(5):
            fresh.rollback(0)
            begin = time.perf_counter()
            program.run([(fresh, ids[:512])], want="choice", rows="last")
            times.append(time.perf_counter() - begin)
        result["prompt_512_tokens_per_s"] = round(512 / statistics.median(times[2:]))
        print(json.dumps(result), flush=True)
        del program, sequence, fresh, spec


if __name__ == "__main__":
    main()
