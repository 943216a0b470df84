"""Prompts compute no more than is wanted: of rows before the last what later rows need, and nothing else. No bit changes, neither of results nor of states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import make
import mixtures
import numpy as np
import pytest
from runs import written

import skipstone
from skipstone import ArgumentError
from skipstone.models import build_network

MODELS = {**make.FAMILIES, "qwen3moe": mixtures.qwen3moe, "qwen35moe": mixtures.qwen35moe, "gemma4moe": mixtures.gemma4moe}


def blocks(program: Any, sequence: Any) -> list[bytes]:
    made = []
    for index, size in enumerate(program.block_bytes("f16", sequence.points)):
        out = np.empty(size, np.uint8)
        sequence.write_block(index, out)
        made.append(out.tobytes())
    return made


@pytest.mark.parametrize("name", MODELS)
def test_the_last_row_and_the_states_are_the_same_bits(name: str, tmp_path: Path) -> None:
    program = build_network(written(MODELS[name](401), tmp_path, "safetensors")).program
    text = (np.arange(700) ** 2 * 41 + 7).astype(np.int32) % make.VOCABULARY
    for lengths in ((1, 2, 33, 300), (32, 31), (350, 1, 5)):
        whole, least = program.sequence("f16"), program.sequence("f16")
        at = 0
        for n in lengths:
            want, hidden = program.run([(whole, text[at:at + n])], rows="last", threads=2)
            got, last = program.run([(least, text[at:at + n])], rows="last", threads=2, hidden_rows="last")
            assert got.tobytes() == want.tobytes() and last.shape == (1, 64) and last.tobytes() == hidden[-1:].tobytes()
            at += n
        assert blocks(program, least) == blocks(program, whole)
    with pytest.raises(ArgumentError, match="one part"):
        program.run([(least, text[:3]), (whole, text[:3])], rows="last", hidden_rows="last")
    with pytest.raises(ArgumentError, match="rows 'last'"):
        program.run([(least, text[:3])], hidden_rows="last")


@pytest.mark.parametrize("drafted", [False, True])
def test_texts_after_prompts(drafted: bool, tmp_path: Path) -> None:
    """Gemma 4 with shared layers and its assistant, which needs the newest row alone: the text of a session that was given every row."""
    path = make.gemma4e(402).safetensors(tmp_path / "model")
    drafter = make.gemma4_assistant(403, keys_are_values=False, ordered=True).safetensors(tmp_path / "drafter")
    model = skipstone.load(path, draft=drafter if drafted else False, device="cpu", threads=2)
    prompt = ((np.arange(400) ** 2 * 41 + 7) % make.VOCABULARY).tolist()
    session = model.session()
    session.forward(prompt[:-1], logits=None)
    want = session.generate(prompt, max_tokens=24)
    assert want.stats.reused_tokens == len(prompt) - 1
    assert model.generate(prompt, max_tokens=24, draft_tokens=3 if drafted else 0).tokens == want.tokens
    results = model.generate(prompt, n=2, max_tokens=24)
    assert [r.tokens for r in results] == [want.tokens] * 2
