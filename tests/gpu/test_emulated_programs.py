"""Whole programs on a card that is emulated (fake_cuda.cpp): kernels and host code together, against the CPU and row by row.

Small models of every kind of layer with random weights: what a card runs as few fused kernels must agree with the CPU's operations, whatever the rows,
the cut of the prompt or the company.
"""
from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skipstone
from skipstone import _native, bundled
from skipstone.models.builder import Builder, Rows

ROOT = Path(__file__).resolve().parents[2]
COMPILER = next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)
pytestmark = [pytest.mark.skipif(COMPILER is None, reason="no C++ compiler (c++, g++, clang++ or $CXX) is here to build the emulated card with"),
              pytest.mark.skipif(sys.platform != "linux", reason="the emulated card is built for dlopen")]
VOCABULARY, HIDDEN = 50, 96


DEVICE = "cuda:0"      # test_emulated_hip.py has another


def on_card(spec: dict[str, Any]) -> Any:
    return _native.GpuProgram(spec, DEVICE)


@functools.cache
def build_card(folders: pytest.TempPathFactory, source: str, *more: str) -> Path:
    """A driver's library over an emulated card, and beside it a file that passes for an image of kernels."""
    folder = folders.mktemp("card")
    out = folder / f"lib{'-'.join([Path(source).stem, *more]).replace('=', '-')}.so"
    alone = [] if "clang" in Path(str(COMPILER)).name else ["-fno-gnu-unique"]      # two of them in one process share nothing
    command = [str(COMPILER), "-std=c++20", "-O2", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-w", "-shared", "-fPIC", *alone, *more, f"-I{ROOT / 'csrc'}", "-o", str(out),
               str(Path(__file__).parent / source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and "ucontext" in built.stderr:
        pytest.skip(f"{COMPILER} has no ucontext.h, which the emulation switches fibers with")
    assert built.returncode == 0, built.stderr
    (folder / "image").write_bytes(b"\x7fELF" + bytes(60))
    return out


@pytest.fixture(scope="module", autouse=True)
def card(tmp_path_factory: pytest.TempPathFactory) -> Any:
    library = build_card(tmp_path_factory, "fake_cuda.cpp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIPSTONE_LIBCUDA", str(library))
        patch.setenv("SKIPSTONE_GPU_IMAGE", str(library.with_name("image")))
        yield library


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
        q, raw = m.matmul(m.norm(x), 2 * head, kv_heads * head)
        k, v = m.turn(m.norm(raw, head), head), m.b.rms_norm(raw, None, 1e-6, head)
        o = m.b.attention(m.turn(m.norm(q, head), head), k, v, heads=2, kv_heads=kv_heads, head=head, scale=1.0, window=window)
        x = m.b.add(x, m.norm(m.matmul(o, HIDDEN)))
        x = m.b.add(x, m.norm(m.mlp(m.norm(x), "gelu_tanh")), 0.7)
    return m.finish(x, 5.0)


def recurrent(kind: str) -> dict[str, Any]:
    """Qwen3.5's: a delta-net, then attention whose result a gate beside q scales."""
    m = Layers(kind)
    x, head = m.embed(), 32
    h = m.norm(x)
    qkv, z = m.matmul(h, 4 * head, 2 * head)
    a, b = m.b.matmul(h, m.weight(2, HIDDEN, "F32"), m.weight(2, HIDDEN, "F16"))
    uniform = lambda n: m.rng.uniform(-1, 1, n).astype(np.float32)  # noqa: E731
    y = m.b.delta_net(qkv, z, a, b, key_heads=1, value_heads=2, head=head, conv=uniform(4 * head * 4), kernel=4, decay=-np.exp(uniform(2)), dt_bias=uniform(2), norm=1 + uniform(head) / 4,
                      eps=1e-6, key_of_value=[0, 0])
    x = m.b.add(m.matmul(y, HIDDEN), x)
    x = m.b.add(x, m.mlp(m.norm(x), "silu"))
    q, k, v = m.matmul(m.norm(x), 4 * 2 * head, 2 * head, 2 * head)
    q, gate = m.b.split_heads(q, head)
    o = m.b.attention(m.turn(m.norm(q, head), head), m.turn(m.norm(k, head), head), v, heads=4, kv_heads=2, head=head, scale=head**-0.5)
    x = m.b.add(x, m.matmul(m.b.sigmoid_gate(o, gate), HIDDEN))
    return m.finish(x)


SPECS = {"plain": plain, "sandwich": sandwich, "recurrent": recurrent}
TOKENS = np.random.default_rng(4).integers(0, VOCABULARY, 200).astype(np.int32)


def logits(program: Any, sequence: Any, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(program.run([(sequence, tokens)])[0])


@pytest.mark.parametrize(("name", "kv_type"), [("plain", "f16"), ("sandwich", "f32"), ("recurrent", "f16")])
def test_rows_cuts_and_the_cpu(name: str, kv_type: str) -> None:
    spec = SPECS[name]("Q8_0" if kv_type == "f32" else "Q5_0")
    cpu, gpu = _native.Program(spec), on_card(spec)
    of_cpu, sequence = cpu.sequence(kv_type), gpu.sequence(kv_type)
    wanted = logits(cpu, of_cpu, TOKENS[:84])
    alone = np.concatenate([logits(gpu, sequence, TOKENS[i:i + 1]) for i in range(84)])
    assert np.isfinite(alone).all()
    # Activations are rounded to 8 bits, so one last bit may move a logit by a step of that size.
    assert np.abs(alone - wanted).max() < 0.06 * np.abs(wanted).max()
    assert np.sqrt(((alone - wanted) ** 2).mean()) < 0.01 * np.sqrt((wanted**2).mean())
    for cut in ([84], [70, 14], [5, 9, 16, 17, 37]):      # eight, 16 and 32 columns of the matmul, keys stored before attention and in it
        again, at = gpu.sequence(kv_type), 0
        for count in cut:
            assert np.array_equal(logits(gpu, again, TOKENS[at:at + count]), alone[at:at + count]), (cut, at)
            at += count


@pytest.mark.parametrize("name", SPECS)
def test_company_and_going_back(name: str) -> None:
    check_company(name)


def test_little_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of compute capability 7.5: smaller teams, the same promises."""
    monkeypatch.setenv("SKIPSTONE_FAKE_SMALL", "1")
    assert _native.gpu_devices()[0]["capability"] == (7, 5)
    check_company("plain")


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


def test_few_kernels() -> None:
    """Five a layer where nothing stands in the way; the norm in front of the first and the one behind the last are their own."""
    layer = ["matmul_q8_0", "attention", "matmul_q8_0", "matmul_q8_0", "matmul_q8_0"]
    assert on_card(plain("Q8_0")).kernels == ["rows_in_order", *layer, *layer, "rows_in_order"]


def test_what_cannot_be_run_is_named() -> None:
    spec = plain("Q8_0")
    spec["ops"][1] = {**spec["ops"][1], "kind": "experts"}
    with pytest.raises(skipstone.errors.DeviceError, match="'experts' of this model cannot be run on a card yet; use device='cpu'"):
        on_card(spec)


def test_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPSTONE_FAKE_MEMORY", str(1 << 20))
    with pytest.raises(skipstone.errors.DeviceError, match="has no memory left: .* of 1 MiB are free"):
        on_card(plain("Q8_0"))


def test_auto_takes_the_card_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPSTONE_FAKE_MEMORY", str(16 << 20))
    with pytest.warns(UserWarning, match="the model runs on the processor: cuda:0 .* has no memory left"):
        assert skipstone.load(bundled.QWEN35, draft=False).device == "cpu"
    monkeypatch.setenv("SKIPSTONE_FAKE_MEMORY", str(1 << 30))
    assert skipstone.load(bundled.QWEN35, draft=False).device == "cuda:0"
    memory = _native.gpu_memory(0)
    assert memory["copy_bytes_per_second"] > 0 and 0 < memory["free_bytes"] <= 1 << 30
