"""The descriptions against transformers (tests/data/models.npz, made by golden.py), by the interpreter and natively."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import CASES, DRAFTS, NO_GGUF
from runs import FORMATS, Run, distance, rounding, written

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "models.npz")


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in CASES for kind in FORMATS if kind != "gguf" or name not in NO_GGUF])
def test_logits_hidden_and_drafts(name: str, kind: str, tmp_path: Path) -> None:
    tiny, assistant = CASES[name]
    file = written(tiny, tmp_path, kind)
    drafter = written(assistant, tmp_path, kind) if assistant else None
    prompt, drafted = GOLDEN[f"{name}.prompt"], f"{name}.drafts" in GOLDEN
    chosen = int(GOLDEN[f"{name}.first"]) if drafted else 0
    bound = rounding(file, prompt, drafter, chosen, DRAFTS if drafted else 0)
    assert bound < 0.01  # the logits have a spread of 2 to 4
    for run in (Run(file, drafter, np.float64), Run(file, drafter)):
        logits, hidden = run.logits(prompt)
        assert np.abs(logits[-8:] - GOLDEN[f"{name}.logits"]).max() <= bound
        assert np.abs(hidden[-4:] - GOLDEN[f"{name}.hidden"]).max() <= bound
        if drafted:
            want = GOLDEN[f"{name}.drafts"]
            rows, chain = run.drafts(prompt, chosen, DRAFTS)
            assert distance(rows, want) <= bound
            assert chain == want.argmax(axis=1).tolist()


def test_orthrus_loads_as_qwen3(tmp_path: Path) -> None:
    from make import qwen3

    prompt = np.arange(30) * 7 % 160
    plain, orthrus = (Run(written(tiny, tmp_path / str(i), "safetensors")) for i, tiny in enumerate((qwen3(1), qwen3(1, orthrus=True))))
    assert plain.logits(prompt)[0].tobytes() == orthrus.logits(prompt)[0].tobytes()
