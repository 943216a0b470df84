"""Programs on a card: against the CPU's, rows together against rows alone. Without a card: what the package says then."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skipstone
from skipstone import _native

MODELS = Path(skipstone.__file__).parent / "bundled"
USABLE = [d["name"] for d in _native.gpu_devices() if not d["problem"]]
needs_card = pytest.mark.skipif(not USABLE, reason="; ".join(d["problem"] for d in _native.gpu_devices() if d["problem"]))
TINY = {"widths": [8], "states": [], "ops": [{"kind": "input", "inputs": [], "outputs": [0]}]}


def test_every_device_is_usable_or_says_why() -> None:
    devices = _native.gpu_devices()
    assert devices
    for device in devices:
        assert device["name"].startswith(("cuda", "hip"))
        assert device["problem"] or device["memory"] > 0


def test_a_card_that_is_not_there() -> None:
    with pytest.raises(skipstone.errors.DeviceError, match="cuda:99"):
        _native.GpuProgram(TINY, 99)


@needs_card
@pytest.mark.parametrize("name", ["tiny-qwen35-Q4_K_M.gguf", "tiny-gemma4-Q4_K_M.gguf"])
def test_rows_and_the_cpu(name: str) -> None:
    ids = np.random.default_rng(3).integers(10, 400, 330).tolist()
    sessions: list[Any] = [skipstone.load(MODELS / name, draft=False, device=d, kv_type="f32").session() for d in ("cpu", USABLE[0])]
    for s in sessions:
        s.forward(ids[:300], logits=None)
    cpu, gpu = (np.array([np.asarray(s.forward([i], logits="all"))[0] for i in ids[300:316]]) for s in sessions)
    # Activations are rounded to 8 bits, so one last bit may move a logit by a step of that size.
    assert np.abs(cpu - gpu).max() < 0.05 * np.abs(cpu).max()
    for rows in (2, 5, 8, 16):
        sessions[1].rollback(300)
        together = np.asarray(sessions[1].forward(ids[300:300 + rows], logits="all"))
        assert np.array_equal(together, gpu[:rows])


@needs_card
@pytest.mark.parametrize("kind", [t["name"] for t in _native.types() if t["can_quantize"]])
def test_matmul_of_a_type(kind: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((19, 768)).astype(np.float32)
    weight = _native.Weight(kind, 77, 768, _native.quantize(kind, rng.standard_normal(77 * 768).astype(np.float32)))
    ops = [{"kind": "input", "inputs": [], "outputs": [0]}, {"kind": "head", "inputs": [0], "outputs": [], "weight": weight, "softcap": 0.0}]
    program = _native.GpuProgram({"widths": [768], "states": [], "ops": ops}, USABLE[0])
    tokens = np.zeros(19, np.int32)
    y = program.run([(None, tokens)], hidden=x)[0]
    wanted = _native.matmul(x, weight)
    assert np.abs(y - wanted).max() < 1e-5 * np.sqrt((wanted**2).mean()) * 10
    alone = np.concatenate([program.run([(None, tokens[:1])], hidden=x[i:i + 1])[0] for i in range(19)])
    assert np.array_equal(y, alone)
