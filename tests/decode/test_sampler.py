"""The sampler against a plain implementation of its definition, its noise against published vectors, its draws against the softmax."""
from __future__ import annotations

import collections
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone import _native
from skipstone.errors import ArgumentError

WORD = 0xFFFFFFFF


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 after the paper, with Python's integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & WORD, (a >> 32) ^ c[3] ^ k[1], a & WORD]
        k = [(k[0] + 0x9E3779B9) & WORD, (k[1] + 0xBB67AE85) & WORD]
    return c


def noise(seed: int, sequence: int, position: int, token: int) -> float:
    word = philox([token // 4, position, sequence & WORD, sequence >> 32], [seed & WORD, seed >> 32])[token % 4]
    return -math.log(-math.log((word + 0.5) / 2**32))


def expected(logits: np.ndarray, prompt: list[int], generated: list[int], *, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0,
             min_p: float = 0.0, repeat_penalty: float = 1.0, presence_penalty: float = 0.0, frequency_penalty: float = 0.0,
             logit_bias: Sequence[tuple[int, float]] = (), limit: int = 0, seed: int = 0, sequence: int = 0) -> int:
    """The definition, in the order of its words; survivors are a sorted list."""
    z = np.where(np.isnan(logits), -np.inf, logits).astype(np.float32)[:limit or None].copy()
    for token, bias in logit_bias:
        if token < len(z):
            z[token] += np.float32(bias)
    for token in set(prompt + generated):
        if token < len(z):
            z[token] = z[token] / np.float32(repeat_penalty) if z[token] > 0 else z[token] * np.float32(repeat_penalty)
    for token, times in collections.Counter(generated).items():
        if token < len(z):
            z[token] -= np.float32(np.float32(times) * np.float32(frequency_penalty)) + np.float32(presence_penalty)
    order = sorted(range(len(z)), key=lambda i: (-z[i], i))
    best = order[0]
    if temperature == 0 or not np.isfinite(z[best]):
        return best
    order = [i for i in order if z[i] > -np.inf]
    t = float(np.float32(temperature))
    if top_k:
        order = order[:top_k]
    weights = np.exp((z[order].astype(np.float64) - float(z[best])) / t)
    if top_p < 1:
        target = float(np.float32(top_p)) * weights.sum()
        order = order[:int(np.searchsorted(np.cumsum(weights), target)) + 1]
    if min_p:
        order = [i for i in order if float(z[i]) >= float(z[best]) + t * math.log(float(np.float32(min_p)))]
    scores = {i: (float(z[i]) - float(z[best])) / t + noise(seed, sequence, len(prompt) + len(generated), i) for i in order}
    return max(scores, key=lambda i: (scores[i], -i))


@pytest.mark.parametrize(("counter", "key", "words"), [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([WORD] * 4, [WORD] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0], [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
])
def test_philox_gives_the_known_answers(counter: list[int], key: list[int], words: list[int]) -> None:
    assert list(_native.philox4x32(counter, key)) == words == philox(counter, key)


def test_noise_is_keyed_by_every_part_of_its_place() -> None:
    for place in [(0, 0, 0, 0), (1, 2, 3, 4), (2**64 - 1, 2**63 + 5, 2**20, 262143), (5, 0, 7, 6)]:
        assert _native.gumbel_noise(*place) == pytest.approx(noise(*place), abs=1e-12)
    here = (1 << 40, 1 << 41, 17, 1001)
    others = [tuple(v + (i == j) * step for j, v in enumerate(here)) for i in range(4) for step in (1, 4)]
    others += [(here[0] + (1 << 32), *here[1:]), (here[0], here[1] + (1 << 32), *here[2:])]
    values = {_native.gumbel_noise(*place) for place in [here, *others]}
    assert len(values) == 1 + len(others)


penalties = st.fixed_dictionaries({}, optional={
    "repeat_penalty": st.sampled_from([0.8, 1.1, 1.5]), "presence_penalty": st.sampled_from([-0.5, 0.7]),
    "frequency_penalty": st.sampled_from([0.3]), "logit_bias": st.sampled_from([[(3, 2.0), (5, -math.inf)], [(0, -1.5)]])})
filters = st.fixed_dictionaries({}, optional={
    "temperature": st.sampled_from([0.05, 0.7, 1.0, 2.5]), "top_k": st.sampled_from([1, 2, 7, 1000]), "top_p": st.sampled_from([0.001, 0.3, 0.9]),
    "min_p": st.sampled_from([0.02, 0.3, 1.0]), "limit": st.sampled_from([6, 50])})


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), shape=st.sampled_from(["normal", "ties", "holes", "one"]), options=filters, more=penalties)
def test_choice_is_the_defined_one(seed: int, shape: str, options: dict, more: dict) -> None:
    random = np.random.default_rng(seed % 2**32)
    size = 1 if shape == "one" else int(random.integers(7, 90))
    logits = (random.standard_normal(size) * 3).astype(np.float32)
    if shape == "ties":
        logits = np.round(logits).astype(np.float32)
    if shape == "holes":
        logits[random.integers(0, size, 5)] = [np.nan, -np.inf, np.nan, -np.inf, np.nan]
    more = {**more, "logit_bias": [b for b in more.get("logit_bias", []) if b[0] < size]}
    prompt, generated = random.integers(0, size, 8).tolist(), random.integers(0, size, int(random.integers(0, 9))).tolist()
    sampler = _native.Sampler(size, seed=seed, sequence=seed % 7, **options, **more)
    sampler.push_prompt(np.asarray(prompt, np.int32))
    for token in generated:
        sampler.push(token)
    if "temperature" not in options:
        options = {k: v for k, v in options.items() if k == "limit"}
    assert sampler.choose(logits) == expected(logits, prompt, generated, seed=seed, sequence=seed % 7, **options, **more)


@pytest.mark.parametrize("options", [{}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.05}, {"top_k": 300, "top_p": 0.8, "min_p": 0.001}],
                         ids=lambda o: "+".join(o) or "plain")
