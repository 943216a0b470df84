"""Plans from sizes and speeds alone: what fits, what is faster, what is said where nothing fits. No card is needed."""
from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from skipstone.errors import ArgumentError, OutOfMemory
from skipstone.files import open_model
from skipstone.models import build_drafter, build_network
from skipstone.placement import place
from skipstone.placement.machine import Card, Processor, assumed_card
from skipstone.placement.place import choose, memory_size
from skipstone.placement.plan import Plan, Planner, describe
from skipstone.placement.sizes import SizedWeight, state_bytes

GB = 10**9
CPU = Processor(64 * GB, 8, 60e9, {1: 45e9, 4: 42e9, 8: 36e9})
FAST = Card("cuda:0", "a card", 24 * GB, 900e9, 24e9, 24e9, 2e-5, True)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "processor", lambda threads, **how: CPU)


@cache
def networks(shape: str) -> tuple[Any, Any]:
    file = open_model(f"random:{shape}")
    network = build_network(file, make_weight=SizedWeight, program=lambda spec: None)
    return network, build_drafter(network, file, make_weight=SizedWeight, program=lambda spec: None)


def plan(shape: str, *gigabytes: float, context: int | None = 8192, kv_type: str = "f16", **more: Any) -> Plan:
    cards = [replace(FAST, name=f"cuda:{i}", bytes=int(size * GB)) for i, size in enumerate(gigabytes)]
    network, drafter = networks(shape)
    return choose(network, drafter, cards, 8, context, kv_type, more.pop("gpu_layers", None), more.pop("cpu_experts", None), **more)


def check(p: Plan, layers: int) -> None:
    """Every layer once, in order, and nothing over its budget."""
    assert [s.first for s in p.stretches] == [0, *(s.last for s in p.stretches[:-1])] and p.stretches[-1].last == layers
    for device, parts in p.memory.items():
        assert sum(parts.values()) <= p.budgets[device], device


@pytest.mark.parametrize("shape", ["qwen3-8b:Q8_0", "qwen3.5-27b", "gemma4-12b"])
def test_more_memory_is_never_slower(shape: str) -> None:
    before = float("inf")
    for size in (1.5, 4, 6, 8, 12, 16, 24, 32):
        p = plan(shape, size)
        check(p, {"q": 36, "g": 48}[shape[0]] if "27b" not in shape else 64)
        seconds = p.passes[1][4096]
        assert seconds <= before * 1.0001
        before = seconds
    assert p.whole and p.devices == ["cuda:0"]


def test_the_first_layers_are_the_processors() -> None:
    p = plan("qwen3-8b:Q8_0", 6)
    assert p.devices == ["cpu", "cuda:0"] and "head" in p.memory["cuda:0"] and "head" not in p.memory["cpu"]
    assert p.memory["cpu"]["embeddings"] == networks("qwen3-8b:Q8_0")[0].embedding.bytes
    asked = plan("qwen3-8b:Q8_0", 24, gpu_layers=10)
    assert [(s.device, s.first, s.last) for s in asked.stretches] == [("cpu", 0, 26), ("cuda:0", 26, 36)]
    assert plan("qwen3-8b:Q8_0", 24, gpu_layers=99).whole
    assert plan("qwen3-8b:Q8_0", 24, gpu_layers=0).devices == ["cpu"]


def test_experts_go_to_the_processor_before_layers_do() -> None:
    p = plan("qwen3.5-35b-a3b", 12, context=131072, kv_type="q8_0")
    check(p, 40)
    assert p.devices == ["cuda:0"] and p.host_experts and p.memory["cpu"]["experts"] > 5 * GB
    assert plan("qwen3.5-35b-a3b", 12, cpu_experts=40).host_experts == tuple(range(40))


