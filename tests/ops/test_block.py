"""What block drafters are made of: attention of a block to a borrowed cache and to itself, and the convolution along it, against the interpreter;
blocks alone and in company, on any number of threads, have the same bits."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracles.interpreter import Interpreter, Weight

from skipstone import ArgumentError, ModelError, _native
from skipstone.models.builder import Builder

VOCABULARY, HEAD, HEADS, KV_HEADS, GROUP = 50, 16, 4, 2, 8
RANDOM = np.random.default_rng(4)
TABLES = [RANDOM.standard_normal((VOCABULARY, n * HEAD)).astype(np.float32) for n in (HEADS, KV_HEADS, KV_HEADS)]
DYNAMIC = RANDOM.standard_normal((VOCABULARY, 3 * HEADS * HEAD // GROUP)).astype(np.float32)
BASE = RANDOM.standard_normal(3 * HEADS * HEAD).astype(np.float32)


def table(weight: Any, values: np.ndarray) -> Any:
    return weight("F32", *values.shape, values.view(np.uint8).reshape(-1))


def text_spec(weight: Any, window: int) -> dict[str, Any]:
    b = Builder()
    b.remember(*(b.embed(table(weight, t)) for t in TABLES[1:]), kv_heads=KV_HEADS, head=HEAD, window=window)
    return b.spec()


def block_spec(weight: Any, window: int, causal: bool) -> dict[str, Any]:
    b = Builder()
    q, k, v = (b.embed(table(weight, t)) for t in TABLES)
    o = b.block_attention(q, k, v, borrowed_state=0, heads=HEADS, kv_heads=KV_HEADS, head=HEAD, scale=0.3, window=window, causal=causal)
    b.hidden(b.concat(o, b.block_conv(q, b.embed(table(weight, DYNAMIC)), BASE, kernel=3, group=GROUP)))
    return b.spec()


def tokens(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, n).astype(np.int32)


def read(program: Any, kv_type: str, text: np.ndarray) -> Any:
    sequence = program.sequence(kv_type)
    for part in np.array_split(text, 3):
        if len(part):
            program.run([(sequence, part)], want="none", threads=2)
    return sequence


@pytest.mark.parametrize("kv_type", ["f32", "f16"])
@pytest.mark.parametrize(("window", "causal"), [(0, False), (0, True), (5, False), (5, True), (300, False), (40, True)])
@pytest.mark.parametrize("length", [0, 1, 3, 256, 700])
def test_matches_the_interpreter(length: int, window: int, causal: bool, kv_type: str) -> None:
    text = tokens(length)
    for rows in (1, 2, 16, 33):
        block = tokens(rows, seed=rows)
        made = []
        for program, weight in ((Interpreter, Weight), (_native.Program, _native.Weight)):
            sequence = read(program(text_spec(weight, window)), kv_type, text)
            made.append(program(block_spec(weight, window, causal)).run([(None, block)], borrow=[sequence], want="none")[1])
        assert np.abs(made[0] - made[1]).max() < 2e-5


@pytest.mark.parametrize(("window", "causal"), [(0, False), (20, True)])
def test_company_and_threads_change_no_bit(window: int, causal: bool) -> None:
    """Forty blocks of 16 are more than one pass takes: none is cut."""
    text, block = _native.Program(text_spec(_native.Weight, window)), _native.Program(block_spec(_native.Weight, window, causal))
    sequences = [read(text, "f16", tokens(7 * i, seed=i)) for i in range(40)]
    blocks = [tokens(16, seed=100 + i) for i in range(40)]
    alone = [block.run([(None, rows)], borrow=[sequence], want="none", threads=1)[1] for rows, sequence in zip(blocks, sequences)]
    for threads in (1, 2, 3):
        together = block.run([(None, rows) for rows in blocks], borrow=sequences, want="none", threads=threads)[1]
        assert np.array_equal(together, np.concatenate(alone))
    assert [s.length for s in sequences] == [7 * i for i in range(40)]


def test_the_convolution_begins_anew_with_each_block() -> None:
    """By loops over its definition."""
    block = _native.Program(block_spec(_native.Weight, 0, False))
    sequence = read(_native.Program(text_spec(_native.Weight, 0)), "f32", tokens(4))
    parts = [tokens(5, seed=1), tokens(2, seed=2)]
    out = block.run([(None, p) for p in parts], borrow=[sequence, sequence], want="none")[1][:, HEADS * HEAD:]
    at = 0
    for part in parts:
        x, width = TABLES[0][part], HEADS * HEAD
        for t in range(len(part)):
            for c in range(width):
                want = sum((BASE[d * width + c] + DYNAMIC[part[t], d * width // GROUP + c // GROUP]) * x[t - d, c] for d in range(3) if d <= t)
                assert abs(out[at + t, c] - want) < 1e-5
        at += len(part)


def test_wrong_blocks_are_refused() -> None:
    block, text = _native.Program(block_spec(_native.Weight, 0, False)), _native.Program(text_spec(_native.Weight, 0))
    sequence = read(text, "f32", tokens(4))
    with pytest.raises(ArgumentError, match="none was given"):
        block.run([(None, tokens(3))], want="none")
    with pytest.raises(ArgumentError, match="513 rows"):
        block.run([(None, tokens(513))], borrow=[sequence], want="none")
    with pytest.raises(ArgumentError, match="at most 256"):
        block.run([(None, tokens(300))], borrow=[sequence], want="none")
    other = Builder()
    k = other.embed(table(_native.Weight, TABLES[1]))
    other.remember(k, k, kv_heads=1, head=2 * HEAD)
    with pytest.raises(ModelError, match="another shape"):
        block.run([(None, tokens(3))], borrow=[read(_native.Program(other.spec()), "f32", tokens(4))], want="none")
    b = Builder()
    q = b.embed(table(_native.Weight, TABLES[0]))
    with pytest.raises(ModelError, match="block_attention: rows 1"):
        b.block_attention(q, q, q, borrowed_state=0, heads=HEADS, kv_heads=KV_HEADS, head=HEAD, scale=1.0)
    with pytest.raises(ModelError, match="block_conv: base"):
        b.block_conv(q, q, BASE, kernel=2, group=8)
    with pytest.raises(ModelError, match="groups of 7"):
        b.block_conv(q, q, BASE, kernel=3, group=7)
