"""Several texts at once: each is what it would be alone, whoever comes, goes, fails or fills its context beside it."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_models import VOCABULARY, Scripted, Words, drafters, model, target

from skipstone.decode.length import Costs, FixedLength, Sharing, SharedLength, Acceptance
from skipstone.errors import ArgumentError, OutOfMemory

PROGRAM = target(3)
WAYS: list[dict[str, Any]] = [{}, {"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.9, "repeat_penalty": 1.2}, {"repeat_penalty": 1.3, "logit_bias": {5: 2.0}},
                              {"logprobs": 2}, {"stop": "e"}]


def prompt_of(seed: int, n: int = 30) -> list[int]:
    return np.random.default_rng(seed).integers(2, VOCABULARY, n).tolist()


def work(texts: int, seed: int = 0) -> list[tuple[list[int], dict[str, Any]]]:
    random = np.random.default_rng(seed)
    return [(prompt_of(100 + i, int(random.choice([1, 2, 30, 200, 700]))),
             dict(max_tokens=int(random.integers(1, 40)), seed=i, stop_at_eos=False, **WAYS[i % len(WAYS)])) for i in range(texts)]


@pytest.mark.parametrize("name", ["none", "mtp", "assistant", "orthrus", "dflash", "dflash2", "ngram", "random"])
@pytest.mark.parametrize("limit", [1, 3, 16])
def test_each_text_is_its_own(name: str, limit: int) -> None:
    m = model(PROGRAM, {"none": None, **drafters(3)}[name], tokenizer=Words())
    batch, drafts = m.batch(limit=limit), [0, 1, 4, 15, "auto"]
    given = work(14)
    texts = [batch.add(prompt, draft_tokens=drafts[i % 5] if m.drafter else 0, **options) for i, (prompt, options) in enumerate(given)]
    ended = batch.run()
    assert set(ended) == set(texts) and len(batch) == 0
    for text, (prompt, options) in zip(texts, given):
        alone, result = m.generate(prompt, draft_tokens=0, **options), text.result()
        assert (result.tokens, result.text, result.finish_reason) == (alone.tokens, alone.text, alone.finish_reason)
        assert (result.logprobs, result.top_logprobs) == (alone.logprobs, alone.top_logprobs)
        assert result.stats.prompt_tokens == len(prompt) and result.stats.tokens == len(result.tokens) and result.stats.seed == options["seed"]
        assert text.text == result.text and text.tokens == result.tokens and text.finish_reason == result.finish_reason


def test_texts_come_and_go_between_passes() -> None:
    program, prompts = PROGRAM, [prompt_of(i) for i in range(8)]
    alone = [model(program).generate(p, max_tokens=40, seed=i, temperature=1.0, stop_at_eos=False).tokens for i, p in enumerate(prompts)]
    m = model(program, drafters(3)["mtp"], tokenizer=Words())
    batch = m.batch(limit=4)
    texts = [batch.add(prompts[i], max_tokens=40, seed=i, temperature=1.0, stop_at_eos=False) for i in range(3)]
    pieces: dict[Any, list[int]] = {}
    for count, (text, piece) in enumerate(batch):
        pieces.setdefault(text, []).extend(piece.tokens)
        if count % 5 == 0 and len(texts) < 8:
            texts.append(batch.add(prompts[len(texts)], max_tokens=40, seed=len(texts), temperature=1.0, stop_at_eos=False))
        if count == 7:
            texts[1].cancel()
        if count == 9:
            texts[-1].cancel()
    assert len(texts) == 8
    reasons = [text.finish_reason for text in texts]
    assert reasons.count("cancelled") == 2 and reasons.count("length") == 6 and texts[1].finish_reason == "cancelled"
    for text, tokens in zip(texts, alone):
        assert text.tokens == tokens[:len(text.tokens)] == pieces[text]
        assert text.finish_reason == "cancelled" or text.tokens == tokens
    texts[1].cancel()   # without effect
    assert texts[1].result().finish_reason == "cancelled"


def test_what_was_held_back_comes_out_when_a_text_is_cancelled() -> None:
    m, options = model(PROGRAM, tokenizer=Words()), dict(max_tokens=30, temperature=1.2, seed=1, stop_at_eos=False)
    whole = m.generate(prompt_of(1), **options).text
    stops = [c + "\x00" for c in set(whole)]   # each letter may begin one, none ever does
    for until in range(1, 20):
        batch = m.batch()
        text, got = batch.add(prompt_of(1), stop=stops, **options), ""
        for _ in range(until):
            batch.step()
        text.cancel()
        for _, piece in batch:
            got += piece.text
        assert got == text.result().text == Words().decode(text.tokens) == whole[:len(got)]


@pytest.mark.parametrize("seed", range(3))
def test_after_an_interrupt_the_batch_goes_on(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt in a pass, in a drafter, between the texts of a pass: nothing is lost, nothing changes."""
    given = [(p, {k: v for k, v in o.items() if k != "stop"}) for p, o in work(6, 1)]
    plain = [model(PROGRAM, tokenizer=Words()).generate(p, **o) for p, o in given]
    chance = np.random.default_rng(seed)

    def interrupting(function: Any) -> Any:
        def wrapped(*args: Any, **more: Any) -> Any:
            if chance.random() < 0.01:
                raise KeyboardInterrupt
            value = function(*args, **more)
            if chance.random() < 0.01:
                raise KeyboardInterrupt   # done, and not accounted for
            return value
        return wrapped

    from skipstone.decode import session, stop, writer
    for owner, name in ((session.Session, "_commit"), (session.Session, "_settle"), (session.Session, "_propose"), (stop.TextStream, "push"),
                        (writer.Writer, "_choose"), (writer, "logprobs")):
        monkeypatch.setattr(owner, name, interrupting(getattr(owner, name)))
    m = model(PROGRAM, drafters(3)["mtp"], tokenizer=Words())
    batch, got, interrupts = m.batch(limit=4), {}, 0
    texts = [batch.add(prompt, draft_tokens=3, **options) for prompt, options in given]
    while len(batch):
        try:
            for text, piece in batch:
                got[text] = got.get(text, "") + piece.text
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts > 3
    for text, expected in zip(texts, plain):
        assert text.result().tokens == expected.tokens and text.result().text == expected.text == got[text]
        assert text.result().logprobs == expected.logprobs