@pytest.mark.parametrize("shape", ["peaked", "flat", "equal", "ties"])
def test_shortcuts_change_nothing_in_a_large_vocabulary(options: dict, shape: str) -> None:
    """Bounds on the noise, bins and partial sorts, against the definition, in a vocabulary that is no multiple of anything."""
    size = 20011
    random = np.random.default_rng(7)
    logits = {"peaked": random.standard_normal(size) * 4, "flat": random.standard_normal(size) * 0.01, "equal": np.zeros(size),
              "ties": np.round(random.standard_normal(size) * 2)}[shape].astype(np.float32)
    for seed in range(4):
        sampler = _native.Sampler(size, temperature=0.9, seed=seed, **options)
        assert sampler.choose(logits) == expected(logits, [], [], temperature=0.9, seed=seed, **options)


def test_greedy_takes_the_lowest_of_equal_ids_and_never_nan() -> None:
    sampler = _native.Sampler(600)
    assert sampler.plain_greedy
    logits = np.zeros(600, np.float32)
    assert sampler.choose(logits) == 0
    logits[[300, 599, 41]] = 2
    assert sampler.choose(logits) == 41
    logits[:] = np.nan
    assert sampler.choose(logits) == 0
    logits[577] = -5
    assert sampler.choose(logits) == 577
    logits[[100, 90]] = np.inf
    for options in ({}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}):
        assert _native.Sampler(600, **options).choose(logits) == 90
    assert _native.Sampler(600, temperature=1.0).choose(np.full(600, -np.inf, np.float32)) == 0


def test_ids_beyond_the_limit_are_never_chosen() -> None:
    logits = np.zeros(64, np.float32)
    logits[50:] = 100
    for options in ({}, {"temperature": 5.0}, {"temperature": 5.0, "top_k": 3}, {"temperature": 5.0, "top_p": 0.99, "repeat_penalty": 1.2}):
        for seed in range(30):
            assert _native.Sampler(64, limit=50, seed=seed, **options).choose(logits) < 50


def test_extreme_temperatures() -> None:
    logits = np.array([1.0, 3.0, 2.0, 3.0], np.float32)
    drawn = {_native.Sampler(4, temperature=1e-30, seed=seed).choose(logits) for seed in range(40)}
    assert drawn == {1, 3}   # equal logits stay equally likely
    drawn = {_native.Sampler(4, temperature=1e30, seed=seed).choose(logits) for seed in range(100)}
    assert drawn == {0, 1, 2, 3}


def test_rare_tokens_are_drawn_as_often_as_they_should() -> None:
    """A token of probability 1e-6 wins only with noise above 13.8, near the top of what a word gives: 2 million draws of one of
    a thousand such tokens, 0.1 % together."""
    logits = np.full(1001, math.log(1e-6), np.float32)
    logits[0] = math.log(1 - 1e-3)
    sampler = _native.Sampler(1001, temperature=1.0, seed=11)
    draws = 40_000
    rare = 0
    for _ in range(draws):
        token = sampler.choose(logits)
        rare += token != 0
        sampler.push(token)
    mean = draws * 1e-3
    assert abs(rare - mean) < 4.5 * math.sqrt(mean)


def chi_square(counts: collections.Counter, p: dict, n: int) -> float:
    """How many standard deviations the chi-square statistic lies above its mean."""
    chi = sum((counts[i] - n * q) ** 2 / (n * q) for i, q in p.items())
    dof = len(p) - 1
    return (chi - dof) / math.sqrt(2 * dof)


def test_draws_follow_the_softmax_and_are_independent_of_their_neighbours() -> None:
    logits = np.array([1.0, 0.2, -0.7, 0.9, -1.5], np.float32)
    p = np.exp(logits / 0.8) / np.exp(logits / 0.8).sum()
    singles, pairs = collections.Counter(), collections.Counter()
    n = 20_000
    for seed in range(n):
        sampler = _native.Sampler(5, temperature=0.8, seed=seed)
        sampler.push_prompt(np.zeros(9, np.int32))
        first = sampler.choose(logits)
        sampler.push(first)
        second = sampler.choose(logits)
        singles[second] += 1
        pairs[first, second] += 1
    assert chi_square(singles, dict(enumerate(p)), n) < 4
    assert chi_square(pairs, {(i, j): p[i] * p[j] for i in range(5) for j in range(5)}, n) < 4
    along = collections.Counter()   # one seed, many positions
    sampler = _native.Sampler(5, temperature=0.8, seed=3)
    for _ in range(n):
        along[token := sampler.choose(logits)] += 1
        sampler.push(token)
    assert chi_square(along, dict(enumerate(p)), n) < 4