def test_experts_on_the_card_where_it_runs_them() -> None:
    network, drafter = networks("qwen3.5-35b-a3b")
    model = describe(network, drafter, 8192, "f16")
    speeds = []
    for size in (8, 12, 24):
        p = Planner(model, [replace(FAST, bytes=size * GB)], CPU, card_experts=True).best(None, None)
        check(p, 40)
        speeds.append(p.passes[1][4096])
        assert p.devices == ["cuda:0"] and p.host_experts == tuple(range(len(p.host_experts)))
    assert speeds[0] > speeds[1] > speeds[2] and not p.host_experts and not p.host_drafter_experts


def test_several_cards() -> None:
    p = plan("qwen3-8b:Q8_0", 6, 6)
    check(p, 36)
    assert p.devices == ["cuda:0", "cuda:1"]
    assert plan("qwen3-8b:Q8_0", 24, 24).devices == ["cuda:0"]                 # as few as hold it
    spread = plan("qwen3-8b:Q8_0", 24, 24, spread=True)
    check(spread, 36)
    assert spread.devices == ["cuda:0", "cuda:1"] and 12 < spread.stretches[1].first < 24
    three = plan("qwen3-8b:Q8_0", 3, 3, 3)
    check(three, 36)
    assert three.devices == ["cpu", "cuda:0", "cuda:1", "cuda:2"]


def test_an_assistant_and_the_caches_it_reads_stay_together() -> None:
    file, companion = open_model("random:gemma4-12b"), open_model("random:gemma4-12b-assistant")
    network = build_network(file, make_weight=SizedWeight, program=lambda spec: None)
    drafter = build_drafter(network, file, companion, make_weight=SizedWeight, program=lambda spec: None)
    assert describe(network, drafter, 4096, "f16").borders[-1] == 46 and describe(network, None, 4096, "f16").borders[-1] == 47


def test_context_follows_the_memory() -> None:
    p = plan("qwen3-8b:Q8_0", 12, context=None)
    assert p.context == 32768 < p.trained_context == 40960
    assert plan("qwen3-8b:Q8_0", 24, context=None).context == 40960


def test_drafts_never_lose() -> None:
    for size in (8, 20, 24):
        p = plan("qwen3.5-27b", size)
        for context, seconds in p.passes[1].items():
            drafted = p.drafted(context)
            assert drafted is not None and drafted[1] >= 1 / seconds
    assert drafted[0] > 0 and drafted[1] > 2 / seconds


def test_what_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutOfMemory, match=r"with gpu_layers=36 the model does not fit: cuda:0 would need .* GB of 4.00 GB \(layers .*; use fewer of them, 'auto', or a shorter context"):
        plan("qwen3-8b:Q8_0", 4, gpu_layers=36)
    small = replace(CPU, bytes=8 * GB)
    monkeypatch.setattr(place, "processor", lambda threads, **how: small)
    with pytest.raises(OutOfMemory, match="the model does not fit: .* would need .* use a shorter context"):
        plan("qwen3.5-27b", 4)
    p = plan("qwen3-4b", 0.05)                                                    # no room for a layer: better without than not at all
    assert p.devices == ["cpu"] and "has no room for any part of it" in p.notes[0]


def test_caches_and_sizes() -> None:
    state = {"kind": "kv", "kv_heads": 8, "head": 128, "window": 0}
    assert state_bytes(state, 1024, "f16") == 2 * 8 * 128 * 2 * 1024 and state_bytes(state, 1000, "q8_0") == 2 * 8 * 4 * 34 * 1024
    assert state_bytes({**state, "window": 512}, 131072, "f16") < state_bytes(state, 2048, "f16")
    assert memory_size("m", "12GB") == 12 * GB and memory_size("m", "1.5 GiB") == 3 << 29 and memory_size("m", 7) == 7
    for wrong in ("", "GB", "12 Gb/s", -1, 0, True, 1.5, None):
        with pytest.raises(ArgumentError, match="m: .* expected a size such as"):
            memory_size("m", wrong)
    assert assumed_card(12 * GB).bytes < 12 * GB and not assumed_card(GB).measured
