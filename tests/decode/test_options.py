"""Options: every wrong one is named, every right one is kept."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from small_models import VOCABULARY, Words, drafters, model, target

from skipstone.decode.options import Options
from skipstone.errors import ArgumentError

WRONG: list[tuple[str, Any]] = [
    ("max_tokens", -1), ("max_tokens", 1.5), ("max_tokens", "9"), ("max_tokens", True),
    ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("temperature", "hot"), ("temperature", None),
    ("top_k", -1), ("top_k", 2.0), ("top_p", 0), ("top_p", 1.01), ("top_p", math.nan), ("top_p", 1e-60), ("min_p", -0.1), ("min_p", 2),
    ("repeat_penalty", 0), ("repeat_penalty", -1), ("repeat_penalty", math.inf), ("presence_penalty", math.nan), ("frequency_penalty", "much"),
    ("logit_bias", [1, 2]), ("logit_bias", {VOCABULARY: 1.0}), ("logit_bias", {-1: 1.0}), ("logit_bias", {"a": 1.0}),
    ("logit_bias", {1: math.nan}), ("logit_bias", {1: "x"}), ("seed", -1), ("seed", 2**64), ("seed", 1.0), ("stop", ""),
    ("stop", ["a", ""]), ("stop", 5), ("stop", [5]), ("stop_at_eos", 1), ("stop_at_eos", None),
    ("draft_tokens", -1), ("draft_tokens", 16), ("draft_tokens", "many"), ("draft_tokens", True), ("draft_tokens", None), ("temprature", 1.0),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda v: repr(v)[:30])
def test_a_wrong_option_is_named_before_anything_runs(name: str, value: Any) -> None:
    m = model(target(1), drafters(1)["mtp"], tokenizer=Words())
    for call in (m.generate, m.stream):
        with pytest.raises(ArgumentError, match=name):
            call([1, 2], **{name: value})


@pytest.mark.parametrize("prompt", [[], "", [VOCABULARY], [-1], [1.5], [[1, 2]], range(5000)], ids=lambda p: repr(p)[:20])
def test_a_wrong_prompt_is_named(prompt: Any) -> None:
    with pytest.raises(ArgumentError, match="prompt"):
        model(target(1), tokenizer=Words()).stream(prompt)


def test_what_a_model_lacks_is_said() -> None:
    plain = model(target(1))
    with pytest.raises(ArgumentError, match="draft_tokens"):
        plain.generate([1], draft_tokens=2)
    with pytest.raises(ArgumentError, match="stop"):
        plain.generate([1], stop="x")
    with pytest.raises(ArgumentError, match="prompt"):
        plain.generate("text")
    assert len(plain.generate([1], draft_tokens="auto", max_tokens=3).tokens) == 3


def test_right_options_are_kept() -> None:
    options = Options.of(dict(max_tokens=np.int64(5), temperature=1, top_k=np.int32(3), logit_bias={np.int64(4): 1, 5: -math.inf}, seed=2**64 - 1,
                              stop=("a", "bc"), draft_tokens=15), VOCABULARY)
    assert options == Options(max_tokens=5, temperature=1.0, top_k=3, logit_bias={4: 1.0, 5: -math.inf}, seed=2**64 - 1, stop=("a", "bc"),
                              draft_tokens=15)
    assert Options.of({}, VOCABULARY).stop == () and 0 <= Options.of({}, VOCABULARY).seed < 2**63
    assert Options.of(dict(max_tokens=None, stop="x"), VOCABULARY).stop == ("x",)
