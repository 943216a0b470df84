"""Whole programs on an emulated AMD card (fake_hip.cpp), with waves of 32 and of 64: the promises, and the bits of the emulated NVIDIA card."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import skipstone
from skipstone import _native, bundled

import test_emulated_programs as programs
from emulation import build, emulated

NAME = "hip:0"


@pytest.fixture(scope="module", params=[32, 64])
def card(request: pytest.FixtureRequest, emulated_card: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The wave's size; beside the AMD card there is an emulated NVIDIA card."""
    amd = build(tmp_path_factory.mktemp(f"amd{request.param}"), "fake_hip.cpp", f"-DSK_EMULATED_WAVE={request.param}")
    with emulated(emulated_card, amd), pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "DEVICE", NAME)
        yield request.param


def test_is_listed(card: int) -> None:
    found = {d["name"]: d for d in _native.gpu_devices()}
    assert set(found) == {"cuda:0", NAME} and not found[NAME]["problem"]
    assert found[NAME]["description"] == "Emulated AMD card" and found[NAME]["target"] == ("gfx1100" if card == 32 else "gfx90a")
    memory = _native.gpu_memory(NAME)
    assert memory["copy_bytes_per_second"] > 0 and 0 < memory["free_bytes"] <= 1 << 30


@pytest.mark.parametrize(("name", "kind", "seed"), [("plain", "Q5_0", 1), ("plain", "Q4_0", 77), ("sandwich", "Q8_0", 5), ("recurrent", "Q4_0", 2),
                                                  ("mixture", "Q5_0", 3), ("shares", "Q4_0", 6), ("wide", "Q4_0", 7)])
def test_the_bits_of_the_other_card(card: int, name: str, kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two vendors' forms of the kernels, blocks and threads in other orders: one text, one set of bits."""
    monkeypatch.setenv("SKIPSTONE_FAKE_SEED", str(seed))
    spec = programs.plain(kind, 4, 1, 256) if name == "wide" else programs.SPECS[name](kind)
    results = []
    for device in ("cuda:0", NAME):
        program = _native.GpuProgram(spec, device)
        sequence = program.sequence("f16")
        results.append([programs.logits(program, sequence, part) for part in np.split(programs.TOKENS[:40], [1, 9, 21])])
    for nvidia, amd in zip(*results, strict=True):
        assert not np.isnan(amd).any() and np.array_equal(nvidia, amd)      # closed clusters of "shares" are minus infinity


def test_rows_and_cuts(card: int) -> None:
    if card == 64:      # the smaller wave has the same bits: see above
        programs.test_rows_cuts_and_the_cpu("recurrent", "bf16")


def test_company_and_going_back(card: int) -> None:
    programs.check_company("plain" if card == 64 else "recurrent")


def test_memory_runs_out(card: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPSTONE_FAKE_MEMORY", str(1 << 20))
    with pytest.raises(skipstone.errors.DeviceError, match="hip:0 .* has no memory left: .* of 1 MiB are free"):
        programs.on_card(programs.plain("Q8_0"))


def test_an_architecture_without_kernels(card: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPSTONE_FAKE_TARGET", "gfx906:sramecc-:xnack-")
    problem = next(d["problem"] for d in _native.gpu_devices() if d["name"] == NAME)
    assert "gfx906" in problem and "gfx1100" in problem
    with pytest.raises(skipstone.errors.DeviceError, match="gfx906, is none that the kernels are built for"):
        skipstone.load(bundled.QWEN35, draft=False, device=NAME)


def test_an_image_that_is_none(card: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"CCOB" + bytes(60))
    monkeypatch.setenv("SKIPSTONE_GPU_IMAGE", str(tmp_path / "image"))
    with pytest.raises(skipstone.errors.DeviceError, match="has no kernels for it .*SKIPSTONE_HIP=ON"):
        programs.on_card(programs.plain("Q8_0"))


def test_auto_takes_it_where_there_is_no_other(card: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SKIPSTONE_LIBCUDA", str(tmp_path / "none.so"))
    assert skipstone.load(bundled.QWEN35, draft=False).device == NAME
