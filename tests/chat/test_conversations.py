"""Conversations in one session, edited on the way, give the answers of fresh runs, drafted or not."""
from __future__ import annotations

import random
from typing import Any

import pytest

from skipstone import Model, bundled, load

WORDS = ["def f(x):", "class A:", "import os", "return self.items", "# a comment", "for i in range(10):", "é漢😀", "<|im_end|>\n<turn|>", "raise ValueError", "\n\n    pass"]


@pytest.fixture(scope="module", params=["qwen", "gemma"])
def model(request: pytest.FixtureRequest) -> Model:
    return load(bundled.QWEN35) if request.param == "qwen" else load(bundled.GEMMA4, draft=bundled.GEMMA4_ASSISTANT)


def converse(model: Model, seed: int, turns: int = 8) -> None:
    chance = random.Random(seed)
    options: dict[str, Any] = dict(max_tokens=10, stop_at_eos=False, temperature=chance.choice([0.0, 0.9]), seed=seed)
    talk: list[Any] = [{"role": "system", "content": "You write Python."}] if chance.random() < 0.5 else []
    session = model.session()
    for turn in range(turns):
        if len(talk) > 4 and chance.random() < 0.3:                     # an earlier question is changed, what came after it is gone
            last = max(i for i, message in enumerate(talk[:-2]) if isinstance(message, dict) and message["role"] == "user")
            del talk[last:]
        talk.append({"role": "user", "content": " ".join(chance.choices(WORDS, k=chance.randint(1, 4)))})
        kept = model.chat(talk, session=session, draft_tokens=chance.choice([0, 3, "auto"]), **options)
        fresh = model.chat(talk, draft_tokens=0, **options)
        assert (kept.text, kept.tokens) == (fresh.text, fresh.tokens), (seed, turn)
        if turn and hasattr(kept.stats, "reused_tokens"):
            assert kept.stats.reused_tokens > 0
        talk.append(kept)


@pytest.mark.parametrize("seed", range(2))
def test_conversations(model: Model, seed: int) -> None:
    converse(model, seed)


@pytest.mark.slow
def test_many_conversations(model: Model) -> None:
    for seed in range(100, 112):
        converse(model, seed)
