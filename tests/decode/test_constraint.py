"""Constrained texts: always what the schema, expression or grammar allows, and the same whatever is drafted."""
from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from random_schemas import fits, random_schema
from small_models import Words, model, right_and_wrong, target

import skipstone
from skipstone import _native, bundled
from skipstone.errors import ArgumentError

WAYS: list[dict[str, Any]] = [dict(temperature=0.0), dict(temperature=1.0), dict(temperature=0.9, top_p=0.9, top_k=40), dict(temperature=0.7, repeat_penalty=1.2, logit_bias={300: -3.0})]
PROMPT = "class Stack:\n    def __init__(self):\n"


@pytest.fixture(scope="module", params=["qwen35", "gemma4"])
def tiny(request: pytest.FixtureRequest) -> skipstone.Model:
    return skipstone.load({"qwen35": bundled.QWEN35, "gemma4": bundled.GEMMA4}[request.param], threads=1)


def compared(m: skipstone.Model, **options: Any) -> skipstone.Result:
    """The text, the same with drafts."""
    plain = m.generate(PROMPT, draft_tokens=0, **options)
    for drafts in (1, 4, "auto"):
        drafted = m.generate(PROMPT, draft_tokens=drafts, **options)
        assert (drafted.tokens, drafted.text, drafted.finish_reason) == (plain.tokens, plain.text, plain.finish_reason), (drafts, options)
        assert (drafted.logprobs, drafted.top_logprobs) == (plain.logprobs, plain.top_logprobs)
    return plain


def valid(result: skipstone.Result, schema: Any) -> bool:
    """Whether a finished text fits; a text that was cut short is only counted."""
    if result.finish_reason == "stop":
        assert fits(json.loads(result.text), schema), (result.text, schema)
    else:
        assert result.finish_reason == "length"
    return result.finish_reason == "stop"


def schemas(m: skipstone.Model, seeds: range) -> int:
    finished = 0
    for seed in seeds:
        schema = random_schema(np.random.default_rng(seed))
        finished += valid(compared(m, json_schema=schema, max_tokens=150, seed=seed, **WAYS[seed % len(WAYS)]), schema)
    return finished


def test_random_schemas(tiny: skipstone.Model) -> None:
    assert schemas(tiny, range(8)) > 5


@pytest.mark.slow
def test_many_random_schemas(tiny: skipstone.Model) -> None:
    assert schemas(tiny, range(100, 140)) > 25


@pytest.mark.parametrize("way", WAYS, ids=lambda w: "+".join(w))
def test_expressions_and_grammars(tiny: skipstone.Model, way: dict[str, Any]) -> None:
    for seed, expression in enumerate(["[a-z]{3,9}", r"(yes|no|maybe), [0-9]{1,3}\.", r"\{[^{}]{0,30}\}", "äöü€{1,4}", "x"]):
        result = compared(tiny, regex=expression, max_tokens=60, seed=seed, logprobs=1, **way)
        assert result.finish_reason == "stop" and re.fullmatch(expression, result.text), result.text
    lark = 'start: "(" start ")" | NUMBER\nNUMBER: /[0-9]{1,2}/\n'
    gbnf = 'root ::= answer " because " [a-z]+ "."\nanswer ::= "yes" | "no"\n'
    for seed in range(3):
        result = compared(tiny, grammar=lark, max_tokens=40, seed=seed, **way)
        assert result.finish_reason == "length" or re.fullmatch(r"\(*[0-9]{1,2}\)*", result.text)
        result = compared(tiny, grammar=gbnf, max_tokens=20, seed=seed, **way)
        assert re.fullmatch(r"(yes|no) because [a-z]+\." if result.finish_reason == "stop" else r"(yes|no) because [a-z]*", result.text)


