"""Whole programs on a card that is emulated (fake_cuda.cpp): kernels and host code together, against the CPU and row by row.

Small models of every kind of layer with random weights: what a card runs as few fused kernels must agree with the CPU's operations, whatever the rows,
the cut of the prompt or the company.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skipstone
from skipstone import _native, bundled
from skipstone.models.builder import Builder, Rows

from emulation import emulated

VOCABULARY, HIDDEN = 50, 96


DEVICE = "cuda:0"      # test_emulated_hip.py has another


def on_card(spec: dict[str, Any]) -> Any:
    return _native.GpuProgram(spec, DEVICE)


@pytest.fixture(scope="module", autouse=True)
def card(emulated_card: Path) -> Iterator[Path]:
    with emulated(emulated_card):
        yield emulated_card


class Layers:
    """Records layers with random weights. kind: the weights' type."""

    def __init__(self, kind: str, seed: int = 1) -> None:
        self.b, self.kind, self.rng = Builder(), kind, np.random.default_rng(seed)
        self.frequencies = (1e4 ** (-np.arange(8) / 8)).astype(np.float32)

    def weight(self, rows: int, columns: int, kind: str | None = None) -> Any:
        kind = kind or self.kind
        values = (self.rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
        return _native.Weight(kind, rows, columns, _native.quantize(kind, values.reshape(-1)) if kind not in ("F32", "F16", "BF16") else narrow(values, kind))

    def norm(self, x: Rows, group: int | None = None) -> Rows:
        return self.b.rms_norm(x, (1 + 0.1 * self.rng.standard_normal(group or x.width)).astype(np.float32), 1e-6)

    def turn(self, x: Rows, head: int) -> Rows:
        return self.b.rope(x, head, self.frequencies)

    def matmul(self, x: Rows, *sizes: int) -> Any:
        return self.b.matmul(x, *(self.weight(n, x.width) for n in sizes))

    def mlp(self, x: Rows, activation: str) -> Rows:
        return self.matmul(self.b.glu(*self.matmul(x, 128, 128), activation), HIDDEN)

    def embed(self) -> Rows:
        return self.b.embed(self.weight(VOCABULARY, HIDDEN), 1.5)

    def finish(self, x: Rows, softcap: float = 0.0) -> dict[str, Any]:
        self.b.border()
        h = self.norm(x)
        self.b.hidden(h)
        self.b.head(h, self.weight(VOCABULARY, HIDDEN), softcap)
        return self.b.spec()


def narrow(values: np.ndarray, kind: str) -> np.ndarray:
    return (values if kind == "F32" else values.astype(np.float16) if kind == "F16" else (values.view(np.uint32) >> 16).astype(np.uint16)).reshape(-1).view(np.uint8)


def plain(kind: str, heads: int = 6, kv_heads: int = 1, head: int = 32) -> dict[str, Any]:
    """Pre-norm layers as Qwen3's: head norms, rotary, silu."""
    m = Layers(kind)
    x = m.embed()
    for _ in range(2):
        m.b.border()
        q, k, v = m.matmul(m.norm(x), heads * head, kv_heads * head, kv_heads * head)
        q, k = (m.turn(m.norm(i, head), head) for i in (q, k))
        x = m.b.add(x, m.matmul(m.b.attention(q, k, v, heads=heads, kv_heads=kv_heads, head=head, scale=head**-0.5), HIDDEN))
        x = m.b.add(x, m.mlp(m.norm(x), "silu"))
    return m.finish(x)


def sandwich(kind: str) -> dict[str, Any]:
    """Gemma 4's: norms around, values that are the raw keys, a window, a scale on the sum, a soft cap."""
    m = Layers(kind)
    x = m.embed()
    for window, head, kv_heads in ((24, 32, 2), (0, 48, 1)):
        m.b.border()
        q, raw = m.matmul(m.norm(x), 2 * head, kv_heads * head)
        k, v = m.turn(m.norm(raw, head), head), m.b.rms_norm(raw, None, 1e-6, head)
        o = m.b.attention(m.turn(m.norm(q, head), head), k, v, heads=2, kv_heads=kv_heads, head=head, scale=1.0, window=window)
        x = m.b.add(x, m.norm(m.matmul(o, HIDDEN)))
        x = m.b.add(x, m.norm(m.mlp(m.norm(x), "gelu_tanh")), 0.7)
    return m.finish(x, 5.0)


def recurrent(kind: str, head: int = 32) -> dict[str, Any]:
    """Qwen3.5's: a delta-net, then attention whose result a gate beside q scales."""
    m = Layers(kind)
    x = m.embed()
    m.b.border()
    h = m.norm(x)
    qkv, z = m.matmul(h, 4 * head, 2 * head)
    a, b = m.b.matmul(h, m.weight(2, HIDDEN, "F32"), m.weight(2, HIDDEN, "F16"))
    uniform = lambda n: m.rng.uniform(-1, 1, n).astype(np.float32)  # noqa: E731
    y = m.b.delta_net(qkv, z, a, b, key_heads=1, value_heads=2, head=head, conv=uniform(4 * head * 4), kernel=4, decay=-np.exp(uniform(2)), dt_bias=uniform(2), norm=1 + uniform(head) / 4,
                      eps=1e-6, key_of_value=[0, 0])
    x = m.b.add(m.matmul(y, HIDDEN), x)
    x = m.b.add(x, m.mlp(m.norm(x), "silu"))
    m.b.border()
    head = 32
    q, k, v = m.matmul(m.norm(x), 4 * 2 * head, 2 * head, 2 * head)
    q, gate = m.b.split_heads(q, head)
    o = m.b.attention(m.turn(m.norm(q, head), head), m.turn(m.norm(k, head), head), v, heads=4, kv_heads=2, head=head, scale=head**-0.5)
    x = m.b.add(x, m.matmul(m.b.sigmoid_gate(o, gate), HIDDEN))
    return m.finish(x)


def experts(m: Layers, count: int, rows: int, columns: int, kind: str | None = None) -> Any:
    """One matrix an expert."""
    kind = kind or m.kind
    values = (m.rng.standard_normal((count, rows, columns)) / np.sqrt(columns)).astype(np.float32)
    packed = [narrow(v, kind) if kind in ("F32", "F16", "BF16") else _native.quantize(kind, v.reshape(-1)) for v in values]
    return _native.Weight(kind, rows, columns, packed)


def mixture(kind: str, shared: int = 64, shared_kind: str | None = None) -> dict[str, Any]:
    """Qwen3.5's experts: an unquantized router, a shared expert behind a gate of one value, the residual and the next norm after them."""
    m, count, ffn = Layers(kind), 7, 64
    x = m.embed()
    for normalize in (True, False):
        q, k, v = m.matmul(m.norm(x), 64, 32, 32)
        x = m.b.add(x, m.matmul(m.b.attention(m.turn(q, 32), m.turn(k, 32), v, heads=2, kv_heads=1, head=32, scale=32**-0.5), HIDDEN))
        h = m.norm(x)
        w = [m.weight(count, HIDDEN, "F32"), m.weight(1, HIDDEN, "F16"), *(m.weight(shared, HIDDEN, shared_kind) for _ in range(2))]
        router, opening, gate, up = m.b.matmul(h, *w)
        of_all = m.b.matmul(m.b.glu(gate, up, "silu"), m.weight(HIDDEN, shared, shared_kind))
        y = m.b.experts(h, m.b.scale(router, 3.0) if not normalize else router, experts(m, count, ffn, HIDDEN), experts(m, count, ffn, HIDDEN), experts(m, count, HIDDEN, ffn), used=3,
                        activation="silu", normalize=normalize)
        x = m.b.add(x, m.b.add(y, m.b.sigmoid_gate(of_all, opening)))
    return m.finish(x)


def branches(kind: str) -> dict[str, Any]:
    """Gemma 4's: a dense block beside experts with norms and scales of their own."""
    m, count, ffn = Layers(kind), 5, 96
    x = m.embed()
    q, k, v = m.matmul(m.norm(x), 64, 32, 32)
    x = m.b.add(x, m.norm(m.matmul(m.b.attention(m.turn(q, 32), m.turn(k, 32), v, heads=2, kv_heads=1, head=32, scale=1.0), HIDDEN)))
    factors = [m.rng.uniform(0.5, 2, count).astype(np.float32) for _ in range(3)]
    router = m.b.matmul(m.norm(x), m.weight(count, HIDDEN, "BF16"))
    dense = m.norm(m.mlp(m.norm(x), "gelu_tanh"))
    y = m.b.experts(m.norm(x), router, experts(m, count, ffn, HIDDEN), experts(m, count, ffn, HIDDEN, "IQ4_NL"), experts(m, count, HIDDEN, ffn, "F16"), used=2, activation="gelu_tanh",
                    scale=factors[0], gate_scale=factors[1], up_scale=factors[2])
    x = m.b.add(x, m.norm(m.b.add(dense, m.norm(y))), 0.8)
    return m.finish(x)


def shares(kind: str) -> dict[str, Any]:
    """Gemma 4's E-models: embeddings of every layer, a layer that reads another's cache, and, as their assistants, a head of ordered embeddings."""
    m, wide = Layers(kind), 32
    x = m.embed()
    own = m.b.add(m.b.embed(m.weight(VOCABULARY, 2 * wide), 2.0), m.norm(m.matmul(x, 2 * wide), wide), 0.7)
    for layer in range(2):
        h = m.norm(x)
        if layer == 0:
            q, k, v = m.matmul(h, 64, 32, 32)
            o = m.b.attention(m.turn(q, 32), m.turn(k, 32), v, heads=2, kv_heads=1, head=32, scale=0.2, window=24)
        else:
            o = m.b.shared_attention(m.turn(m.matmul(h, 64), 32), state=m.b.last_state, heads=2, kv_heads=1, head=32, scale=0.2, window=24)
        x = m.b.add(x, m.matmul(o, HIDDEN))
        x = m.b.add(x, m.norm(m.matmul(m.b.glu(m.matmul(x, wide), m.b.slice(own, layer * wide, wide), "gelu_tanh"), HIDDEN)))
    h = m.norm(x)
    m.b.hidden(h)
    m.b.ordered_head(h, m.weight(VOCABULARY, HIDDEN), m.weight(10, HIDDEN), m.rng.permutation(VOCABULARY), 3, 5.0)
    return m.b.spec()


SPECS = {"plain": plain, "sandwich": sandwich, "recurrent": recurrent, "mixture": mixture, "branches": branches, "shares": shares}
TOKENS = np.random.default_rng(4).integers(0, VOCABULARY, 200).astype(np.int32)


def logits(program: Any, sequence: Any, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(program.run([(sequence, tokens)])[0])


@pytest.mark.parametrize(("name", "kv_type"), [("plain", "f16"), ("sandwich", "f32"), ("recurrent", "f16"), ("mixture", "q8_0"), ("branches", "f16"), ("shares", "q4_0")])
def test_rows_cuts_and_the_cpu(name: str, kv_type: str) -> None:
    spec = SPECS[name]("Q8_0" if kv_type == "f32" else "Q5_0")
    cpu, gpu = _native.Program(spec), on_card(spec)
    of_cpu, sequence = cpu.sequence(kv_type), gpu.sequence(kv_type)
    # Eight, 16 and 32 columns of the matmul, keys stored before attention and in it; of experts eight and 16, sums by themselves and not.
    long = name in ("plain", "sandwich", "recurrent")
    count, cuts = (84, ([84], [70, 14], [5, 9, 16, 17, 37])) if long else (30, ([30], [2, 9, 19]))
    wanted = logits(cpu, of_cpu, TOKENS[:count])
    alone = np.concatenate([logits(gpu, sequence, TOKENS[i:i + 1]) for i in range(count)])
    check_close(alone, wanted, 1.0 if long else 0.9)
    for cut in cuts:
        again, at = gpu.sequence(kv_type), 0
        for rows in cut:
            assert np.array_equal(logits(gpu, again, TOKENS[at:at + rows]), alone[at:at + rows]), (cut, at)
            at += rows


def check_close(got: np.ndarray, wanted: np.ndarray, share: float = 1.0) -> None:
    """Activations are rounded to 8 bits, so one last bit may move a logit by a step of that size. share: of the rows, for it may also choose another
    expert or cluster where two score as good as alike. Closed clusters are minus infinity."""
    same = np.isfinite(got) == np.isfinite(wanted)
    difference = np.abs(np.where(np.isfinite(got), got, 0) - np.where(np.isfinite(wanted), wanted, 0))
    scale = np.abs(wanted[np.isfinite(wanted)])
    near = same.all(1) & (difference.max(1) < 0.06 * scale.max()) & (np.sqrt((difference**2).mean(1)) < 0.05 * np.sqrt((scale**2).mean()))
    assert near.mean() >= share, (near.mean(), difference.max(1))
    assert np.sqrt((difference[near] ** 2).mean()) < (0.01 if share == 1 else 0.02) * np.sqrt((scale**2).mean())


def test_a_window_over_three_splits() -> None:
    """In the middle of a long pass a tile of rows may see more splits of the cache than the pass's last tile does."""
    m, head = Layers("Q8_0"), 32
    x = m.embed()
    q, k, v = m.matmul(m.norm(x), 2 * head, head, head)
    x = m.b.add(x, m.matmul(m.b.attention(q, k, v, heads=2, kv_heads=1, head=head, scale=head**-0.5, window=256), HIDDEN))
    program = on_card(m.finish(x))
    tokens = np.resize(TOKENS, 600)
    pieces, whole = program.sequence("f16"), program.sequence("f16")
    wanted = np.concatenate([logits(program, pieces, tokens[i:i + 16]) for i in range(0, 592, 16)])
    logits(program, whole, tokens[:69])
    assert np.array_equal(logits(program, whole, tokens[69:592]), wanted[69:])


@pytest.mark.parametrize("name", SPECS)
def test_company_and_going_back(name: str) -> None:
    check_company(name)


def test_little_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of compute capability 7.5: smaller teams, the same promises."""
    monkeypatch.setenv("SKIPSTONE_FAKE_SMALL", "1")
    assert _native.gpu_devices()[0]["capability"] == (7, 5)
    check_company("plain")
    program = _native.GpuProgram(plain("Q8_0", 2, 1, 128), 0)      # whose widest form of attention has no room
    wanted = logits(program, program.sequence("f16"), TOKENS[:20])
    sequence = program.sequence("f16")
    assert np.array_equal(np.concatenate([logits(program, sequence, TOKENS[i:i + 2]) for i in range(0, 20, 2)]), wanted)


@pytest.mark.parametrize(("shared", "kind", "heads", "kv_type"), [("small", "Q8_0", (5, 1, 128), "f16"), ("small", "Q8_0", (2, 1, 512), "f16"), ("small", "Q4_0", (4, 2, 256), "q8_0"),
                                                                  ("99", "Q4_0", (3, 1, 256), "bf16"), ("99", "Q8_0", None, "f16"), ("64", "Q5_0", None, "f32")])
def test_less_shared_memory_changes_no_bit(shared: str, kind: str, heads: tuple[int, int, int] | None, kv_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer queries of attention, warps that prepare them and pairs of an expert at once, where a block has the memory of other cards than an H100. None: a mixture."""
    spec = plain(kind, *heads) if heads else mixture(kind)

    def run() -> np.ndarray:                       # the card is opened anew once nobody holds it
        program = on_card(spec)
        sequence = program.sequence(kv_type)
        return np.concatenate([logits(program, sequence, part) for part in np.split(TOKENS[:25], [1, 4, 22])])

    wanted = run()
    monkeypatch.setenv(*(("SKIPSTONE_FAKE_SMALL", "1") if shared == "small" else ("SKIPSTONE_FAKE_SHARED", shared)))
    assert np.isfinite(wanted).all() and np.array_equal(run(), wanted)


def test_experts_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPSTONE_FAKE_SHARED", "64")
    with pytest.raises(skipstone.errors.DeviceError, match="has 65536 bytes of shared memory a block; this model's experts need .*; use device='cpu'"):
        on_card(mixture("Q8_0"))


def check_company(name: str) -> None:
    spec = SPECS[name]("Q4_0")
    gpu = on_card(spec)
    one, two = gpu.sequence("bf16"), gpu.sequence("bf16")
    first, second = logits(gpu, one, TOKENS[:20]), logits(gpu, two, TOKENS[50:60])
    other = [gpu.sequence("bf16"), gpu.sequence("bf16")]
    both = np.asarray(gpu.run([(other[0], TOKENS[:20]), (other[1], TOKENS[50:60])])[0])
    assert np.array_equal(both, np.concatenate([first, second]))
    after = logits(gpu, one, TOKENS[20:26])
    assert one.rollback(20)
    logits(gpu, one, TOKENS[90:94])
    assert one.rollback(20)
    assert np.array_equal(logits(gpu, one, TOKENS[20:26]), after)
    choices = np.asarray(gpu.run([(other[0], TOKENS[20:26])], want="choice")[0])
    assert np.array_equal(choices, after.argmax(1))


def test_many_splits_of_the_cache() -> None:
    """More splits than are joined at once: heads of 512 are cut every 16 positions."""
    spec = plain("Q8_0", heads=1, kv_heads=1, head=512)
    cpu, gpu = _native.Program(spec), on_card(spec)
    of_cpu, sequence = cpu.sequence("f16"), gpu.sequence("f16")
    wanted, got = logits(cpu, of_cpu, TOKENS[:146])[140:], logits(gpu, sequence, TOKENS[:146])[140:]
    assert np.abs(got - wanted).max() < 0.06 * np.abs(wanted).max()
    assert np.sqrt(((got - wanted) ** 2).mean()) < 0.01 * np.sqrt((wanted**2).mean())
    assert sequence.rollback(140)
    assert np.array_equal(np.concatenate([logits(gpu, sequence, TOKENS[i:i + 1]) for i in range(140, 146)]), got)


def drafter(kind: str, borrows: bool = False) -> dict[str, Any]:
    """As an MTP head, or an assistant that reads another program's cache: tokens and hidden rows in, hidden rows out."""
    m = Layers("Q8_0", seed=3)
    x = m.b.matmul(m.b.concat(m.b.embed(m.weight(VOCABULARY, 256, kind), 0.75), m.b.input(HIDDEN)), m.weight(HIDDEN, 256 + HIDDEN))
    if borrows:
        q = m.turn(m.matmul(m.norm(x), 6 * 32), 32)
        o = m.b.attend(q, borrowed_state=0, heads=6, kv_heads=1, head=32, scale=32**-0.5)
    else:
        q, k, v = m.matmul(m.norm(x), 4 * 32, 2 * 32, 2 * 32)
        o = m.b.attention(m.turn(q, 32), m.turn(k, 32), v, heads=4, kv_heads=2, head=32, scale=32**-0.5)
    x = m.b.add(x, m.matmul(o, HIDDEN))
    return m.finish(m.b.add(x, m.mlp(m.norm(x), "silu")))


def one_by_one(program: Any, sequence: Any, tokens: np.ndarray, hidden: np.ndarray, steps: int, choose: Any, borrow: Any = None) -> list[int]:
    """The chain of passes that `chain` stands for."""
    drafts: list[int] = []
    for _ in range(steps):
        z, out = program.run([(sequence, tokens)], hidden=hidden, borrow=[borrow] if borrow else None, rows="last")
        drafts.append(choose(z[-1]))
        tokens, hidden = np.array(drafts[-1:], np.int32), out[-1:]
    if sequence is not None:
        sequence.rollback(sequence.length - steps + 1)
    return drafts


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"])
def test_a_chain_without_the_host(kind: str) -> None:
    """Every kind of embedding table; as many rows as wait for a drafter, from one to more than a launch takes."""
    gpu = on_card(drafter(kind))
    hidden = np.random.default_rng(5).standard_normal((40, HIDDEN)).astype(np.float32)
    one, two = gpu.sequence("f16"), gpu.sequence("f16")
    at = 0
    for rows, steps in ((3, 3), (1, 4), (1, 4), (18, 2) if kind == "Q4_K" else (2, 1), (1, 1)):
        tokens = TOKENS[at:at + rows]
        wanted = one_by_one(gpu, one, tokens, hidden[at:at + rows], steps, np.argmax)
        assert gpu.chain(two, tokens, hidden[at:at + rows], steps) == wanted
        assert one.length == two.length == at + rows
        at += rows


def test_a_chain_that_borrows_and_one_with_noise() -> None:
    target, gpu = on_card(plain("Q8_0")), on_card(drafter("Q8_0", borrows=True))
    text, hidden = target.sequence("f16"), np.random.default_rng(6).standard_normal((1, HIDDEN)).astype(np.float32)
    logits(target, text, TOKENS[:30])
    assert gpu.chain(None, TOKENS[30:31], hidden, 4, borrow=text) == one_by_one(gpu, None, TOKENS[30:31], hidden, 4, np.argmax, text)
    for seed, options in enumerate([{}, {"min_p": 0.05}, {"repeat_penalty": 1.3}, {"temperature": 0.0}]):
        samplers = []
        for _ in range(2):
            samplers.append(_native.Sampler(VOCABULARY, **{"temperature": 1.5, "seed": seed, **options}))
            samplers[-1].push_prompt(TOKENS[:31])

        def choose(z: np.ndarray, sampler: Any = samplers[0]) -> int:
            token = sampler.choose(z)
            sampler.push(token)
            return int(token)

        assert gpu.chain(None, TOKENS[30:31], hidden, 5, borrow=text, sampler=samplers[1]) == one_by_one(gpu, None, TOKENS[30:31], hidden, 5, choose, text)


def test_few_kernels() -> None:
    """Five a layer where nothing stands in the way; the norm in front of the first and the one behind the last are their own."""
    layer = ["matmul_q8_0", "attention", "matmul_q8_0", "matmul_q8_0", "matmul_q8_0"]
    assert on_card(plain("Q8_0")).kernels == ["rows_in_order", *layer, *layer, "rows_in_order"]


def test_few_kernels_with_experts() -> None:
    """The router, gate and up, down: with the shared expert, the residual and the norm inside; a shared expert of another type stays by itself."""
    attention = ["matmul_q8_0", "attention", "matmul_q8_0"]
    of_experts = ["route", "experts_enter_q8_0", "experts_leave_q8_0"]
    scaled = ["matmul_plain", "rows_in_order", *of_experts]      # this router is scaled
    assert on_card(mixture("Q8_0")).kernels == ["rows_in_order", *attention, *of_experts, *attention, *scaled, "rows_in_order"]
    kernels = on_card(mixture("Q8_0", 32, "Q5_0")).kernels
    assert kernels.count("matmul_q5_0") == 4 and kernels.count("route") == 2


@pytest.mark.parametrize(("kind", "shared"), [("F16", None), ("Q6_K", "Q8_0"), ("Q4_0", "F32")])
def test_types_of_experts(kind: str, shared: str | None) -> None:
    """Unquantized ones, and a shared expert apart from the others."""
    if kind == "Q6_K":
        kind = "Q5_1"                            # of those that share one layout; widths here are no multiple of 256
    spec = mixture(kind, 96, shared)
    cpu, gpu = _native.Program(spec), on_card(spec)
    of_cpu, sequence = cpu.sequence("f32"), gpu.sequence("f32")
    wanted = logits(cpu, of_cpu, TOKENS[:19])
    got = logits(gpu, sequence, TOKENS[:19])
    check_close(got, wanted, 0.85)
    assert sequence.rollback(0)
    assert np.array_equal(np.concatenate([logits(gpu, sequence, TOKENS[i:i + 2]) for i in range(0, 10, 2)]), got[:10])


def test_scales_beside_the_weights() -> None:
    """As FP8 files have them: a factor a stretch of columns, in matrices and in experts."""
    m, stretch = Layers("BF16"), 40

    def scaled(count: int, rows: int, columns: int) -> Any:
        values = [narrow((m.rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32), "BF16") for _ in range(count)]
        factors = m.rng.uniform(0.3, 3, count * rows * -(-columns // stretch)).astype(np.float32)
        return _native.Weight("BF16", rows, columns, values if count > 1 else values[0], factors, stretch)

    x = m.embed()
    h = m.norm(x)
    x = m.b.add(x, m.b.matmul(h, scaled(1, HIDDEN, HIDDEN)))
    x = m.b.add(x, m.b.experts(m.norm(x), m.matmul(x, 5), scaled(5, 64, HIDDEN), scaled(5, 64, HIDDEN), scaled(5, HIDDEN, 64), used=2, activation="silu"))
    spec = m.finish(x)
    cpu, gpu = _native.Program(spec), on_card(spec)
    wanted, got = logits(cpu, cpu.sequence("f32"), TOKENS[:9]), logits(gpu, gpu.sequence("f32"), TOKENS[:9])
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_delta_net_heads_of_128() -> None:
    """The form that keeps its state in registers."""
    spec = recurrent("Q8_0", 128)
    cpu, gpu = _native.Program(spec), on_card(spec)
    of_cpu, sequence = cpu.sequence("f16"), gpu.sequence("f16")
    wanted = logits(cpu, of_cpu, TOKENS[:50])
    alone = np.concatenate([logits(gpu, sequence, TOKENS[i:i + 1]) for i in range(50)])
    assert np.abs(alone - wanted).max() < 0.06 * np.abs(wanted).max()
    for cut in ([50], [3, 40, 7]):
        again, at = gpu.sequence("f16"), 0
        for count in cut:
            assert np.array_equal(logits(gpu, again, TOKENS[at:at + count]), alone[at:at + count]), (cut, at)
            at += count


def test_what_cannot_be_run_is_named() -> None:
    spec = plain("Q8_0")
    spec["ops"][1] = {**spec["ops"][1], "kind": "gated_mlp"}
    with pytest.raises(skipstone.errors.DeviceError, match="'gated_mlp' of this model cannot be run on a card yet; use device='cpu'"):
        on_card(spec)


def test_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPSTONE_FAKE_MEMORY", str(1 << 20))
    with pytest.raises(skipstone.errors.DeviceError, match="has no memory left: .* of 1 MiB are free"):
        on_card(plain("Q8_0"))


def test_auto_takes_the_card_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPSTONE_FAKE_MEMORY", str(16 << 20))
    with pytest.warns(UserWarning, match="the model runs on the processor: the cards' memory .* has no room for any part of it"):
        assert skipstone.load(bundled.QWEN35, draft=False).device == "cpu"
    monkeypatch.setenv("SKIPSTONE_FAKE_MEMORY", str(1 << 30))
    assert skipstone.load(bundled.QWEN35, draft=False).device == "cuda:0"
    memory = _native.gpu_memory(0)
    assert memory["copy_bytes_per_second"] > 0 and memory["read_bytes_per_second"] > 0 and 0 < memory["free_bytes"] <= 1 << 30


def test_kernels_and_bench_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are those of an emulation; that they are there, and of the card, is what counts."""
    from skipstone.cli import bench, kernels

    monkeypatch.setattr(kernels.CardCopies, "CACHES", 1)
    (figure,) = kernels.measure_card(["Q8_0"], [1, 3], [(64, 256)], "cuda:0", 1)
    assert figure["device"] == "cuda:0" and figure["bytes"] == 64 * 8 * 34 and set(figure["rows"]) == {"1", "3"}
    assert all(cell["share_of_copy_bandwidth"] > 0 for cell in figure["rows"].values())
    said = bench.card("cuda:0")
    assert said["card"] == "Emulated card" and said["card_read_bytes_per_second"] > 0 and said["card_copy_bytes_per_second"] > 0 and bench.card("cpu") == {}
