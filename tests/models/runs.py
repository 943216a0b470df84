"""Running tiny models natively and by the interpreter."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import make
import numpy as np
from oracles.interpreter import Interpreter, Weight

from skipstone.files import ModelFile, open_model
from skipstone.models import build_drafter, build_network

FORMATS = ("safetensors", "gguf")


def written(tiny: make.Tiny, folder: Path, kind: str, type: str = "F32") -> ModelFile:
    """The model as a file of that format, opened."""
    name = f"{tiny.architecture}-{tiny.seed}-{type}"
    return open_model(tiny.safetensors(folder / name, type) if kind == "safetensors" else tiny.gguf(folder / f"{name}.gguf", type))


class Run:
    """A target and maybe its drafter, natively (dtype None) or by the interpreter."""

    def __init__(self, file: ModelFile, drafter: ModelFile | None = None, dtype: Any = None, quantize: bool = False, kv_type: str = "f32") -> None:
        make_with: dict[str, Any] = {} if dtype is None else dict(make_weight=Weight, program=partial(Interpreter, dtype=dtype, quantize=quantize))
        self.network, self.kv_type = build_network(file, **make_with), kv_type
        self.drafter = build_drafter(self.network, file, drafter, **make_with)

    def logits(self, tokens: Any, pieces: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Logits and hidden rows of a new text, read in so many pieces."""
        sequence = self.network.program.sequence(self.kv_type)
        made = [self.network.program.run([(sequence, part)]) for part in np.array_split(np.asarray(tokens, np.int32), pieces)]
        return np.concatenate([m[0] for m in made]), np.concatenate([m[1] for m in made])

    def drafts(self, tokens: Any, chosen: int, steps: int) -> tuple[np.ndarray, list[int]]:
        """Logits (steps, vocabulary) of the greedy chain after `chosen`, which follows the text; and what the program's own chain gives."""
        tokens, first = np.asarray(tokens, np.int32), np.asarray([chosen], np.int32)
        target = self.network.program.sequence(self.kv_type)
        _, hidden = self.network.program.run([(target, tokens)])
        program, borrow = self.drafter.program, target if self.drafter.borrows else None
        own = None if borrow else program.sequence(self.kv_type)
        if own:
            program.run([(own, tokens[1:])], hidden=hidden[:-1], want="none")
        chain = list(program.chain(own, first, hidden[-1:], steps, borrow=borrow))
        assert own is None or own.length == len(tokens)
        if own:
            own.rollback(len(tokens) - 1)
        rows, h, token = [], hidden[-1:], first
        for _ in range(steps):
            z, h = program.run([(own, token)], hidden=h, borrow=[borrow] if borrow else None)
            rows.append(z[0])
            token = np.asarray([z[0].argmax()], np.int32)
        return np.stack(rows), chain


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference. Logits of tokens that are no candidates are -infinity in both, or the distance is infinite."""
    here = np.isfinite(a)
    return float(np.abs(a[here] - b[here]).max()) if np.array_equal(here, np.isfinite(b)) else np.inf


def rounding(file: ModelFile, tokens: Any, drafter: ModelFile | None = None, chosen: int = 0, steps: int = 0) -> float:
    """How far two orders of float32 sums may lie apart on this model and text.

    The interpreter in float32 errs against itself in float64 by one sample of that; its largest error, times 16, bounds another.
    """
    single, double = (Run(file, drafter, dtype) for dtype in (np.float32, np.float64))
    error = np.abs(single.logits(tokens)[0] - double.logits(tokens)[0]).max()
    if steps:
        error = max(error, distance(single.drafts(tokens, chosen, steps)[0], double.drafts(tokens, chosen, steps)[0]))
    return 16 * float(error)
