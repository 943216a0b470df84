"""Sampled tokens follow the model's own distribution, drafted ones too: chi-square of the second token, given the likeliest first."""
from __future__ import annotations

import collections
import math

import numpy as np
import pytest
from bundled import NAMES, bundled

DRAWS, TEMPERATURE = 3000, 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("filters", [{}, {"top_p": 0.8}], ids=lambda f: "+".join(f) or "plain")
def test_a_drafted_position(name: str, filters: dict) -> None:
    model = bundled(name)
    prompt = model.tokenizer.encode("def main(argv):\n    parser = ")
    session = model.session()
    first = int(session.forward(prompt)[-1].argmax())
    z = session.forward([first])[-1].astype(np.float64) / TEMPERATURE
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    order = np.argsort(-p, kind="stable")
    kept = order[:int(np.searchsorted(np.cumsum(p[order]), filters.get("top_p", 1.0))) + 1]
    q = np.zeros_like(p)
    q[kept] = p[kept] / p[kept].sum()

    counts: collections.Counter[int] = collections.Counter()
    drafted = accepted = 0
    for seed in range(DRAWS):
        result = model.generate(prompt, max_tokens=3, temperature=TEMPERATURE, seed=seed, draft_tokens=2, stop_at_eos=False, **filters)
        drafted, accepted = drafted + result.stats.drafted[0], accepted + result.stats.accepted[0]
        if result.tokens[0] == first:
            counts[result.tokens[1]] += 1
    n = counts.total()
    assert n > DRAWS / 10 and 0 < accepted < drafted and set(counts) <= set(kept.tolist())
    cells = [int(i) for i in np.argsort(-q) if q[i] * n >= 8]
    chi = sum((counts[i] - n * q[i]) ** 2 / (n * q[i]) for i in cells)
    rest, dof = n * (1 - q[cells].sum()), len(cells) - 1
    if rest >= 8:
        chi += (n - sum(counts[i] for i in cells) - rest) ** 2 / rest
        dof += 1
    assert (chi - dof) / math.sqrt(2 * max(1, dof)) < 4.5
