"""Log probabilities of tokens."""
from __future__ import annotations

import numpy as np


def logprobs(logits: np.ndarray, token: int, top: int) -> tuple[float, dict[int, float]]:
    """log-softmax of float32 (vocabulary,) logits: of one token, and of the `top` likeliest, likeliest first, at ties the lower id."""
    most = logits.max()
    total = float(most) + float(np.log(np.exp(logits - most).sum(dtype=np.float64)))
    if top == 0:
        return float(logits[token]) - total, {}
    least = np.partition(logits, -top)[-top]
    ids = np.flatnonzero(logits >= least)
    ids = ids[np.argsort(-logits[ids], kind="stable")][:top]
    return float(logits[token]) - total, {int(i): float(logits[i]) - total for i in ids}
