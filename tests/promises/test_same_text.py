"""Promise 1: drafting changes the speed and nothing else. The same tokens and text with it and without, for the same seed."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from bundled import NAMES, PROMPTS, bundled

from skipstone.decode.length import FixedLength
from skipstone.decode.loop import decode
from skipstone.decode.options import Options
from skipstone.decode.session import Session

LENGTHS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 15, "auto"]
WAYS = [
    dict(temperature=0.0),
    dict(temperature=0.8, top_p=0.9),
    dict(temperature=1.3, min_p=0.05, repeat_penalty=1.1),
    dict(temperature=0.7, top_k=20, presence_penalty=0.4, frequency_penalty=0.2),
    dict(temperature=0.0, repeat_penalty=1.2, logit_bias={10: -4.0}),
    dict(temperature=1.0),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS, ids=lambda w: "+".join(w))
def test_the_same_text_whatever_is_drafted(name: str, way: dict[str, Any]) -> None:
    model = bundled(name)
    for seed, prompt in enumerate(PROMPTS):
        plain = model.generate(prompt, max_tokens=40, seed=seed, draft_tokens=0, **way)
        assert plain.stats.drafted == []
        for length in LENGTHS[1:]:
            drafted = model.generate(prompt, max_tokens=40, seed=seed, draft_tokens=length, **way)
            assert (drafted.tokens, drafted.text, drafted.finish_reason) == (plain.tokens, plain.text, plain.finish_reason), (seed, length)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_the_same_text_with_quantized_caches(name: str, kv_type: str) -> None:
    model = bundled(name, kv_type=kv_type)
    for seed, (prompt, way) in enumerate(zip(PROMPTS, WAYS)):
        plain = model.generate(prompt, max_tokens=40, seed=seed, draft_tokens=0, **way)
        for length in (1, 3, 8, "auto"):
            drafted = model.generate(prompt, max_tokens=40, seed=seed, draft_tokens=length, **way)
            assert (drafted.tokens, drafted.text) == (plain.tokens, plain.text), (seed, length)


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_in_the_middle_of_a_block_cuts_at_the_same_place(name: str) -> None:
    model = bundled(name)
    for prompt in PROMPTS[:3]:
        whole = model.generate(prompt, max_tokens=60, stop_at_eos=False, draft_tokens=0)
        for start in range(0, len(whole.text) - 5, 11):
            stop = whole.text[start:start + 5]
            plain = model.generate(prompt, max_tokens=60, stop_at_eos=False, stop=stop, draft_tokens=0)
            assert plain.text == whole.text[:whole.text.index(stop)] and plain.finish_reason == "stop"
            for length in (3, 8, "auto"):
                drafted = model.generate(prompt, max_tokens=60, stop_at_eos=False, stop=stop, draft_tokens=length)
                assert (drafted.tokens, drafted.text, drafted.finish_reason) == (plain.tokens, plain.text, plain.finish_reason)


class Oracle:
    """A drafter that knows the text; shift 0 tells it, another number never does."""

    name, bytes = "oracle", 0

    def __init__(self, text: list[int], shift: int) -> None:
        self.text, self.shift, self.known = text, shift, 0

    def observe(self, text: list[int], start: int, hidden: Any) -> None:
        self.known = start + len(hidden)

    def missing(self, length: int) -> None:
        return None

    def behind(self, length: int) -> int:
        return 1

    def rollback(self, length: int) -> None:
        self.known = length

    def draft(self, text: list[int], token: int, steps: int, sampler: Any, target: Any) -> list[int]:
        assert self.known == len(text) == target.length
        return [(t + self.shift) % 4096 for t in self.text[len(text) + 1:len(text) + 1 + steps]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS, ids=lambda w: "+".join(w))
def test_drafters_that_are_always_right_and_always_wrong(name: str, way: dict[str, Any]) -> None:
    model = bundled(name)
    prompt = model.tokenizer.encode(PROMPTS[0], special=True)
    options = dict(max_tokens=50, seed=4, stop_at_eos=False, **way)
    plain = model.generate(prompt, draft_tokens=0, **options)
    for shift in (0, 1):
        for length in (1, 4, 15):
            session = Session(model, draft=False)
            session._drafter = Oracle(prompt + plain.tokens, shift)
            checked = Options.of(options, model.vocab_size)
            *_, last = pieces = list(decode(session, model._prompt(prompt), checked, model.tokenizer, FixedLength(length)))
            assert [t for p in pieces for t in p.tokens] == plain.tokens and "".join(p.text for p in pieces) == plain.text
            assert sum(last.stats.accepted) == (0 if shift else sum(last.stats.drafted))
            assert session.tokens == prompt + plain.tokens[:-1]


@pytest.mark.parametrize("name", NAMES)
def test_texts_written_at_once_by_several_threads(name: str) -> None:
    model = bundled(name)
    work = [(prompt, dict(max_tokens=40, seed=seed, temperature=0.9, draft_tokens=length))
            for seed, prompt in enumerate(PROMPTS) for length in (0, 3, "auto")]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda w: model.generate(w[0], **w[1]).tokens, work))
    assert together == [model.generate(prompt, **options).tokens for prompt, options in work]


@pytest.mark.parametrize("name", NAMES)
def test_drafts_are_worth_their_name(name: str) -> None:
    """Greedy, four drafts: at least two and a half tokens a pass on source like that which the models were trained on."""
    model = bundled(name)
    results = [model.generate(prompt, max_tokens=60, draft_tokens=4, stop_at_eos=False) for prompt in PROMPTS]
    assert sum(r.stats.tokens - 1 for r in results) / sum(r.stats.passes for r in results) >= 2.5
    assert all(r.stats.acceptance[0] > 0.5 for r in results)
