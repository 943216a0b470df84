"""A mixture's experts: one expert's bits are those of its dense block, a row's bits do not depend on the rows beside it, and sums are as in the oracle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skipstone import ModelError, _native
from skipstone.models.builder import Builder

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ops.test_matmul import FLOATS, NAMES, random_blocks
from oracles import interpreter

BLOCK = {t["name"]: t["block"] for t in _native.types()}


def stack(rng: np.random.Generator, name: str, experts: int, rows: int, columns: int) -> tuple[Any, ...]:
    """The arguments of a Weight of that many experts, with outputs of moderate size."""
    arrays = [random_blocks(rng, name, rows * columns) for _ in range(experts)]
    if name in FLOATS:
        arrays = [_scaled(a, name, columns**-0.5) for a in arrays]
    return name, rows, columns, arrays


def _scaled(data: np.ndarray, name: str, by: float) -> np.ndarray:
    if name == "F16":
        return (data.view(np.float16) * np.float16(by)).view(np.uint8)
    if name == "F32":
        return (data.view(np.float32) * np.float32(by)).view(np.uint8)
    wide = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32) * np.float32(by)
    return (wide.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)


def plain(values: np.ndarray) -> tuple[Any, ...]:
    return "F32", values.shape[0], values.shape[1], np.ascontiguousarray(values, np.float32).view(np.uint8).reshape(-1)


def program(kind: Any, weight: Any, router: tuple[Any, ...], gate: Any, up: Any, down: Any, **options: Any) -> Any:
    """hidden = experts(x): the rows come in as `input`, the router reads them."""
    b = Builder()
    x = b.input(router[2])
    y = b.experts(x, b.matmul(x, weight(*router)), weight(*gate), weight(*up), weight(*down), **options)
    b.hidden(y)
    b.head(y, weight(*plain(np.zeros((2, router[2])))))
    return kind(b.spec())


def run(made: Any, x: np.ndarray, threads: int = 2) -> np.ndarray:
    return made.run([(None, np.zeros(len(x), np.int32))], hidden=x, want="none", threads=threads)[1]


def native(*args: Any, **options: Any) -> Any:
    return program(_native.Program, _native.Weight, *args, **options)


@pytest.mark.parametrize("name", NAMES)
def test_one_expert_is_its_dense_block(name: str) -> None:
    """With one expert a row its share is 1, and the bits are those of matmul, glu, matmul. Widths that fill no group of rows or no piece, too."""
    rng = np.random.default_rng(1)
    E, H, F = (4, 256, 256) if BLOCK[name] == 256 else (4, 64, 96) if BLOCK[name] > 1 else (5, 37, 45)
    H += 64 * (BLOCK[name] == 64)
    F = -(-F // BLOCK[name]) * BLOCK[name]
    gate, up, down = stack(rng, name, E, F, H), stack(rng, name, E, F, H), stack(rng, name, E, H, F)
    router = rng.standard_normal((E, H)).astype(np.float32)
    x = rng.standard_normal((13, H)).astype(np.float32)
    got = run(native(plain(router), gate, up, down, used=1, activation="silu"), x)
    chosen = run_rows(x, router).argmax(axis=1)
    assert len(set(chosen)) > 1
    for e in range(E):
        b = Builder()
        h = b.input(H)
        g, u = b.matmul(h, _native.Weight(*gate[:3], gate[3][e]), _native.Weight(*up[:3], up[3][e]))
        y = b.matmul(b.glu(g, u, "silu"), _native.Weight(*down[:3], down[3][e]))
        b.hidden(y)
        b.head(y, _native.Weight(*plain(np.zeros((2, H)))))
        dense = run(_native.Program(b.spec()), x)
        assert np.isfinite(dense).all()
        assert got[chosen == e].tobytes() == dense[chosen == e].tobytes()


def run_rows(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return _native.matmul(x, _native.Weight(*plain(w)))


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    types = [draw(st.sampled_from(["F32", "BF16", "Q8_0", "Q4_0", "Q5_1", "MXFP4", "IQ4_NL"])) for _ in range(3)]
    blocks = any(t not in ("F32", "BF16") for t in types)
    E = draw(st.integers(1, 12))
    return {
        "types": types,
        "H": 32 * draw(st.integers(1, 4)) if blocks else draw(st.integers(1, 70)),
        "F": 32 * draw(st.integers(1, 5)) if blocks else draw(st.integers(1, 90)),
        "E": E,
        "used": draw(st.integers(1, E)),
        "rows": draw(st.integers(1, 20)),
        "normalize": draw(st.booleans()),
        "activation": draw(st.sampled_from(["silu", "gelu_tanh"])),
        "scales": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


@given(case=cases())
@settings(max_examples=150, deadline=None)
def test_matches_the_oracle(case: dict[str, Any]) -> None:
    """Types mixed within a layer. Quantized inputs may fall to either side of an edge, which the bound of quantized types allows for."""
    rng = np.random.default_rng(case["seed"])
    E, H, F = case["E"], case["H"], case["F"]
    shapes = ((F, H), (F, H), (H, F))
    args = (plain(rng.standard_normal((E, H)) * H**-0.5), *(stack(rng, t, E, *shape) for t, shape in zip(case["types"], shapes)))
    names = ("scale", "gate_scale", "up_scale")
    scales = {n: rng.uniform(0.5, 2, E).astype(np.float32) for n in names} if case["scales"] else {}
    options = dict(used=case["used"], activation=case["activation"], normalize=case["normalize"], **scales)
    x = rng.standard_normal((case["rows"], H)).astype(np.float32)
    got = run(native(*args, **options), x)
    oracle = lambda dtype: lambda spec: interpreter.Interpreter(spec, dtype, quantize=True)
    want = run(program(oracle(np.float64), interpreter.Weight, *args, **options), x)
    quantized = any(t not in FLOATS for t in case["types"])
    spread = np.abs(want).max() + 1e-6
    assert np.sqrt(np.mean((got - want) ** 2)) <= (2e-2 if quantized else 1e-5) * spread


@pytest.mark.parametrize("name", ["F32", "BF16", "Q8_0", "Q4_K", "Q6_K", "MXFP4", "IQ3_S"])
def test_rows_do_not_see_each_other(name: str) -> None:
    """Alone, in any company, in any order, on any number of threads, in passes of 600 rows: the same bits."""
    rng = np.random.default_rng(2)
    E, H, F, used = 10, 256, 256, 3
    made = native(plain(rng.standard_normal((E, H)) * 0.05), stack(rng, name, E, F, H), stack(rng, name, E, F, H), stack(rng, name, E, H, F), used=used, activation="silu")
    x = rng.standard_normal((600, H)).astype(np.float32)
    alone = np.concatenate([run(made, row[None], 1) for row in x[:40]])
    for first, count, threads in ((0, 2, 1), (3, 3, 2), (5, 4, 3), (9, 8, 2), (0, 16, 3), (0, 40, 2)):
        assert run(made, x[first : first + count], threads).tobytes() == alone[first : first + count].tobytes()
    everything = run(made, x, 2)
    assert everything[:40].tobytes() == alone.tobytes()
    for threads in (1, 3):
        order = rng.permutation(len(x))
        assert run(made, x[order], threads).tobytes() == everything[order].tobytes()


@pytest.mark.parametrize("normalize", [False, True])
def test_ties_and_what_is_no_number(normalize: bool) -> None:
    """Of equal logits the lower experts are used; a row that is no number disturbs no other."""
    rng = np.random.default_rng(3)
    E, H, F = 6, 32, 32
    gate, up, down = stack(rng, "F32", E, F, H), stack(rng, "F32", E, F, H), stack(rng, "F32", E, H, F)
    x = rng.standard_normal((5, H)).astype(np.float32)
    for chosen in ((0, 1), (2, 3)):
        router = np.zeros((E, H), np.float32)
        router[: chosen[0]] = -1e9 * np.eye(1, H, dtype=np.float32)        # x[0] > 0 keeps the first ones out
        x[:, 0] = 1.0
        options = dict(used=2, activation="gelu_tanh", normalize=normalize)
        got = run(native(plain(router), gate, up, down, **options), x)
        only = np.full((E, H), 0, np.float32)
        only[[e for e in range(E) if e not in chosen]] = -1e9 * np.eye(1, H, dtype=np.float32)
        want = run(native(plain(only), gate, up, down, used=2, activation="gelu_tanh", normalize=True), x)
        if not normalize:
            want = want * 2 / (E - chosen[0])
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    broken = x.copy()
    broken[2] = np.nan
    made = native(plain(rng.standard_normal((E, H))), gate, up, down, used=2, activation="silu")
    with_it, without = run(made, broken), run(made, x)
    assert np.isnan(with_it[2]).all()
    assert np.delete(with_it, 2, 0).tobytes() == np.delete(without, 2, 0).tobytes()


HASHES = """
import hashlib, numpy as np
from ops.test_experts import native, plain, run, stack
for name in ("F16", "Q8_0", "Q4_K", "Q5_0", "MXFP4"):
    rng = np.random.default_rng(4)
    E, H, F = 7, 256, 256
    made = native(plain(rng.standard_normal((E, H)) * 0.1), stack(rng, name, E, F, H), stack(rng, name, E, F, H), stack(rng, name, E, H, F),
                  used=5, activation="gelu_tanh", normalize=False)
    print(name, hashlib.sha256(run(made, rng.standard_normal((9, H)).astype(np.float32)).tobytes()).hexdigest())