def test_a_full_context_ends_one_and_the_others_go_on() -> None:
    m = model(PROGRAM, drafters(3)["mtp"], context=60)
    short, long = prompt_of(1, 10), prompt_of(2, 50)
    results = m.generate([short, long, short[:5]], max_tokens=None, stop_at_eos=False)
    assert [len(r.tokens) for r in results] == [50, 10, 55] and {r.finish_reason for r in results} == {"length"}
    assert [r.tokens for r in results] == [m.generate(p, max_tokens=None, stop_at_eos=False).tokens for p in (short, long, short[:5])]


def test_who_finds_no_memory_ends_and_the_others_go_on() -> None:
    class Full:
        """Runs as PROGRAM until a sequence would be longer than 200 tokens."""
        def __getattr__(self, name: str) -> Any:
            return getattr(PROGRAM, name)

        def run(self, parts: list[Any], **more: Any) -> Any:
            if any(sequence.length + len(tokens) > 200 for sequence, tokens in parts):
                raise OutOfMemory("no more")
            return PROGRAM.run(parts, **more)
    m = model(Full())
    batch = m.batch()
    texts = [batch.add(prompt_of(i, 190 if i == 1 else 20), max_tokens=30, stop_at_eos=False) for i in range(3)]
    batch.run()
    assert [t.finish_reason for t in texts] == ["length", "error", "length"]
    with pytest.raises(OutOfMemory, match="no more"):
        texts[1].result()
    whole = [model(PROGRAM).generate(prompt_of(i, 190 if i == 1 else 20), max_tokens=30, stop_at_eos=False).tokens for i in range(3)]
    assert texts[0].tokens == whole[0] and texts[2].tokens == whole[2] and texts[1].tokens == whole[1][:11]


def test_sessions_in_a_batch_keep_what_they_read() -> None:
    m = model(PROGRAM, drafters(3)["mtp"])
    sessions, batch = [m.session() for _ in range(3)], m.batch()
    prompts = [prompt_of(i, 40) for i in range(3)]
    first = [batch.add(p, session=s, max_tokens=5, stop_at_eos=False) for p, s in zip(prompts, sessions)]
    second = [batch.add(p + [3, 4], session=s, max_tokens=5, stop_at_eos=False) for p, s in zip(prompts, sessions)]   # one after the other
    batch.run()
    for p, s, a, b in zip(prompts, sessions, first, second):
        assert a.tokens == m.generate(p, max_tokens=5, stop_at_eos=False).tokens
        assert b.tokens == m.generate(p + [3, 4], max_tokens=5, stop_at_eos=False).tokens
        assert b.result().stats.reused_tokens >= 39 and s.tokens == p + [3, 4] + b.tokens[:-1]
    with pytest.raises(ArgumentError, match="session"):
        batch.add(prompts[0], session=model(PROGRAM).session())


