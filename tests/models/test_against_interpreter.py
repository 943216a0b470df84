"""Native passes against the interpreter's, on tiny models of every family."""

from __future__ import annotations

from pathlib import Path

import make
import numpy as np
import pytest
from runs import Run, rounding, written

TOKENS = (np.arange(75) ** 2 * 37 + 11) % make.VOCABULARY  # several windows of 16


def rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.mark.parametrize("type", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("family", make.FAMILIES)
def test_unquantized(family: str, type: str, tmp_path: Path) -> None:
    file = written(make.FAMILIES[family](21), tmp_path, "safetensors", type)
    want, hidden = Run(file, dtype=np.float64).logits(TOKENS)
    bound, native = rounding(file, TOKENS), Run(file)
    for pieces in (1, 3, len(TOKENS)):
        got, h = native.logits(TOKENS, pieces)
        assert np.abs(got - want).max() <= bound
        assert np.abs(h - hidden).max() <= bound


@pytest.mark.parametrize("type", ["Q8_0", "Q5_1", "Q4_0"])
@pytest.mark.parametrize("family", make.FAMILIES)
def test_quantized(family: str, type: str, tmp_path: Path) -> None:
    """Inputs as int8 blocks cost accuracy; the interpreter does the same, and its error says how much. A value on the edge between two integers
    may fall either way, so the errors themselves differ."""
    file = written(make.FAMILIES[family](22), tmp_path, "gguf", type)
    exact = Run(file, dtype=np.float64).logits(TOKENS)[0]
    allowed = rms(Run(file, dtype=np.float64, quantize=True).logits(TOKENS)[0], exact)
    assert 0 < allowed < 0.5 * exact.std()
    assert rms(Run(file).logits(TOKENS)[0], exact) <= 1.3 * allowed


@pytest.mark.parametrize("kv_type", ["f16", "bf16"])
@pytest.mark.parametrize("family", make.FAMILIES)
def test_small_caches(family: str, kv_type: str, tmp_path: Path) -> None:
    file = written(make.FAMILIES[family](23), tmp_path, "safetensors")
    exact = Run(file, dtype=np.float64).logits(TOKENS)[0]
    allowed = rms(Run(file, dtype=np.float64, kv_type=kv_type).logits(TOKENS)[0], exact)
    assert rms(Run(file, kv_type=kv_type).logits(TOKENS)[0], exact) <= 1.5 * allowed


@pytest.mark.parametrize("family", make.FAMILIES)
def test_rollback(family: str, tmp_path: Path) -> None:
    """Rows that were taken back leave nothing behind, in the interpreter as in the native program."""
    file = written(make.FAMILIES[family](24), tmp_path, "safetensors")
    bound = rounding(file, TOKENS)
    for run in (Run(file, dtype=np.float64), Run(file)):
        want, _ = run.logits(TOKENS)
        sequence = run.network.program.sequence("f32")
        run.network.program.run([(sequence, TOKENS[:40].astype(np.int32))])
        for back in (1, 3, 8):
            run.network.program.run([(sequence, np.arange(back, dtype=np.int32))])
            assert sequence.rollback(40) and sequence.length == 40
        got, _ = run.network.program.run([(sequence, TOKENS[40:].astype(np.int32))])
        assert np.abs(got - want[40:]).max() <= bound


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 18, 33, 300])
def test_assistant_window(length: int, tmp_path: Path) -> None:
    """Texts shorter and longer than the assistant's window of 17, and longer than a chunk of the native cache."""
    file, drafter = written(make.gemma4(25), tmp_path, "safetensors"), written(make.gemma4_assistant(26), tmp_path, "gguf")
    tokens = (np.arange(length) ** 2 * 37 + 11) % make.VOCABULARY
    bound = rounding(file, tokens, drafter, 5, 4)
    want, chain = Run(file, drafter, np.float64).drafts(tokens, 5, 4)
    got, own = Run(file, drafter).drafts(tokens, 5, 4)
    assert np.abs(got - want).max() <= bound and own == chain


@pytest.mark.parametrize("length", [2, 3, 17, 300])
def test_mtp_head(length: int, tmp_path: Path) -> None:
    file = written(make.qwen35(27), tmp_path, "gguf")
    tokens = (np.arange(length) ** 2 * 37 + 11) % make.VOCABULARY
    bound = rounding(file, tokens, None, 5, 4)
    want, chain = Run(file, dtype=np.float64).drafts(tokens, 5, 4)
    got, own = Run(file).drafts(tokens, 5, 4)
    assert np.abs(got - want).max() <= bound and own == chain
