"""The decode loop on small random models: the same text whatever is drafted, and what ends it, to the token."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_models import VOCABULARY, Scripted, Words, drafters, model, right_and_wrong, target

from skipstone.errors import ArgumentError

WAYS = [{}, {"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.9, "repeat_penalty": 1.2, "frequency_penalty": 0.1},
        {"temperature": 1.5, "top_k": 9, "min_p": 0.02, "presence_penalty": 0.4}, {"repeat_penalty": 1.3, "logit_bias": {5: 2.0, 7: float("-inf")}}]
LENGTHS = [0, 1, 2, 3, 5, 8, 15, "auto"]


def prompt_of(seed: int, n: int = 30) -> list[int]:
    return np.random.default_rng(seed).integers(2, VOCABULARY, n).tolist()


def all_drafters(seed: int, text: list[int]) -> dict[str, Any]:
    return {**drafters(seed), **right_and_wrong(text)}


@pytest.mark.parametrize("way", WAYS, ids=lambda w: "+".join(w) or "greedy")
@pytest.mark.parametrize("seed", [0, 1])
def test_every_drafter_and_length_gives_the_plain_text(seed: int, way: dict) -> None:
    program, prompt = target(seed), prompt_of(seed)
    options = dict(max_tokens=70, seed=seed + 5, stop_at_eos=False, **way)
    plain = model(program, tokenizer=Words()).generate(prompt, **options)
    assert len(plain.tokens) == 70 and plain.finish_reason == "length"
    for name, drafter in all_drafters(seed, prompt + plain.tokens).items():
        m = model(program, drafter, tokenizer=Words())
        for length in LENGTHS:
            drafted = m.generate(prompt, draft_tokens=length, **options)
            assert (drafted.tokens, drafted.text) == (plain.tokens, plain.text), (name, length)


@pytest.mark.parametrize("length", [1, 4, 8, 15])
def test_a_right_drafter_is_always_accepted_and_a_wrong_one_never(length: int) -> None:
    program, prompt = target(3), prompt_of(3)
    for way in WAYS:
        options = dict(max_tokens=61, seed=9, stop_at_eos=False, **way)
        plain = model(program).generate(prompt, **options)
        known = right_and_wrong(prompt + plain.tokens)
        right = model(program, known["right"]).generate(prompt, draft_tokens=length, **options)
        assert right.tokens == plain.tokens
        assert right.stats.accepted == right.stats.drafted and right.stats.passes == -(-60 // (length + 1))
        wrong = model(program, known["wrong"]).generate(prompt, draft_tokens=length, **options)
        assert wrong.tokens == plain.tokens
        assert sum(wrong.stats.accepted) == 0 and wrong.stats.passes == 60 == known["wrong"].asked + 1   # nothing is drafted for the last


@pytest.mark.parametrize("seed", range(3))
def test_an_end_of_text_token_ends_it_wherever_it_falls_in_a_block(seed: int) -> None:
    program, prompt = target(seed), prompt_of(seed)
    way = dict(temperature=1.2, seed=seed)
    whole = model(program, tokenizer=Words()).generate(prompt, max_tokens=40, stop_at_eos=False, **way)
    for place in range(1, 20):
        class Ends(Words):
            eos_ids = frozenset({whole.tokens[place]})
        first = whole.tokens.index(whole.tokens[place])
        for name, drafter in {"none": None, **all_drafters(seed, prompt + whole.tokens)}.items():
            result = model(program, drafter, tokenizer=Ends()).generate(prompt, max_tokens=40, draft_tokens=7 if drafter else 0, **way)
            assert result.tokens == whole.tokens[:first + 1], name
            assert result.text == Words().decode(whole.tokens[:first]) and result.finish_reason == "stop"


@pytest.mark.parametrize("seed", range(3))
def test_a_stop_string_ends_it_before_the_string(seed: int) -> None:
    program, prompt = target(seed), prompt_of(seed)
    way = dict(temperature=1.2, seed=seed, stop_at_eos=False)
    whole = model(program, tokenizer=Words()).generate(prompt, max_tokens=40, **way)
    for start in range(0, len(whole.text) - 4, 3):
        stop = whole.text[start:start + 4]
        expected = whole.text[:whole.text.index(stop)]
        results = {}
        for name, drafter in {"none": None, **all_drafters(seed, prompt + whole.tokens)}.items():
            m = model(program, drafter, tokenizer=Words())
            result = m.generate(prompt, max_tokens=40, draft_tokens=6 if drafter else 0, stop=["###", stop], **way)
            assert (result.text, result.finish_reason) == (expected, "stop"), name
            results[name] = result.tokens
        assert all(tokens == results["none"] == whole.tokens[:len(tokens)] for tokens in results.values())
        # The ids end with the one that completed the stop string.
        assert stop in Words().decode(results["none"]) and stop not in Words().decode(results["none"][:-1])


def test_max_tokens_is_met_exactly() -> None:
    program, prompt = target(1), prompt_of(1)
    whole = model(program).generate(prompt, max_tokens=30, stop_at_eos=False)
    drafter = right_and_wrong(prompt + whole.tokens)["right"]
    for most in range(31):
        result = model(program, drafter).generate(prompt, max_tokens=most, stop_at_eos=False, draft_tokens=8)
        assert result.tokens == whole.tokens[:most] and result.finish_reason == "length" and result.stats.tokens == most


def test_the_context_ends_a_text() -> None:
    program, prompt = target(1), prompt_of(1)
    whole = model(program).generate(prompt, max_tokens=30, stop_at_eos=False)
    right = right_and_wrong(prompt + whole.tokens)["right"]
    for drafter, length in ((None, 0), (right, 15), (drafters(1)["mtp"], 15), (drafters(1)["assistant"], 15)):
        m = model(program, drafter, context=50)
        for most in (None, 100):
            result = m.generate(prompt, max_tokens=most, stop_at_eos=False, draft_tokens=length)
            assert result.tokens == whole.tokens[:20] and result.finish_reason == "length"
        with pytest.raises(ArgumentError, match="prompt"):
            m.generate(prompt_of(2, 50))


@pytest.mark.parametrize("drafter", ["none", "mtp", "assistant", "dflash", "right"])
def test_pieces_together_are_the_result(drafter: str) -> None:
    program, prompt = target(2), prompt_of(2)
    options = dict(max_tokens=50, temperature=1.0, seed=3, stop="zq")
    whole = model(program, tokenizer=Words()).generate(prompt, **options)
    m = model(program, {"none": None, **all_drafters(2, prompt + whole.tokens)}[drafter], tokenizer=Words())
    pieces = list(m.stream(prompt, **options))
    assert "".join(p.text for p in pieces) == whole.text and [t for p in pieces for t in p.tokens] == whole.tokens
    assert all(p.text and p.finish_reason is None and p.stats is None for p in pieces[:-1])
    assert pieces[-1].finish_reason == whole.finish_reason and pieces[-1].stats.tokens == len(whole.tokens)


def test_without_a_tokenizer_ids_stream_and_text_is_empty() -> None:
    pieces = list(model(target(2)).stream(prompt_of(2), max_tokens=9))
    assert [len(p.tokens) for p in pieces] == [1] * 9 and "".join(p.text for p in pieces) == ""


def test_padded_and_suppressed_ids_are_not_chosen_even_where_they_are_best() -> None:
    """The tokenizer knows fewer ids than the head has rows, and suppresses some: a greedy pass that picks one is looked at again."""
    program, prompt = target(4), [t % 20 for t in prompt_of(4)]
    unlimited = model(program).generate(prompt, max_tokens=40, stop_at_eos=False).tokens

    class Few(Words):
        vocab_size = 20

    class Never(Words):
        suppressed = frozenset({unlimited[3], unlimited[20]})
    for tokenizer in (Few(), Never()):
        allowed = np.array([t < tokenizer.vocab_size and t not in tokenizer.suppressed for t in range(VOCABULARY)])
        assert not allowed[unlimited].all()
        session = model(program).session()
        logits, expected = session.forward(prompt)[-1], []
        for _ in range(40):
            expected.append(int(np.where(allowed, logits, -np.inf).argmax()))
            logits = session.forward(expected[-1:])[-1]
        for drafter, length in ((None, 0), (drafters(4)["mtp"], 3), (right_and_wrong(prompt + expected)["right"], 5)):
            result = model(program, drafter, tokenizer=tokenizer).generate(prompt, max_tokens=40, stop_at_eos=False, draft_tokens=length)
            assert result.tokens == expected
        sampled = model(program, tokenizer=tokenizer).generate(prompt, max_tokens=200, stop_at_eos=False, temperature=2.0, seed=1)
        assert allowed[sampled.tokens].all()


@pytest.mark.parametrize("drafter", ["none", "mtp", "assistant", "dflash", "right"])
def test_a_closed_or_interrupted_stream_leaves_its_session_in_order(drafter: str) -> None:
    """Whatever happened, the session goes on as a fresh one with the same text would."""
    from skipstone.decode.length import FixedLength
    from skipstone.decode.loop import decode
    from skipstone.decode.options import Options

    program, prompt = target(2), prompt_of(2)
    whole = model(program).generate(prompt, max_tokens=50, stop_at_eos=False)
    m = model(program, {"none": None, **all_drafters(2, prompt + whole.tokens)}[drafter])
    options = Options.of(dict(max_tokens=50, stop_at_eos=False), VOCABULARY)
    length = FixedLength(5 if m.drafter else 0)
    for stopped_after in range(6):
        session = m.session()
        stream = decode(session, np.asarray(prompt, np.int32), options, None, length)
        given = [t for _ in range(stopped_after) for t in next(stream).tokens]
        if stopped_after % 2:
            stream.close()
        else:
            # A pass runs, and the interrupt comes before it is accounted for.
            session._run(np.asarray([1, 2, 3], np.int32), "none", "last") if session.length else None
        assert session.tokens == (prompt + given[:-1] if given else [])
        fresh = m.session()
        if given:
            fresh.forward(prompt + given[:-1], logits=None)
            if m.drafter:
                assert session.draft(5, given[-1]) == fresh.draft(5, given[-1])
        rest = [7, 9, 11]
        assert np.array_equal(session.forward(rest, logits="all"), fresh.forward(rest, logits="all"))


def test_an_interrupt_within_a_drafter_is_harmless() -> None:
    program, prompt = target(2), prompt_of(2)
    whole = model(program).generate(prompt, max_tokens=50, stop_at_eos=False)

    def interrupted(text: list[int], n: int) -> list[int]:
        if len(text) > 40:
            raise KeyboardInterrupt
        return whole.tokens[len(text) - len(prompt):][:n]
    stream = model(program, Scripted(interrupted)).stream(prompt, max_tokens=50, stop_at_eos=False, draft_tokens=3)
    got = []
    with pytest.raises(KeyboardInterrupt):
        for piece in stream:
            got += piece.tokens
    assert got == whole.tokens[:len(got)] and len(got) > 5


def test_long_prompts_are_read_in_pieces_with_the_same_result() -> None:
    program, prompt = target(5), prompt_of(5, 1300)
    session = model(program).session()
    first = int(session.forward(prompt)[-1].argmax())
    for drafter in (None, *drafters(5).values()):
        result = model(program, drafter).generate(prompt, max_tokens=12, draft_tokens=4 if drafter else 0, stop_at_eos=False)
        assert result.tokens[0] == first and result.stats.prompt_tokens == 1300
    assert len({tuple(model(program, d).generate(prompt, max_tokens=12, stop_at_eos=False).tokens) for d in (None, *drafters(5).values())}) == 1


def test_a_given_seed_repeats_and_a_random_one_is_told() -> None:
    m, prompt = model(target(6)), prompt_of(6)
    options = dict(max_tokens=30, temperature=1.5, stop_at_eos=False)
    one, other = m.generate(prompt, **options), m.generate(prompt, **options)
    assert one.stats.seed != other.stats.seed and one.tokens != other.tokens
    assert m.generate(prompt, seed=one.stats.seed, **options).tokens == one.tokens


def test_a_session_without_drafts_spends_nothing_on_the_drafter() -> None:
    class Untouchable(Scripted):
        def begin(self) -> Any:
            raise AssertionError("a drafter was started")
    m = model(target(1), Untouchable(None))
    assert len(m.generate(prompt_of(1), max_tokens=5, draft_tokens=0, stop_at_eos=False).tokens) == 5
    assert m.session(draft=False).forward([3]).shape == (1, VOCABULARY)


def test_figures_of_a_generation() -> None:
    program, prompt = target(3), prompt_of(3)
    plain = model(program).generate(prompt, max_tokens=40, stop_at_eos=False)
    drafter = right_and_wrong(prompt + plain.tokens)["often right"]
    drafter.bytes = 10
    s = model(program, drafter).generate(prompt, max_tokens=40, stop_at_eos=False, draft_tokens=3).stats
    assert (s.prompt_tokens, s.tokens, s.threads) == (30, 40, 1)
    assert s.passes + sum(s.accepted) == 39 and s.tokens_per_pass == pytest.approx(39 / s.passes)
    assert s.drafted[0] >= s.drafted[1] >= s.drafted[2] and all(0 < a <= d for a, d in zip(s.accepted, s.drafted))
    assert s.bytes_read == 1000 * s.passes + 10 * sum(s.drafted)
    assert s.acceptance == [a / d for a, d in zip(s.accepted, s.drafted)]
    assert 0 < s.draft_seconds < s.decode_seconds and s.tokens_per_second == pytest.approx(39 / s.decode_seconds)
    assert s.bandwidth == pytest.approx(s.bytes_read / s.decode_seconds) and s.bandwidth_share > 0
    assert "40 tokens" in str(s)