def test_lists_and_n() -> None:
    m = model(PROGRAM, drafters(3)["mtp"], tokenizer=Words())
    options = dict(max_tokens=20, temperature=1.0, stop_at_eos=False)
    prompts = [prompt_of(i, 1 + 20 * i) for i in range(4)]
    alone = [[m.generate(p, seed=7 + i, **options).tokens for i in range(3)] for p in prompts]
    assert [r.tokens for r in m.generate(prompts, seed=7, **options)] == [a[0] for a in alone]
    assert [[r.tokens for r in rs] for rs in m.generate(prompts, n=3, seed=7, **options)] == alone
    assert [r.tokens for r in m.generate(prompts[2], n=3, seed=7, **options)] == alone[2]
    assert [r.stats.seed for r in m.generate(prompts[2], n=3, seed=2**64 - 2, **options)] == [2**64 - 2, 2**64 - 1, 0]
    assert [r.text for r in m.generate(["ab", "c d"], seed=3, **options)] == [m.generate(p, seed=3, **options).text for p in ("ab", "c d")]
    assert len(m.generate(prompts[1], n=1, **options)) == 1 and m.generate([prompts[1]], max_tokens=0)[0].tokens == []
    many = m.generate(prompts[2], n=12, seed=0, **options)   # more than a pass takes
    assert [r.tokens for r in many] == [m.generate(prompts[2], seed=i, **options).tokens for i in range(12)]
    for wrong in (dict(n=0), dict(n=1.5), dict(n=True)):
        with pytest.raises(ArgumentError, match="n:"):
            m.generate(prompts[0], **wrong)
    with pytest.raises(ArgumentError, match="prompt"):
        m.generate([prompts[0], []])


def test_wrong_arguments_are_named_at_once() -> None:
    m = model(PROGRAM, tokenizer=Words())
    batch = m.batch()
    for prompt, options, named in (([], {}, "prompt"), ([1], dict(temperature=-1), "temperature"), ([1], dict(draft_tokens=3), "draft_tokens"), ([VOCABULARY], {}, "prompt")):
        with pytest.raises(ArgumentError, match=named):
            batch.add(prompt, **options)
    with pytest.raises(ArgumentError, match="limit"):
        m.batch(limit=0)
    text = batch.add([5, 6], max_tokens=3)
    with pytest.raises(ArgumentError, match="finished"):
        text.result()
    text.cancel()
    assert text.result().tokens == [] and list(batch)[0][1].finish_reason == "cancelled"


def test_one_pass_verifies_the_drafts_of_all() -> None:
    prompts = [prompt_of(i) for i in range(5)]
    whole = [model(PROGRAM).generate(p, max_tokens=40, stop_at_eos=False).tokens for p in prompts]
    told = {tuple(p): p + w for p, w in zip(prompts, whole)}

    def tell(text: list[int], n: int) -> list[int]:
        return next(t for p, t in told.items() if tuple(text[:30]) == p)[len(text):][:n]
    passes = 0

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(PROGRAM, name)

        def run(self, parts: list[Any], **more: Any) -> Any:
            nonlocal passes
            passes += 1
            return PROGRAM.run(parts, **more)
    m = model(Counting(), Scripted(tell))
    results = m.generate(prompts, max_tokens=40, draft_tokens=12, stop_at_eos=False)
    assert [r.tokens for r in results] == whole
    assert passes == 1 + 3   # the prompts, and 39 tokens at 13 a pass, of all five at once


def test_drafts_are_given_where_they_are_likeliest_to_be_right() -> None:
    def length(right: int, wrong: int) -> SharedLength:
        acceptance = Acceptance()
        for _ in range(60):
            acceptance.observe(15, right)
        for _ in range(wrong):
            acceptance.observe(15, 0)
        return SharedLength(acceptance)
    passes = Costs()
    for rows in range(1, 40):
        for _ in range(9):
            passes.add(10, rows, 1.0 + 0.05 * rows)
    sharing, good, bad = Sharing(passes), length(15, 0), length(0, 60)
    lengths = [good, bad, FixedLength(3)]
    sharing.give([10, 10, 10], lengths, [20, 20, 20])
    assert good.given > 5 and bad.given == 0
    sharing.give([10, 10, 10], lengths, [2, 20, 20])
    assert good.given == 2
    dear = Costs()
    for rows in range(1, 40):
        dear.add(10, rows, float(rows * rows))
    sharing = Sharing(dear)
    sharing.give([10, 10, 10], lengths, [20, 20, 20])
    assert good.given == 0
