"""Models over several devices, on emulated cards: whole programs cut at borders, experts on the processor amid a card's pass, loading by plan."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skipstone
from skipstone import _native, bundled
from skipstone.errors import ArgumentError, DeviceError, DeviceOutOfMemory, ModelError, OutOfMemory
from skipstone.placement import machine
from skipstone.placement.cut import cut, experts_on_processor, open_borders
from skipstone.placement.place import Placed
from skipstone.placement.plan import Plan, Stretch

from emulation import emulated
import make
from test_emulated_programs import HIDDEN, SPECS, TOKENS, Layers, logits

FIGURES = {"free_bytes": 1 << 30, "copy_bytes_per_second": 2e12, "to_card_bytes_per_second": 2e10, "from_card_bytes_per_second": 2e10, "meeting_seconds": 2e-5}


@pytest.fixture(scope="module", autouse=True)
def card(emulated_card: Path) -> Iterator[None]:
    """Two cards that are fast by their figures, and a processor that need not be measured."""
    with emulated(emulated_card), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIPSTONE_FAKE_CARDS", "2")
        patch.setattr(machine, "_memory", lambda number: FIGURES)
        patch.setattr(machine, "_matmul", lambda threads, kind: {1: 1e10, 4: 8e9})
        yield


def placed(*stretches: tuple[str, int, int], host_experts: tuple[int, ...] = ()) -> Placed:
    made = tuple(Stretch(*s) for s in stretches)
    return Placed(Plan(made, host_experts, bool(host_experts), 64, 64, "f16", {}, {}, {}, None, (), machine.Processor(1 << 30, 1, 1e10)))


CUTTABLE = ["plain", "sandwich", "recurrent"]      # mixtures are below


def read(program: Any, cuts: list[int], sequence: Any = None) -> np.ndarray:
    sequence, at, rows = sequence or program.sequence("f16"), 0, []
    for count in cuts:
        rows.append(logits(program, sequence, TOKENS[at:at + count]))
        at += count
    assert sequence.length == at
    return np.concatenate(rows)


@pytest.mark.parametrize("name", CUTTABLE)
def test_cards_one_after_the_other_give_the_bits_of_one(name: str) -> None:
    spec = SPECS[name]("Q8_0")
    whole = read(_native.GpuProgram(spec, 0), [9, 1, 3])
    split = placed(("cuda:0", 0, 1), ("cuda:1", 1, 2)).target(spec)
    assert np.array_equal(read(split, [9, 1, 3]), whole)
    assert np.array_equal(read(split, [1] * 5 + [8]), whole)


@pytest.mark.parametrize("name", CUTTABLE)
def test_card_and_processor(name: str) -> None:
    """Rows alone and together, cuts, company and going back: the same bits, near those of the processor alone; either device first."""
    spec = SPECS[name]("Q4_0")
    cpu = read(_native.Program(spec), [13])
    for first, second in (("cpu", "cuda:0"), ("cuda:1", "cpu")):
        split = placed((first, 0, 1), (second, 1, 2)).target(spec)
        alone = read(split, [1] * 13)
        assert np.sqrt(((alone - cpu) ** 2).mean()) < 0.01 * np.sqrt((cpu**2).mean())
        one, two = split.sequence("f16"), split.sequence("f16")
        assert np.array_equal(read(split, [9, 4], one), alone)
        other = logits(split, two, TOKENS[50:55])
        assert one.rollback(9) and two.rollback(0)
        third = one.copy()
        both = np.asarray(split.run([(one, TOKENS[9:13]), (two, TOKENS[50:55])])[0])
        assert np.array_equal(both, np.concatenate([alone[9:], other]))
        assert np.array_equal(logits(split, third, TOKENS[9:13]), alone[9:])


def mixture(kind: str, shared: bool) -> dict[str, Any]:
    """Two layers with a mixture each, beside a shared expert that the card can run meanwhile."""
    m = Layers(kind)
    experts = lambda rows, columns: _native.Weight(kind, rows, columns, [_native.quantize(kind, m.rng.standard_normal(rows * columns).astype(np.float32) / 8) for _ in range(6)])  # noqa: E731
    x = m.embed()
    for _ in range(2):
        m.b.border()
        q, k, v = m.matmul(m.norm(x), 64, 32, 32)
        x = m.b.add(x, m.matmul(m.b.attention(m.turn(q, 32), m.turn(k, 32), v, heads=2, kv_heads=1, head=32, scale=32**-0.5), HIDDEN))
        h = m.norm(x)
        router = m.b.matmul(h, m.weight(6, HIDDEN, "F32"))
        beside = m.mlp(h, "silu") if shared else None
        y = m.b.experts(h, router, experts(64, HIDDEN), experts(64, HIDDEN), experts(HIDDEN, 64), used=2, activation="silu")
        x = m.b.add(x, y if beside is None else m.b.add(y, beside))
    return m.finish(x)


@pytest.mark.parametrize("shared", [True, False])
def test_experts_on_the_processor(shared: bool) -> None:
    spec = mixture("Q8_0", shared)
    cpu = read(_native.Program(spec), [24])
    program = placed(("cuda:0", 0, 2), host_experts=(0, 1)).target(spec)
    assert program.kernels.count("fetch") == program.kernels.count("host") == 2
    gap = program.kernels.index("host") - program.kernels.index("fetch")
    assert gap > 1 if shared else gap == 1                  # the shared expert is the card's work meanwhile
    alone = read(program, [1] * 24)
    assert np.sqrt(((alone - cpu) ** 2).mean()) < 0.01 * np.sqrt((cpu**2).mean())
    for cuts in ([24], [5, 17, 2]):
        assert np.array_equal(read(program, cuts), alone)
    split = placed(("cpu", 0, 1), ("cuda:0", 1, 2), host_experts=(1,)).target(spec)
    assert np.array_equal(read(split, [24]), read(split, [1] * 3 + [21]))


def test_what_cannot_be_cut() -> None:
    spec = SPECS["plain"]("Q8_0")
    assert open_borders(spec) == [0, 1]
    shared = {**spec, "ops": [{**op, "state": 0} if op["kind"] == "attention" else op for op in spec["ops"]]}
    assert open_borders(shared) == [0]
    with pytest.raises(ModelError, match="cannot be cut before layer 1"):
        cut(shared, [1])
    sections = [_native.Program(s.spec) for s in cut(spec, [1])]
    with pytest.raises(ArgumentError, match="section 1 takes rows of width 0; the one before it makes 96"):
        _native.SplitProgram([sections[0], sections[0]])
    with pytest.raises(ArgumentError, match="lies on another device"):
        split = _native.SplitProgram(sections)
        split.run([(placed(("cpu", 0, 1), ("cuda:0", 1, 2)).target(spec).sequence(), TOKENS[:2])])
    with pytest.raises(ModelError, match="'device' is 'tpu'; expected cpu"):
        _native.GpuProgram({**spec, "ops": [{**op, "device": "tpu"} if op["kind"] == "glu" else op for op in spec["ops"]]}, 0)
    assert experts_on_processor(spec, {0})["ops"] == spec["ops"]


def text(model: Any, drafts: Any, **options: Any) -> list[int]:
    return list(model.generate("def f(", max_tokens=7, draft_tokens=drafts, seed=4, stop_at_eos=False, **options).tokens)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "drafter", "layers"), [(bundled.QWEN35, "auto", 3), (bundled.GEMMA4, bundled.GEMMA4_ASSISTANT, 2)])
def test_loaded_over_card_and_processor(name: Path, drafter: Any, layers: int) -> None:
    """Drafted or not, greedy or sampled, forked, in company: the same text."""
    model = skipstone.load(name, draft=drafter, device="cuda:0", gpu_layers=layers)
    assert model.device == "cpu+cuda:0" and model.drafter is not None
    total = model.plan.stretches[-1].last
    assert total - model.plan.stretches[-1].first >= layers
    plain = text(model, 0)
    assert text(model, 3) == plain
    sampled = dict(temperature=0.9, top_p=0.95)
    assert text(model, 3, **sampled) == text(model, 0, **sampled)
    both = model.generate(["def f(", "class A:"], max_tokens=7, draft_tokens=2, seed=4, stop_at_eos=False)
    assert both[0].tokens == plain
    session = model.session()
    session.generate("def f(", max_tokens=4, draft_tokens=2, stop_at_eos=False)
    forked = session.fork()
    ids = [*model.tokenizer.encode("def f(", special=True), *plain[:5]]
    again = forked.generate(ids, max_tokens=2, draft_tokens=0, stop_at_eos=False)
    assert again.tokens == plain[5:] and again.stats.reused_tokens > 0


@pytest.mark.slow
def test_loaded_over_two_cards() -> None:
    """As on one: the same bits."""
    one, two = (skipstone.load(bundled.QWEN35, draft=False, **how) for how in ({"device": "cuda:1"}, {"devices": ["cuda:0", "cuda:1"]}))
    assert two.device == "cuda:0+cuda:1"
    a, b = (np.asarray(m.session().forward(range(30, 39), logits="all")) for m in (one, two))
    assert np.array_equal(a, b)


def test_memory_ends_while_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that says it has more than it gives: a plan for less, until it fits."""
    monkeypatch.setenv("SKIPSTONE_FAKE_MEMORY", str(10 << 20))
    monkeypatch.setenv("SKIPSTONE_FAKE_CLAIM", str(40 << 20))
    monkeypatch.setenv("SKIPSTONE_FAKE_CARDS", "1")
    model = skipstone.load(bundled.QWEN35, draft=False, device="cuda:0", context=512)
    assert model.device == "cpu+cuda:0" and any("memory ran out" in note for note in model.plan.notes)
    monkeypatch.setenv("SKIPSTONE_FAKE_CLAIM", str(1 << 30))
    with pytest.raises(DeviceOutOfMemory, match="has no memory left"):
        skipstone.load(bundled.QWEN35, draft=False, device="cuda:0", context=512, gpu_layers=8)


