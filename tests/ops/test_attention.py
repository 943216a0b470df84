"""Attention over its cache, in every type of cache: against the interpreter, and rows and cuts against each other.

Queries, keys and values are rows of tables, so nothing before the cache rounds, and both sides quantize the same numbers.
"""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracles.interpreter import Interpreter, Weight

from skipstone import ArgumentError, _native
from skipstone.models.builder import Builder

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
VOCABULARY = 50


def tables(head: int, heads: int, kv_heads: int, seed: int = 0, spread: float = 1.0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [(random.standard_normal((VOCABULARY, n * head)) * spread).astype(np.float32) for n in (heads, kv_heads, kv_heads)]


def spec(made: list[np.ndarray], head: int, weight: Any, window: int = 0, shared: bool = False) -> dict[str, Any]:
    b = Builder()
    q, k, v = (b.embed(weight("F32", *t.shape, t.view(np.uint8).reshape(-1))) for t in made)
    shape = dict(heads=q.width // head, kv_heads=k.width // head, head=head, scale=head**-0.5, window=window)
    o = b.attention(q, k, v, **shape)
    b.hidden(b.concat(o, b.shared_attention(q, state=b.last_state, **shape)) if shared else o)
    return b.spec()


def run(program: Any, kv_type: str, tokens: np.ndarray, cuts: tuple[int, ...] = ()) -> np.ndarray:
    sequence = program.sequence(kv_type)
    return np.concatenate([program.run([(sequence, part)], want="none", threads=2)[1] for part in np.split(tokens, cuts)])


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize(("head", "heads", "kv_heads", "window"), [(32, 4, 2, 0), (64, 4, 1, 20), (96, 2, 2, 0), (512, 2, 1, 16)])
def test_matches_the_interpreter(head: int, heads: int, kv_heads: int, window: int, kv_type: str) -> None:
    made = tables(head, heads, kv_heads, seed=head)
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, 300).astype(np.int32)
    want = run(Interpreter(spec(made, head, Weight, window)), kv_type, tokens)
    for cuts in ((), (1, 2, 5, 13, 40, 255, 257, 299)):
        assert np.abs(run(_native.Program(spec(made, head, _native.Weight, window)), kv_type, tokens, cuts) - want).max() < 2e-5


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
@pytest.mark.parametrize("spread", [0.0, 1e-38, 3e-7, 2e-6, 1e-3, 3e4, 1e8])
def test_scales_beyond_half_precision(spread: float, kv_type: str) -> None:
    """A block's scale is kept in half precision: too small a one is zero, too large a one the largest. One token sees itself alone, so what
    comes out is its value as the cache holds it."""
    made = tables(64, 1, 1, seed=7, spread=spread)
    made[0][:] = 0
    for token in range(0, VOCABULARY, 7):
        one = np.array([token], np.int32)
        got = run(_native.Program(spec(made, 64, _native.Weight)), kv_type, one)
        want = run(Interpreter(spec(made, 64, Weight)), kv_type, one)
        assert np.isfinite(got).all() and np.array_equal(got, want.astype(np.float32))


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_blocks_are_those_of_gguf(kv_type: str) -> None:
    """What the cache holds is what the format's own quantizer would, but for the rounding of scales and halves: half a step away at most."""
    gguf = pytest.importorskip("gguf")
    made = tables(128, 1, 1, seed=8)
    kind = gguf.GGMLQuantizationType[kv_type.upper()]
    reference = gguf.dequantize(gguf.quantize(made[2], kind), kind)
    program = _native.Program(spec(made, 128, _native.Weight))
    held = np.concatenate([run(program, kv_type, np.array([token], np.int32)) for token in range(VOCABULARY)])
    step = np.abs(made[2]).reshape(VOCABULARY, -1, 32).max(axis=2, keepdims=True) / (127 if kv_type == "q8_0" else 8)
    off, theirs = (np.abs(x - made[2]).reshape(VOCABULARY, -1, 32) / step for x in (held, reference))
    assert off.max() <= 1.01 and np.sqrt((off**2).mean()) <= 1.01 * np.sqrt((theirs**2).mean())


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_a_row_does_not_see_how_it_came(kv_type: str) -> None:
    """Any cut, rows taken back and others in their place: the same bits."""
    made = tables(64, 4, 2, seed=9)
    program = _native.Program(spec(made, 64, _native.Weight, window=40))
    tokens = np.random.default_rng(2).integers(0, VOCABULARY, 290).astype(np.int32)
    want = run(program, kv_type, tokens, tuple(range(1, 290)))
    assert np.array_equal(run(program, kv_type, tokens), want)
    sequence, at = program.sequence(kv_type), 0
    for step in (3, 1, 8, 100, 2, 31, 60, 85):
        program.run([(sequence, np.arange(step % 30 + 1, dtype=np.int32))], want="none")
        assert sequence.rollback(at)
        rows = program.run([(sequence, tokens[at:at + step])], want="none", threads=1 + step % 3)[1]
        assert np.array_equal(rows, want[at:at + step])
        at += step
    assert at == len(tokens)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("window", [0, 16])
def test_shared_attention_reads_what_the_pass_stores(window: int, kv_type: str) -> None:
    """With the same queries it gives what the attention that stores gives, in passes of few rows and of many."""
    made = tables(32, 4, 2, seed=10)
    program = _native.Program(spec(made, 32, _native.Weight, window, shared=True))
    tokens = np.random.default_rng(3).integers(0, VOCABULARY, 300).astype(np.int32)
    own, shared = np.split(run(program, kv_type, tokens, (1, 4, 260, 268)), 2, axis=1)
    assert np.array_equal(own, shared) and np.abs(own).max() > 0.1


@pytest.mark.parametrize(("kv_type", "row"), [("f32", 256), ("f16", 128), ("bf16", 128), ("q8_0", 68), ("q4_0", 36)])
def test_memory_as_computed(kv_type: str, row: int) -> None:
    """Chunks of 256 positions; keys and values of three heads of 64. With a window of 40, three chunks and the one being overwritten."""
    made = tables(64, 3, 3)
    tokens = np.zeros(3000, np.int32)
    for window, chunks in ((0, 12), (40, 4)):
        program = _native.Program(spec(made, 64, _native.Weight, window))
        sequence = program.sequence(kv_type)
        program.run([(sequence, tokens)], want="none")
        assert sequence.bytes == sequence.copy().bytes == chunks * 256 * 2 * 3 * row


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_heads_that_blocks_do_not_divide(kv_type: str) -> None:
    program = _native.Program(spec(tables(24, 1, 1), 24, _native.Weight))
    with pytest.raises(ArgumentError, match="heads of 24"):
        program.sequence(kv_type)
    program.sequence("f16")


def test_unknown_types_are_named() -> None:
    with pytest.raises(ArgumentError, match="q5_0.*q8_0 or q4_0"):
        _native.Program(spec(tables(32, 1, 1), 32, _native.Weight)).sequence("q5_0")
