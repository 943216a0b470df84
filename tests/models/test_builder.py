"""The recorder: what it writes down, and that widths which do not fit never get recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skipstone import ModelError, _native
from skipstone.models.builder import Builder, Rows


def weight(rows: int, columns: int) -> Any:
    return _native.Weight("F32", rows, columns, np.zeros(4 * rows * columns, np.uint8))


def stack(experts: int, rows: int, columns: int) -> Any:
    return _native.Weight("F32", rows, columns, [np.zeros(4 * rows * columns, np.uint8)] * experts)


def vector(n: int) -> np.ndarray:
    return np.ones(n, np.float32)


def attention(b: Builder, q: Rows, k: Rows, v: Rows, **change: int) -> Rows:
    return b.attention(q, k, v, **{"heads": 4, "kv_heads": 2, "head": 8, "scale": 1.0, **change})


def delta(b: Builder, **change: Any) -> Rows:
    """Two key heads and four value heads of 8."""
    x = b.embed(weight(5, 16))
    qkv, z, a, bb = b.matmul(x, weight(64, 16), weight(32, 16), weight(4, 16), weight(4, 16))
    of = {
        "key_heads": 2,
        "value_heads": 4,
        "head": 8,
        "conv": vector(256),
        "kernel": 4,
        "decay": -vector(4),
        "dt_bias": vector(4),
        "norm": vector(8),
        "eps": 1e-6,
        "key_of_value": [0, 0, 1, 1],
    }
    return b.delta_net(qkv, z, a, bb, **{**of, **change})


def test_a_pass_with_every_operation() -> None:
    """Every kind is recorded with its buffers in order, and the native program takes it."""
    b = Builder()
    x = b.matmul(b.concat(b.embed(weight(5, 16), 2.0), b.input(16)), weight(16, 32))
    q, k, v = b.matmul(b.rms_norm(x, vector(16), 1e-6), weight(64, 16), weight(16, 16), weight(16, 16))
    q, gate = b.split_heads(q, 8)
    q, k = (b.rope(r, 8, vector(2)) for r in (q, k))
    o = b.sigmoid_gate(attention(b, q, k, b.rms_norm(v, None, 1e-6, group=8)), gate)
    x = b.add(x, b.matmul(o, weight(16, 32)), 0.5)
    y = b.delta_net(
        *b.matmul(x, weight(64, 16), weight(32, 16), weight(4, 16), weight(4, 16)),
        key_heads=2,
        value_heads=4,
        head=8,
        conv=vector(256),
        kernel=4,
        decay=-vector(4),
        dt_bias=vector(4),
        norm=vector(8),
        eps=1e-6,
        key_of_value=[0, 1, 0, 1],
    )
    x = b.add(x, b.matmul(y, weight(16, 32)))
    gate, up = b.matmul(x, weight(24, 16), weight(24, 16))
    shared = b.sigmoid_gate(b.matmul(b.glu(gate, up, "silu"), weight(16, 24)), b.matmul(x, weight(1, 16)))
    y = b.experts(x, b.matmul(x, weight(4, 16)), *(stack(4, *shape) for shape in ((24, 16), (24, 16), (16, 24))), used=2, activation="silu")
    h = b.rms_norm(b.add(y, shared), vector(16), 1e-6)
    b.hidden(h)
    b.head(h, weight(5, 16), 30.0)
    spec = b.spec()
    kinds = [op["kind"] for op in spec["ops"]]
    assert kinds[:4] == ["embed", "input", "concat", "matmul"] and kinds[-2:] == ["hidden", "head"]
    assert {"rms_norm", "split_heads", "rope", "attention", "sigmoid_gate", "add", "delta_net", "glu", "experts"} < set(kinds)
    assert [s["kind"] for s in spec["states"]] == ["kv", "delta"]
    outputs = [i for op in spec["ops"] for i in op["outputs"]]
    assert outputs == list(range(len(spec["widths"])))  # each buffer is written once
    program = _native.Program(spec)
    assert (program.vocabulary, program.hidden_width, program.input_width) == (5, 16, 16)


def test_attend_borrows() -> None:
    b = Builder()
    q = b.matmul(b.embed(weight(5, 16)), weight(32, 16))
    b.head(b.attend(q, borrowed_state=3, heads=4, kv_heads=2, head=8, scale=1.0, window=17), weight(5, 32))
    spec = b.spec()
    assert spec["states"] == [] and _native.Program(spec).borrows


def test_a_spec_does_not_change() -> None:
    b = Builder()
    x = b.embed(weight(5, 16))
    spec = b.spec()
    b.head(x, weight(5, 16))
    assert len(spec["ops"]) == 1


MISFITS: dict[str, Callable[[Builder, Rows], Any]] = {
    "matmul": lambda b, x: b.matmul(x, weight(4, 15)),
    "matmul second": lambda b, x: b.matmul(x, weight(4, 16), weight(4, 17)),
    "head": lambda b, x: b.head(x, weight(4, 15)),
    "rms_norm": lambda b, x: b.rms_norm(x, vector(5), 1e-6),
    "rms_norm group": lambda b, x: b.rms_norm(x, None, 1e-6, group=3),
    "rope head": lambda b, x: b.rope(x, 5, vector(1)),
    "rope frequencies": lambda b, x: b.rope(x, 8, vector(5)),
    "rope none": lambda b, x: b.rope(x, 8, vector(0)),
    "split_heads": lambda b, x: b.split_heads(x, 5),
    "sigmoid_gate": lambda b, x: b.sigmoid_gate(x, b.input(15)),
    "add": lambda b, x: b.add(x, b.input(17)),
    "glu": lambda b, x: b.glu(x, b.input(8), "silu"),
    "attention q": lambda b, x: attention(b, x, x, x),
    "attention k": lambda b, x: attention(b, b.input(32), b.input(8), x),
    "attention v": lambda b, x: attention(b, b.input(32), x, b.input(8)),
    "attention heads": lambda b, x: attention(b, b.input(32), x, x, kv_heads=3),
    "attention no heads": lambda b, x: attention(b, b.input(32), x, x, heads=0),
    "attention large head": lambda b, x: attention(b, b.input(4 * 520), b.input(2 * 520), b.input(2 * 520), head=520),
    "shared_attention state": lambda b, x: b.shared_attention(b.input(32), state=0, heads=4, kv_heads=2, head=8, scale=1.0),
    "shared_attention shape": lambda b, x: (
        attention(b, b.input(32), x, x),
        b.shared_attention(b.input(32), state=0, heads=4, kv_heads=2, head=8, scale=1.0, window=3),
    ),
    "slice beyond": lambda b, x: b.slice(x, 9, 8),
    "slice nothing": lambda b, x: b.slice(x, 9, 0),
    "ordered_head width": lambda b, x: b.ordered_head(x, weight(6, 16), weight(2, 15), np.arange(6), 1),
    "ordered_head clusters": lambda b, x: b.ordered_head(x, weight(5, 16), weight(2, 16), np.arange(5), 1),
    "ordered_head top": lambda b, x: b.ordered_head(x, weight(6, 16), weight(2, 16), np.arange(6), 3),
    "ordered_head order": lambda b, x: b.ordered_head(x, weight(6, 16), weight(2, 16), np.array([0, 1, 2, 3, 4, 4]), 1),
    "attend": lambda b, x: b.attend(x, borrowed_state=0, heads=4, kv_heads=2, head=8, scale=1.0),
    "delta_net width": lambda b, x: delta(b, value_heads=3),
    "delta_net conv": lambda b, x: delta(b, conv=vector(255)),
    "delta_net decay": lambda b, x: delta(b, decay=vector(3)),
    "delta_net norm": lambda b, x: delta(b, norm=vector(9)),
    "delta_net keys": lambda b, x: delta(b, key_of_value=[0, 1, 2, 0]),
    "delta_net too few keys": lambda b, x: delta(b, key_of_value=[0, 1]),
}


@pytest.mark.parametrize("name", MISFITS)
def test_misfits(name: str) -> None:
    b = Builder()
    x = b.embed(weight(5, 16))
    with pytest.raises(ModelError, match=name.split()[0]):
        MISFITS[name](b, x)