def test_the_choice_is_the_best_of_what_is_allowed(tiny: skipstone.Model) -> None:
    """Greedy, token by token, against a search over the vocabulary with the expression itself."""
    partial = re.compile(r"[a-d]{0,6}")
    ids = tiny.tokenizer.encode(PROMPT, special=True)
    session, text = tiny.session(draft=False), ""
    logits, tokens = session.forward(ids)[-1], []
    pieces = [tiny.tokenizer.token_bytes(i).decode("utf-8", "replace") for i in range(tiny.tokenizer.vocab_size)]
    while len(text) < 6:
        allowed = [i for i, piece in enumerate(pieces) if piece and partial.fullmatch(text + piece)]
        tokens.append(max(allowed, key=lambda i: (logits[i], -i)))
        text += pieces[tokens[-1]]
        logits = session.forward(tokens[-1:])[-1]
    result = compared(tiny, regex="[a-d]{6}", max_tokens=20)
    assert (result.tokens, result.text) == (tokens, text)


def test_end_of_text_ends_it_only_where_the_grammar_may_end(tiny: skipstone.Model) -> None:
    end = min(tiny.tokenizer.eos_ids)
    for eager in (30.0, 1000.0):
        result = compared(tiny, regex="[0-9]{5}[a-z]*", max_tokens=30, logit_bias={end: eager})
        assert re.fullmatch("[0-9]{5}", result.text) and result.tokens[-1] == end and result.finish_reason == "stop"
        with_more = compared(tiny, regex="[0-9]{5}[a-z]*", max_tokens=30, logit_bias={end: eager}, stop_at_eos=False)
        assert with_more.text == result.text and with_more.finish_reason == "stop"


def test_several_at_once_and_sessions(tiny: skipstone.Model) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
              "required": ["name", "n"], "additionalProperties": False}
    options = [dict(json_schema=schema, seed=i, max_tokens=40, temperature=1.0) if i % 2 else dict(seed=i, max_tokens=40, regex="[a-z ]{20}") for i in range(6)]
    alone = [tiny.generate(PROMPT, draft_tokens=0, **o).tokens for o in options]
    batch = tiny.batch(limit=4)
    texts = [batch.add(PROMPT, **o) for o in options]
    batch.run()
    assert [t.tokens for t in texts] == alone
    session = tiny.session()
    assert [session.generate(PROMPT, **o).tokens for o in options] == alone
    assert [r.tokens for r in tiny.generate(PROMPT, n=3, json_schema=schema, seed=1, max_tokens=40, temperature=1.0)][0] == alone[1]


def test_wrong_ones_are_named_before_anything_is_read(tiny: skipstone.Model) -> None:
    for options, named in ((dict(regex="[a-"), "regex"), (dict(regex=""), "regex"), (dict(regex=3), "regex"), (dict(json_schema="{"), "json_schema"), (dict(json_schema=[1]), "json_schema"),
                           (dict(json_schema={"type": "nothing"}), "json_schema"), (dict(json_schema={"x": {1}}), "json_schema"), (dict(grammar="start: missing"), "grammar"),
                           (dict(grammar="root ::= ("), "grammar"), (dict(regex="a", grammar="b"), "both"), (dict(regex="a" * (1 << 21)), "regex")):
        with pytest.raises(ArgumentError, match=named):
            tiny.stream(PROMPT, **options)
        with pytest.raises(ArgumentError, match=named):
            tiny.batch().add(PROMPT, **options)
    session = tiny.session()
    session.forward([5, 6, 7], logits=None)
    with pytest.raises(ArgumentError, match="regex"):
        session.generate(PROMPT, regex="(")
    assert session.tokens == [5, 6, 7]
    with pytest.raises(ArgumentError, match="no token"):
        tiny.generate(PROMPT, regex="[a-z]", logit_bias=dict.fromkeys(range(tiny.tokenizer.vocab_size), float("-inf")))
    with pytest.raises(ArgumentError, match="tokenizer"):
        model(target(1)).generate([1, 2], regex="a")


def test_drafts_are_proposed_under_the_mask(tiny: skipstone.Model) -> None:
    """A drafter whose every proposal is judged writes digits too, though the model would rather write source."""
    result = tiny.generate(PROMPT, regex="[0-9]{60}", max_tokens=60, draft_tokens=4, temperature=0.0)
    assert sum(result.stats.accepted) > 0 and all(set(tiny.tokenizer.decode([t])) <= set("0123456789") for t in result.tokens)


