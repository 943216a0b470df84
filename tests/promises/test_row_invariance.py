"""Promise 2: a token's bits depend on its own text alone: on no number of rows, no cut of the prompt, no company."""
from __future__ import annotations

import numpy as np
import pytest
from bundled import NAMES, bundled

import skipstone

TEXT = np.random.default_rng(8).integers(10, 4000, 1100).tolist()
CONTEXTS = (3, 40, 255, 700, 1030)   # around the sliding window of 256 and the prompt's pass of 512 rows


def single_rows(model: skipstone.Model, context: int) -> list[np.ndarray]:
    session = model.session()
    session.forward(TEXT[:context], logits=None)
    return [session.forward([token], logits="all")[0] for token in TEXT[context:context + 16]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("kv_type", "context"), [("f16", c) for c in CONTEXTS] + [("q8_0", 255), ("q8_0", 700), ("q4_0", 40), ("q4_0", 700)])
def test_any_number_of_rows(name: str, kv_type: str, context: int) -> None:
    model = bundled(name, kv_type=kv_type)
    expected = single_rows(model, context)
    session = model.session()
    session.forward(TEXT[:context], logits=None)
    for rows in range(2, 17):
        logits = session.forward(TEXT[context:context + rows], logits="all")
        assert all(np.array_equal(logits[r], expected[r]) for r in range(rows)), rows
        session.rollback(context)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("kv_type", "seed"), [*(("f16", s) for s in range(4)), ("q8_0", 4), ("q4_0", 5)])
def test_any_cut_of_the_prompt(name: str, kv_type: str, seed: int) -> None:
    model, random = bundled(name, kv_type=kv_type), np.random.default_rng(seed)
    expected = single_rows(model, 700)
    session, at = model.session(), 0
    while at < 700:
        n = int(random.choice([1, 2, 5, 17, 33, 64, 150, 511]))
        session.forward(TEXT[at:min(700, at + n)], logits=None)
        at += n
    logits = session.forward(TEXT[700:704], logits="all")
    assert all(np.array_equal(logits[r], expected[r]) for r in range(4))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
def test_any_company(name: str, kv_type: str) -> None:
    model = bundled(name, kv_type=kv_type)
    expected = {context: single_rows(model, context) for context in CONTEXTS}
    sessions = {context: model.session() for context in CONTEXTS}
    for context, session in sessions.items():
        session.forward(TEXT[:context], logits=None)
    for rows in ((1, 1, 1, 1, 1), (3, 1, 4, 1, 5), (2, 8, 1, 16, 2)):
        parts = [(session, TEXT[context:context + n]) for (context, session), n in zip(sessions.items(), rows)]
        for context, n, logits in zip(CONTEXTS, rows, skipstone.forward(parts, logits="all")):
            assert all(np.array_equal(logits[r], expected[context][r]) for r in range(n))
            sessions[context].rollback(context)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
def test_any_way_back(name: str, kv_type: str) -> None:
    """Drafts rejected, a text given up far back, and read again: as if it had not happened."""
    model = bundled(name, kv_type=kv_type)
    expected = single_rows(model, 255)
    session = model.session()
    session.forward(TEXT[:800], logits=None)
    for back in (790, 300, 255):
        session.rollback(back)
        session.forward(TEXT[500:507], logits=None)
        session.rollback(back)
    logits = session.forward(TEXT[255:271], logits="all")
    assert all(np.array_equal(logits[r], expected[r]) for r in range(16))
