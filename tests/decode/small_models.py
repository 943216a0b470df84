"""Small models with random weights on the native runtime, and drafters that are always right, always wrong or random.

The target has a sliding and a full attention layer and a gated delta-net layer, so that every kind of state is rolled back. Its
head's drafter and its borrowing drafter are as random as itself.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from skipstone import _native
from skipstone.drafters.block import BlockDrafter
from skipstone.drafters.gemma4_assistant import Gemma4AssistantDrafter
from skipstone.drafters.mtp import MtpDrafter
from skipstone.drafters.ngram import NgramDrafter
from skipstone.model import Model
from skipstone.models.dflash import Selector
from skipstone.models.network import Block

VOCABULARY, WIDTH, HEADS, HEAD = 61, 32, 4, 8


class Recorder:
    """Collects operations; every method returns the id of the buffer it writes."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.spec: dict[str, Any] = {"widths": [], "states": [], "ops": []}

    def op(self, kind: str, inputs: list[int], widths: list[int], **more: Any) -> list[int]:
        outputs = []
        for width in widths:
            self.spec["widths"].append(width)
            outputs.append(len(self.spec["widths"]) - 1)
        self.spec["ops"].append(dict(kind=kind, inputs=inputs, outputs=outputs, **more))
        return outputs

    def weight(self, rows: int, columns: int, scale: float = 1.0) -> Any:
        values = (self.random.standard_normal((rows, columns)) * scale / np.sqrt(columns)).astype(np.float32)
        return _native.Weight("F32", rows, columns, values.view(np.uint8).reshape(-1))

    def vector(self, n: int) -> np.ndarray:
        return self.random.uniform(0.5, 1.5, n).astype(np.float32)

    def matmul(self, x: int, *rows: int) -> list[int]:
        columns = self.spec["widths"][x]
        return self.op("matmul", [x], list(rows), weights=[self.weight(n, columns, 1.5) for n in rows])

    def norm(self, x: int, group: int = WIDTH) -> int:
        return self.op("rms_norm", [x], [self.spec["widths"][x]], weight=self.vector(group), group=group, eps=1e-6)[0]

    def rope(self, x: int) -> int:
        frequencies = (100.0 ** -(np.arange(HEAD // 2) / (HEAD // 2))).astype(np.float32)
        return self.op("rope", [x], [self.spec["widths"][x]], head=HEAD, rotated=HEAD, frequencies=frequencies)[0]

    def add(self, a: int, b: int) -> int:
        return self.op("add", [a, b], [self.spec["widths"][a]], scale=1.0)[0]

    def attention(self, x: int, window: int) -> int:
        q, k, v = self.matmul(self.norm(x), HEADS * HEAD, HEAD, HEAD)
        self.spec["states"].append(dict(kind="kv", kv_heads=1, head=HEAD, window=window))
        o = self.op("attention", [self.rope(q), self.rope(k), v], [HEADS * HEAD], state=len(self.spec["states"]) - 1, heads=HEADS, kv_heads=1,
                    head=HEAD, scale=HEAD**-0.5, window=window)[0]
        return self.add(x, self.matmul(o, WIDTH)[0])

    def delta_net(self, x: int) -> int:
        keys, values = 2 * HEAD, 2 * HEAD
        qkv, z, a, b = self.matmul(self.norm(x), 2 * keys + values, values, 2, 2)
        self.spec["states"].append(dict(kind="delta", key_heads=2, value_heads=2, head=HEAD, channels=2 * keys + values, kernel=4))
        conv = self.random.standard_normal((2 * keys + values) * 4).astype(np.float32)
        y = self.op("delta_net", [qkv, z, a, b], [values], state=len(self.spec["states"]) - 1, key_heads=2, value_heads=2, head=HEAD,
                    conv=conv, kernel=4, decay=-self.vector(2), dt_bias=self.vector(2), norm=self.vector(HEAD), eps=1e-6, key_of_value=[0, 1])[0]
        return self.add(x, self.matmul(y, WIDTH)[0])

    def head(self, x: int, sharpness: float) -> Any:
        h = self.norm(x)
        self.op("hidden", [h], [])
        self.op("head", [h], [], weight=self.weight(VOCABULARY, WIDTH, sharpness), softcap=0.0)
        return _native.Program(self.spec)


def target(seed: int, sharpness: float = 4.0) -> Any:
    r = Recorder(seed)
    x = r.op("embed", [], [WIDTH], weight=r.weight(VOCABULARY, WIDTH, 6.0), scale=1.0)[0]
    return r.head(r.attention(r.delta_net(r.attention(x, 12)), 0), sharpness)


def mtp_head(seed: int) -> Any:
    r = Recorder(seed)
    e = r.op("embed", [], [WIDTH], weight=r.weight(VOCABULARY, WIDTH, 6.0), scale=1.0)[0]
    h = r.op("input", [], [WIDTH])[0]
    joined = r.op("concat", [r.norm(e), r.norm(h)], [2 * WIDTH])[0]
    return r.head(r.attention(r.matmul(joined, WIDTH)[0], 0), 4.0)


def assistant(seed: int) -> Any:
    r = Recorder(seed)
    e = r.op("embed", [], [WIDTH], weight=r.weight(VOCABULARY, WIDTH, 6.0), scale=1.0)[0]
    h = r.op("input", [], [WIDTH])[0]
    x = r.matmul(r.op("concat", [e, h], [2 * WIDTH])[0], WIDTH)[0]
    for state, window in ((0, 13), (2, 0)):
        q = r.rope(r.matmul(r.norm(x), HEADS * HEAD)[0])
        o = r.op("attend", [q], [HEADS * HEAD], borrowed_state=state, heads=HEADS, kv_heads=1, head=HEAD, scale=HEAD**-0.5, window=window)[0]
        x = r.add(x, r.matmul(o, WIDTH)[0])
    return r.head(x, 4.0)


SIZE, MASK = 8, 3                # rows of a block, and what stands behind its first


def orthrus(seed: int) -> Any:
    """A block drafter that reads the target's caches, as BlockDrafter takes it."""
    return BlockDrafter(_block_rows(Recorder(seed), ((0, 12), (2, 0)), causal=False), Block("orthrus", SIZE, MASK, shift=1), 0, "f16", 1, 100)


def dflash(seed: int, selects: bool = False) -> Any:
    """A block drafter with a cache of its own, made of the target's hidden rows, with a window."""
    r = Recorder(seed)
    c = r.norm(r.matmul(r.op("input", [], [WIDTH])[0], WIDTH)[0])
    for window in (20, 0):
        k, v = r.matmul(c, HEAD, HEAD)
        r.spec["states"].append(dict(kind="kv", kv_heads=1, head=HEAD, window=window))
        r.op("remember", [r.rope(k), v], [], state=len(r.spec["states"]) - 1)
    tables = r.random.standard_normal((2, VOCABULARY, HEAD)).astype(np.float32)
    selector = Selector(Rows(tables[0]), Rows(tables[1]), 5) if selects else None
    program = _block_rows(Recorder(seed + 1), ((0, 20), (1, 0)), causal=True, projects=selects)
    return BlockDrafter(program, Block("dflash", SIZE, MASK, 0, _native.Program(r.spec), (), selector), 0, "f16", 1, 100)


class Rows:
    """A table whose rows are looked up."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def rows(self, ids: np.ndarray) -> np.ndarray:
        return self.values[ids]


def _block_rows(r: Recorder, caches: tuple[tuple[int, int], ...], causal: bool, projects: bool = False) -> Any:
    """Layers of a block drafter over the caches (state, window); where there is a window, the block is causal or not."""
    x = r.op("embed", [], [WIDTH], weight=r.weight(VOCABULARY, WIDTH, 6.0), scale=1.0)[0]
    for state, window in caches:
        q, k, v = r.matmul(r.norm(x), HEADS * HEAD, HEAD, HEAD)
        o = r.op("block_attention", [r.rope(q), r.rope(k), v], [HEADS * HEAD], borrowed_state=state, heads=HEADS, kv_heads=1, head=HEAD,
                 scale=HEAD**-0.5, window=window, causal=int(causal and window > 0))[0]
        if projects:
            o = r.op("block_conv", [o, r.matmul(x, 2 * WIDTH // 16)[0]], [WIDTH], base=r.vector(2 * WIDTH), kernel=2, group=16)[0]
        x = r.add(x, r.matmul(o, WIDTH)[0])
    h = r.norm(x)
    if projects:
        r.op("hidden", [r.matmul(h, HEAD)[0]], [])
    r.op("head", [h], [], weight=r.weight(VOCABULARY, WIDTH, 4.0), softcap=0.0)
    return _native.Program(r.spec)


class Words:
    """A tokenizer whose ids are letters and a few longer pieces; id 1 ends a text. It splits no characters."""

    vocab_size, eos_ids, suppressed = VOCABULARY, frozenset({1}), frozenset[int]()
    pieces = ["", "", *"abcdefghijklmnopqrstuvwxyz ,.;\n", *(f"<{i}>" for i in range(28))]

    def encode(self, text: str, special: bool = False) -> list[int]:
        return [self.pieces.index(c) for c in text]

    encode_prompt = encode

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[i] for i in ids)

    def stream(self) -> Any:
        class Stream:
            push = staticmethod(lambda token: Words.pieces[token])
            finish = staticmethod(lambda: "")
        return Stream()


class Scripted:
    """A drafter that proposes what propose(text and token, n) says; it checks on the way that the session keeps its promises."""

    name, bytes, at_once, every_row = "scripted", 0, None, True

    def __init__(self, propose: Any) -> None:
        self.propose, self.program, self.asked = propose, None, 0

    def begin(self) -> Any:
        return ScriptedState(self)

    def draft_several(self, requests: Any) -> Any:
        return [r.state.draft(r.text, r.token, r.steps, r.sampler, r.target) for r in requests]


class ScriptedState:
    def __init__(self, drafter: Scripted) -> None:
        self.drafter, self.known = drafter, 0

    def observe(self, text: list[int], start: int, hidden: np.ndarray) -> None:
        assert start <= self.known and start + len(hidden) <= len(text)
        self.known = max(self.known, start + len(hidden))

    def missing(self, length: int) -> int | None:
        return self.known if self.known < length else None

    def behind(self, length: int) -> int:
        return 1

    def draft(self, text: list[int], token: int, steps: int, sampler: Any, target: Any) -> list[int]:
        assert self.known == len(text) == target.length
        assert sampler is None or sampler.position == len(text) + 1
        self.drafter.asked += 1
        return self.drafter.propose([*text, token], steps)

    def rollback(self, length: int) -> None:
        self.known = min(self.known, length)


def model(program: Any, drafter: Any = None, *, tokenizer: Any = None, context: int = 4096, threads: int = 1, bytes: int = 1000) -> Model:
    return Model(path=Path("random"), architecture="random", config={}, program=program, bytes=bytes, context_length=context, tokenizer=tokenizer,
                 drafter=drafter, device="cpu", threads=threads, kv_type="f16")


def drafters(seed: int) -> dict[str, Any]:
    """Drafters for target(seed), by name."""
    return {
        "mtp": MtpDrafter(mtp_head(seed + 1), "f16", 1, 100),
        "assistant": Gemma4AssistantDrafter(assistant(seed + 2), 1, 100),
        "orthrus": orthrus(seed + 3),
        "dflash": dflash(seed + 4),
        "dflash2": dflash(seed + 6, selects=True),
        "ngram": NgramDrafter(),
        "random": Scripted(lambda text, n: [int(t) for t in np.random.default_rng(len(text)).integers(0, VOCABULARY, n)]),
    }


def right_and_wrong(tokens: list[int]) -> dict[str, Any]:
    """Drafters that know the text, prompt included: one tells it, one never does, one errs at every fifth position."""
    def tell(text: list[int], n: int) -> list[int]:
        return (tokens[len(text):] + [0] * n)[:n]

    return {
        "right": Scripted(tell),
        "wrong": Scripted(lambda text, n: [(t + 1) % VOCABULARY for t in tell(text, n)]),
        "often right": Scripted(lambda text, n: [(t + ((len(text) + i) % 5 == 0)) % VOCABULARY for i, t in enumerate(tell(text, n))]),
    }