@pytest.mark.parametrize(("arguments", "error", "words"), [
    ({"gpu_layers": -1}, ArgumentError, "gpu_layers: -1; expected 'auto' or a number of layers"),
    ({"cpu_experts": "all"}, ArgumentError, "cpu_experts: 'all'; expected 'auto' or a number"),
    ({"memory_limit": "12 parsecs"}, ArgumentError, "memory_limit: '12 parsecs'; expected a size such as '12GB'"),
    ({"memory_limit": 0}, ArgumentError, "memory_limit: 0; expected a size"),
    ({"devices": "cuda:0"}, ArgumentError, "devices: 'cuda:0'; expected a list"),
    ({"devices": ["cuda:0", "cuda:0"]}, ArgumentError, "expected a list of different cards"),
    ({"devices": ["cuda:0"], "device": "cpu"}, ArgumentError, "expected one of the two"),
    ({"devices": ["cuda:0", "cuda:5"]}, DeviceError, "device: 'cuda:5'; available: cpu, cuda:0, cuda:1. Use device='auto'"),
    ({"device": "cpu", "gpu_layers": 3}, ArgumentError, "gpu_layers: 3 is about cards, but device is 'cpu'"),
    ({"device": "cpu", "memory_limit": "1GB"}, ArgumentError, "memory_limit: '1GB' is about cards"),
    ({"device": "cuda:0", "gpu_layers": 8, "memory_limit": "30MB"}, OutOfMemory, "with gpu_layers=8 the model does not fit: cuda:0 would need .* GB"),
])
def test_mistakes(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        skipstone.load(bundled.QWEN35, **arguments)


def test_a_card_says_what_it_cannot_draft(tmp_path: Path) -> None:
    """Block drafters, asked for, are an error; found beside the model or in it, a warning, and decoding goes on."""
    path, drafter = make.qwen3(31).safetensors(tmp_path / "model"), make.dflash(32).safetensors(tmp_path / "model-dflash")
    with pytest.raises(DeviceError, match="model-dflash drafts blocks.*device='cpu'"):
        skipstone.load(path, draft=drafter, device="cuda:0")
    with pytest.warns(UserWarning, match="processor alone"):
        assert skipstone.load(path, device="cuda:0").drafter is None
    with pytest.warns(UserWarning, match="Orthrus"):
        assert skipstone.load(make.qwen3(39, orthrus=True).safetensors(tmp_path / "orthrus"), device="cuda:0").drafter is None
    assert skipstone.load(path, draft="ngram", device="cuda:0").drafter.name == "ngram"