"""


def test_instruction_sets_agree() -> None:
    found = {}
    for isa in _native.isas():
        path = os.pathsep.join(p for p in [str(Path(__file__).resolve().parents[1]), *sys.path] if p)
        env = {**os.environ, "SKIPSTONE_ISA": isa, "PYTHONPATH": path}
        found[isa] = subprocess.run([sys.executable, "-c", HASHES], env=env, capture_output=True, text=True, check=True).stdout
    assert len(set(found.values())) == 1 and "MXFP4" in found[_native.isas()[0]]


def test_wrong_shapes_are_named() -> None:
    rng = np.random.default_rng(5)
    E, H, F = 3, 32, 64
    good = dict(router=plain(np.zeros((E, H))), gate=stack(rng, "F32", E, F, H), up=stack(rng, "F32", E, F, H), down=stack(rng, "F32", E, H, F))
    bad = {
        "gate has shape": dict(gate=stack(rng, "F32", E, F, 2 * H)),
        "up has shape": dict(up=stack(rng, "F32", E - 1, F, H)),
        "down has shape": dict(down=stack(rng, "F32", E, H, H)),
    }
    for match, change in bad.items():
        with pytest.raises(ModelError, match=match):
            native(*{**good, **change}.values(), used=2, activation="silu")
    for options, match in ((dict(used=4), "4 of 3"), (dict(used=0), "0 of 3"), (dict(used=2, scale=np.ones(2, np.float32)), "scale has shape")):
        with pytest.raises(ModelError, match=match):
            native(*good.values(), activation="silu", **options)
    with pytest.raises(ModelError, match="silu or gelu_tanh"):
        native(*good.values(), used=2, activation="relu")
    b = Builder()
    x = b.input(H)
    y = b.experts(x, b.matmul(x, _native.Weight(*good["router"])), *(_native.Weight(*good[n]) for n in ("gate", "up", "down")), used=2, activation="silu")
    b.hidden(y)
    b.head(y, _native.Weight(*plain(np.zeros((2, H)))))
    spec = b.spec()
    experts = next(op for op in spec["ops"] if op["kind"] == "experts")
    experts["down"] = _native.Weight(*stack(rng, "F32", E, H, 2 * F))      # past the builder: the native side checks again
    with pytest.raises(ModelError, match="3 experts of 32 x 128"):
        _native.Program(spec)
    with pytest.raises(ModelError, match="holds 3 experts"):
        b = Builder()
        b.matmul(b.input(H), _native.Weight(*good["gate"]))
        _native.Program(b.spec() | {"states": []})
