"""Log probabilities: log-softmax of forward's logits, the same whatever is drafted or filtered."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_models import VOCABULARY, Words, drafters, model, right_and_wrong, target

import skipstone
from skipstone import bundled
from skipstone.errors import ArgumentError

WAYS: list[dict[str, Any]] = [dict(), dict(temperature=1.0), dict(temperature=0.8, top_k=5, repeat_penalty=1.3, logit_bias={4: 3.0})]


def expected(m: skipstone.Model, prompt: list[int], tokens: list[int]) -> np.ndarray:
    """(tokens, vocabulary), float64."""
    z = np.concatenate([m.session(draft=False).forward(prompt + tokens[:-1], logits="all")])[len(prompt) - 1:].astype(np.float64)
    return z - z.max(axis=1, keepdims=True) - np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))


def check(result: skipstone.Result, wanted: np.ndarray, top: int) -> None:
    assert len(result.logprobs) == len(result.top_logprobs) == len(result.tokens)
    assert np.allclose(result.logprobs, wanted[np.arange(len(result.tokens)), result.tokens], atol=1e-5, rtol=0)
    for found, row in zip(result.top_logprobs, wanted):
        assert list(found) == np.argsort(-row, kind="stable")[:top].tolist()
        assert np.allclose(list(found.values()), row[list(found)], atol=1e-5, rtol=0)


@pytest.mark.parametrize("way", WAYS, ids=lambda w: "+".join(w) or "greedy")
@pytest.mark.parametrize("top", [0, 1, 5, VOCABULARY])
def test_small_models(way: dict[str, Any], top: int) -> None:
    program, prompt = target(7), np.random.default_rng(7).integers(2, VOCABULARY, 30).tolist()
    options = dict(max_tokens=30, seed=3, stop_at_eos=False, logprobs=top, **way)
    plain = model(program).generate(prompt, **options)
    check(plain, expected(model(program), prompt, plain.tokens), top)
    without = model(program).generate(prompt, **{**options, "logprobs": None})
    assert without.tokens == plain.tokens and without.logprobs is None and without.top_logprobs is None
    for drafter in (*drafters(7).values(), *right_and_wrong(prompt + plain.tokens).values()):
        for drafts in (1, 5, "auto"):
            result = model(program, drafter).generate(prompt, draft_tokens=drafts, **options)
            assert (result.tokens, result.logprobs, result.top_logprobs) == (plain.tokens, plain.logprobs, plain.top_logprobs)


@pytest.mark.parametrize("path", [bundled.QWEN35, bundled.GEMMA4], ids=["qwen35", "gemma4"])
def test_bundled_models(path: Any) -> None:
    m = skipstone.load(path, threads=1)
    prompt = m.tokenizer.encode("import os\n", special=True)
    plain = m.generate(prompt, max_tokens=24, draft_tokens=0, logprobs=8)
    check(plain, expected(m, prompt, plain.tokens), 8)
    assert (np.asarray(plain.logprobs) == [max(t.values()) for t in plain.top_logprobs]).all()   # greedy takes the likeliest
    drafted = m.generate(prompt, max_tokens=24, draft_tokens=4, logprobs=8)
    assert (drafted.logprobs, drafted.top_logprobs) == (plain.logprobs, plain.top_logprobs)


def test_pieces_and_stops_have_them_in_step() -> None:
    program, prompt = target(2), np.random.default_rng(2).integers(2, VOCABULARY, 30).tolist()
    m = model(program, tokenizer=Words())
    whole = m.generate(prompt, max_tokens=40, logprobs=2, temperature=1.2, seed=1, stop_at_eos=False)
    for stop in (None, whole.text[5:8]):
        pieces = list(m.stream(prompt, max_tokens=40, logprobs=2, temperature=1.2, seed=1, stop_at_eos=False, stop=stop))
        assert all(len(p.logprobs) == len(p.top_logprobs) == len(p.tokens) for p in pieces)
        found = [x for p in pieces for x in p.logprobs]
        assert found == whole.logprobs[:len(found)]


def test_wrong_numbers_are_named() -> None:
    for value in (-1, 101, 1.5, True, "x"):
        with pytest.raises(ArgumentError, match="logprobs"):
            model(target(1)).generate([1], logprobs=value)
