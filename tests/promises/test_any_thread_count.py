"""Promise 3: the number of threads changes no bit."""
from __future__ import annotations

import numpy as np
import pytest
from bundled import NAMES, PROMPTS, bundled

TEXT = np.random.default_rng(9).integers(10, 4000, 700).tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_logits_and_states(name: str, threads: int) -> None:
    one, many = bundled(name, 1).session(), bundled(name, threads).session()
    for start, end in ((0, 300), (300, 301), (301, 309), (309, 325), (325, 690)):
        assert np.array_equal(one.forward(TEXT[start:end], logits="all"), many.forward(TEXT[start:end], logits="all"))
        assert np.array_equal(one.hidden, many.hidden)
        assert one.draft(5, TEXT[end]) == many.draft(5, TEXT[end])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("threads", [2, 3])
def test_texts(name: str, threads: int) -> None:
    for seed, prompt in enumerate(PROMPTS):
        options = dict(max_tokens=30, seed=seed, temperature=0.9, draft_tokens=3)
        assert bundled(name, 1).generate(prompt, **options).tokens == bundled(name, threads).generate(prompt, **options).tokens
