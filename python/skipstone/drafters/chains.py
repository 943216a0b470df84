"""Chains of several texts at once: step by step, one pass of the drafter's network over all that go on.

A row's bits do not depend on its company, so each chain is the one that Program.chain gives alone.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .base import DrafterState


@dataclass
class Request:
    """What a text wants drafted: the arguments of DrafterState.draft."""

    state: DrafterState
    text: Sequence[int]
    token: int
    steps: int
    sampler: Any
    target: Any


@dataclass
class Chain:
    """The first pass of a chain: rows after a sequence (None: without one) or beside a borrowed one."""

    sequence: Any
    borrowed: Any
    tokens: np.ndarray
    hidden: np.ndarray
    steps: int
    sampler: Any


def run_chains(program: Any, chains: Sequence[Chain], threads: int) -> list[list[int]]:
    """The drafts of each chain. The sequences keep the first pass's rows; samplers are left as they were."""
    kept = [None if c.sequence is None else c.sequence.length + len(c.tokens) for c in chains]
    drafts: list[list[int]] = [[] for _ in chains]
    rows = [(c.tokens, c.hidden) for c in chains]
    going = list(range(len(chains)))
    try:
        while going := [i for i in going if len(drafts[i]) < chains[i].steps]:
            sampled = any(chains[i].sampler is not None for i in going)
            result, hidden = program.run([(chains[i].sequence, rows[i][0]) for i in going], hidden=np.concatenate([rows[i][1] for i in going]),
                                         borrow=[chains[i].borrowed for i in going] if chains[0].borrowed is not None else None,
                                         want="logits" if sampled else "choice", rows="last", threads=threads)
            at = 0
            for place, i in enumerate(going):
                at += len(rows[i][0])
                sampler = chains[i].sampler
                if sampler is not None:
                    token = sampler.choose(result[place])
                    sampler.push(token)
                else:
                    token = int(result[place].argmax()) if sampled else int(result[place])
                drafts[i].append(token)
                rows[i] = (np.asarray([token], np.int32), hidden[at - 1:at])
    finally:
        for chain, length, drafted in zip(chains, kept, drafts):
            if chain.sampler is not None:
                chain.sampler.pop(len(drafted))
            if length is not None and chain.sequence.length > length:
                chain.sequence.rollback(length)
    return drafts