def test_tokens_without_a_choice_are_read_along(tiny: skipstone.Model) -> None:
    """Several a pass also without drafts; a part that the grammar leaves open goes token by token."""
    fixed = tiny.generate(PROMPT, regex="zq0123456789 zq0123456789 zq0123456789", max_tokens=60, draft_tokens=0)
    assert fixed.text == "zq0123456789 zq0123456789 zq0123456789" and fixed.finish_reason == "stop"
    assert fixed.stats.forced > 10 and fixed.stats.passes + fixed.stats.forced >= len(fixed.tokens) - 1 and fixed.stats.passes < len(fixed.tokens) / 2
    assert fixed.stats.drafted == []
    free = tiny.generate(PROMPT, regex=r"[^ÿ]*", max_tokens=30, draft_tokens=0, stop_at_eos=False)
    assert free.stats.forced == 0 and free.stats.passes == len(free.tokens) - 1
    assert free.tokens == tiny.generate(PROMPT, max_tokens=30, draft_tokens=0, stop_at_eos=False).tokens


def test_masked_choices_of_the_sampler() -> None:
    random = np.random.default_rng(0)
    for way in (dict(), dict(temperature=1.0), dict(temperature=0.8, top_k=5), dict(temperature=0.9, top_p=0.7), dict(temperature=1.0, min_p=0.1, repeat_penalty=1.2)):
        for vocabulary in (1, 31, 32, 33, 500):
            logits = random.standard_normal(vocabulary).astype(np.float32) * 3
            allowed = random.random(vocabulary) < 0.3
            allowed[random.integers(0, vocabulary)] = True
            words = np.zeros((vocabulary + 31) // 32 * 32, np.uint8)
            words[:vocabulary] = allowed
            mask = np.packbits(words, bitorder="little").view(np.uint32)
            sampler = _native.Sampler(vocabulary, seed=3, **way)
            expected = _native.Sampler(vocabulary, seed=3, **way).choose(np.where(allowed, logits, -np.inf).astype(np.float32))
            assert sampler.choose(logits, mask) == expected
            seen: list[tuple[int, int]] = []
            sampler.set_judge(lambda before, chosen, mask=mask, allowed=allowed, seen=seen: seen.append((before, chosen)) or (None if allowed[chosen] else mask))
            choice = sampler.choose(logits)
            assert seen == [(-1, seen[0][1])] and allowed[choice]
            if "top_k" not in way and "top_p" not in way and "min_p" not in way:
                assert choice == expected
            sampler.set_judge(None)
            assert sampler.choose(logits) == seen[0][1]
    with pytest.raises(ArgumentError, match="mask"):
        _native.Sampler(100).choose(np.zeros(100, np.float32), np.zeros(3, np.uint32))


def test_a_wrong_drafter_changes_nothing() -> None:
    class Texts(Words):
        """Words, with what a grammar needs to know."""
        bos_id, library_cache = None, None

        def __init__(self) -> None:
            self.library_cache: dict[Any, Any] = {}

        def token_bytes(self, i: int) -> bytes:
            return self.pieces[i].encode()

        def token_text(self, i: int) -> str:
            return self.pieces[i] or f"<|{i}|>"
    program, prompt = target(5), np.random.default_rng(5).integers(2, 61, 30).tolist()
    for way in (dict(), dict(temperature=1.0), dict(temperature=1.0, top_p=0.9)):
        options = dict(max_tokens=40, seed=2, regex="([a-f]{2}[;,.])+", **way)
        plain = model(program, tokenizer=Texts()).generate(prompt, **options)
        assert re.fullmatch(r"([a-f]{2}[;,.])*[a-f]{0,2}", plain.text)
        for name, drafter in right_and_wrong(prompt + plain.tokens).items():
            for drafts in (1, 3, 15):
                result = model(program, drafter, tokenizer=Texts()).generate(prompt, draft_tokens=drafts, **options)
                assert (result.tokens, result.finish_reason) == (plain.tokens, plain.finish_reason), name
                assert name != "right" or result.stats.accepted == result.stats.drafted


def test_the_library_is_not_loaded_for_free_texts() -> None:
    import subprocess
    import sys

    code = ("import sys, skipstone; from skipstone import bundled; skipstone.load(bundled.QWEN35, threads=1).generate('x', max_tokens=2); "
            "assert not any(m.startswith('llguidance') for m in sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)