def test_filtered_draws_follow_the_renormalised_softmax() -> None:
    logits = np.log(np.array([0.4, 0.25, 0.2, 0.1, 0.05], np.float32))
    for options, kept in (({"top_k": 3}, 3), ({"top_p": 0.6}, 2), ({"min_p": 0.2}, 4), ({"top_k": 4, "top_p": 0.85}, 3)):
        p = np.exp(logits[:kept]) / np.exp(logits[:kept]).sum()
        n = 8000
        counts = collections.Counter(_native.Sampler(5, temperature=1.0, seed=s, **options).choose(logits) for s in range(n))
        assert set(counts) == set(range(kept))
        assert chi_square(counts, dict(enumerate(p)), n) < 4.5, options


def test_coupled_drafts_agree_as_often_as_the_formula_says() -> None:
    """Two distributions drawn with the same noise: P(equal) = sum_i 1 / sum_j max(p_j / p_i, q_j / q_i)."""
    random = np.random.default_rng(3)
    a = (random.standard_normal(12) * 1.5).astype(np.float32)
    b = (a + random.standard_normal(12) * 0.7).astype(np.float32)
    p, q = (np.exp(z) / np.exp(z).sum() for z in (a, b))
    predicted = sum(1 / np.maximum(p / p[i], q / q[i]).sum() for i in range(12))
    n = 20_000
    equal = 0
    for seed in range(n):
        sampler = _native.Sampler(12, temperature=1.0, seed=seed)
        equal += sampler.choose(a) == sampler.choose(b)
    assert abs(equal / n - predicted) < 4.5 * math.sqrt(predicted * (1 - predicted) / n)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.one_of(st.integers(0, 19), st.integers(-4, -1)), max_size=40), seed=st.integers(0, 99))
def test_popping_leaves_what_never_being_pushed_leaves(steps: list[int], seed: int) -> None:
    options = dict(temperature=0.9, repeat_penalty=1.3, presence_penalty=0.6, frequency_penalty=0.2, seed=seed)
    prompt = [3, 3, 7, 19]
    sampler = _native.Sampler(20, **options)
    sampler.push_prompt(np.asarray(prompt, np.int32))
    text: list[int] = []
    logits = np.random.default_rng(seed).standard_normal(20).astype(np.float32)
    for step in steps:
        if step >= 0:
            sampler.push(step)
            text.append(step)
        else:
            n = min(-step, len(text))
            sampler.pop(n)
            del text[len(text) - n:]
        assert sampler.position == len(prompt) + len(text)
        assert sampler.choose(logits) == expected(logits, prompt, text, **options)


def test_verify_chooses_while_the_drafts_agree() -> None:
    random = np.random.default_rng(5)
    rows = random.standard_normal((5, 30)).astype(np.float32)
    options = dict(temperature=1.0, repeat_penalty=1.2, seed=8)
    alone = _native.Sampler(30, **options)
    alone.push_prompt(np.array([1, 2], np.int32))
    chosen = []
    for row in rows:
        chosen.append(alone.choose(row))
        alone.push(chosen[-1])
    for right in range(5):
        drafts = [t if i < right else (t + 1) % 30 for i, t in enumerate(chosen[:4])]
        sampler = _native.Sampler(30, **options)
        sampler.push_prompt(np.array([1, 2], np.int32))
        assert sampler.verify(rows, np.asarray(drafts, np.int32)) == chosen[:right + 1]
        assert sampler.position == 2 + right + 1


def test_wrong_arguments_are_named() -> None:
    for options, name in (({"temperature": -1.0}, "temperature"), ({"temperature": math.nan}, "temperature"), ({"top_p": 0.0}, "top_p"),
                          ({"min_p": 1.5}, "min_p"), ({"top_k": -1}, "top_k"), ({"repeat_penalty": 0.0}, "repeat_penalty"),
                          ({"logit_bias": [(10, 1.0)]}, "logit_bias"), ({"logit_bias": [(1, math.nan)]}, "logit_bias")):
        with pytest.raises(ArgumentError, match=name):
            _native.Sampler(10, **options)
    sampler = _native.Sampler(10)
    for call in (lambda: sampler.push(10), lambda: sampler.push_prompt(np.array([-1], np.int32)), lambda: sampler.pop(1),
                 lambda: sampler.choose(np.zeros(9, np.float32)), lambda: sampler.verify(np.zeros((2, 10), np.float32), np.zeros(2, np.int32))):
        with pytest.raises(ArgumentError):
            call()
    sampler.push(1)
    with pytest.raises(ArgumentError, match="push_prompt"):
        sampler.push_prompt(np.array([1], np.int32))
