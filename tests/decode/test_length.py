"""The choice of the draft length against machines with given costs and drafters with given acceptance."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from skipstone.decode.length import Acceptance, AutoLength, Costs, FixedLength
from skipstone.decode.options import MOST_DRAFTS


class Machine:
    """Seconds of passes and drafts, measured with some noise; acceptance by position, given that the position before was right.

    busy: for stretches of 5 to 80 cycles everything seems to take three times as long, and one measurement in ten does anyway.
    """

    def __init__(self, passes: Callable[[int], float], draft: Callable[[int], float], acceptance: Callable[[int, int], float],
                 seed: int = 1, busy: bool = False) -> None:
        self.busy, self.stretch, self.factor = busy, 0, 1.0
        self.passes, self.draft, self.acceptance, self.random = passes, draft, acceptance, np.random.default_rng(seed)
        self.costs, self.everywhere = Costs(), Acceptance(memory=0.995)

    def decode(self, tokens: int, rule: AutoLength | FixedLength | None = None) -> tuple[float, list[int]]:
        """Time to write `tokens` tokens as one text, and the lengths that were used."""
        rule = rule or AutoLength(self.costs, self.everywhere)
        spent, written, lengths = 0.0, 0, []
        while written < tokens:
            drafts = rule.next(written, min(MOST_DRAFTS, tokens - written - 1))
            assert 0 <= drafts <= max(0, tokens - written - 1)
            right = 0
            while right < drafts and self.random.random() < self.acceptance(right, written):
                right += 1
            pass_time, draft_time = self.passes(drafts + 1), self.draft(drafts)
            rule.record(written, drafts, right, self.measured(pass_time), self.measured(draft_time))
            spent += pass_time + draft_time
            written += right + 1
            lengths.append(drafts)
        return spent, lengths

    def measured(self, seconds: float) -> float:
        seconds *= self.random.uniform(0.97, 1.1)
        if not self.busy:
            return seconds
        self.stretch -= 1
        if self.stretch <= 0:
            self.stretch, self.factor = int(self.random.integers(10, 160)), 1.0 if self.factor > 1 or self.random.random() < 0.5 else 3.0
        return seconds * self.factor * (3.0 if self.random.random() < 0.1 else 1.0)


def steady(rates: float | list[float]) -> Callable[[int, int], float]:
    return lambda position, written: rates if isinstance(rates, float) else rates[min(position, len(rates) - 1)]


def cpu(rows: int) -> float:
    return 0.01 * (1 + 0.1 * (rows - 1))


def stepped(rows: int) -> float:
    return 0.01 * (1 + 0.05 * (rows - 1) + (0.8 if rows > 8 else 0))


def steep(rows: int) -> float:
    return 0.01 * (1 + 0.8 * (rows - 1))


def a_draft(seconds: float) -> Callable[[int], float]:
    return lambda drafts: seconds * drafts


FALLING = [0.83, 0.75, 0.70, 0.65, 0.60, 0.55, 0.50, 0.45]


@pytest.mark.parametrize("passes", [cpu, stepped, steep])
@pytest.mark.parametrize("acceptance", [0.0, 0.2, 0.5, 0.8, 0.97, FALLING], ids=str)
@pytest.mark.parametrize("draft", [0.0008, 0.003])
def test_close_to_the_best_length_and_never_slower_than_plain(passes, acceptance, draft: float) -> None:
    fixed = {k: Machine(passes, a_draft(draft), steady(acceptance)).decode(3000, FixedLength(k))[0] for k in range(MOST_DRAFTS + 1)}
    best = min(fixed.values())
    for seed in (1, 2):
        machine = Machine(passes, a_draft(draft), steady(acceptance), seed)
        first, _ = machine.decode(3000)
        later = np.mean([machine.decode(3000)[0] for _ in range(2)])
        assert first < 1.06 * fixed[0] and first < 1.12 * best
        assert later < 1.025 * fixed[0] and later < 1.08 * best


@pytest.mark.parametrize("acceptance", [0.0, 0.5, 0.8, FALLING], ids=str)
def test_a_busy_machine_does_not_mislead_it(acceptance) -> None:
    fixed = [Machine(cpu, a_draft(0.0008), steady(acceptance)).decode(3000, FixedLength(k))[0] for k in range(9)]
    for seed in (1, 2, 3):
        machine = Machine(cpu, a_draft(0.0008), steady(acceptance), seed, busy=True)
        first, later = (machine.decode(3000)[0] for _ in range(2))
        assert first < 1.03 * fixed[0] and first < 1.12 * min(fixed) and later < 1.08 * min(fixed)


def test_a_useless_drafter_costs_less_than_two_in_a_hundred() -> None:
    machine = Machine(cpu, a_draft(0.0008), steady(0.0))
    machine.decode(2000)
    plain, _ = Machine(cpu, a_draft(0.0008), steady(0.0)).decode(20000, FixedLength(0))
    spent, lengths = machine.decode(20000)
    assert spent < 1.02 * plain and max(lengths[100:]) <= 1
    assert any(lengths[2000:])   # it is looked at again


def test_a_perfect_drafter_is_used_to_the_full() -> None:
    machine = Machine(cpu, a_draft(0.0003), steady(1.0))
    _, lengths = machine.decode(4000)
    assert np.median(lengths[len(lengths) // 2:]) == MOST_DRAFTS
    assert 0 in lengths   # plain passes are measured too


def test_drafting_comes_back_when_it_pays_again() -> None:
    """Prose that no draft hits, then code that nearly all hit."""
    machine = Machine(cpu, a_draft(0.0008), lambda position, written: 0.02 if written < 3000 else 0.9)
    _, lengths = machine.decode(8000)
    written_plain = next(i for i in range(len(lengths)) if sum(lengths[i:i + 50]) > 150)
    assert written_plain < 3000 + 500
    assert np.mean(lengths[-100:]) > 3


def test_a_rule_follows_the_machine() -> None:
    """The same acceptance, but passes over more rows become dear in the middle of the text."""
    machine = Machine(cpu, a_draft(0.0008), steady(0.8))
    _, before = machine.decode(2000)
    machine.passes = steep
    _, after = machine.decode(4000)
    assert np.median(before[-50:]) >= 3 and np.median(after[-200:]) <= 1


def test_longer_contexts_have_costs_of_their_own() -> None:
    costs = Costs()
    for _ in range(9):
        costs.add(100, 1, 0.01)
        costs.add(100, 5, 0.012, 4, 0.001)
        costs.add(60000, 1, 0.02)
    assert costs.passes(100)[0] == 0.01 and costs.passes(70000)[0] == 0.02 and costs.passes(30000)[0] == 0.02
    assert costs.passes(70000)[4] == 0.012   # not measured there: taken from where it was
    assert costs.plain_samples(60000) == 9 and costs.plain_samples(6000) == 0


def test_estimates_before_between_and_beyond_measurements() -> None:
    costs = Costs()
    assert costs.passes(0)[0] == 1 and costs.passes(0)[9] == pytest.approx(1.27)
    costs.add(0, 3, 0.12, 2, 0.01)
    assert costs.passes(0)[0] == pytest.approx(0.12 / 1.06) and costs.passes(0)[8] == pytest.approx(0.12 * 1.24 / 1.06)
    assert costs.drafting(0, 0.1)[:5] == pytest.approx([0, 0.005, 0.01, 0.015, 0.02])
    costs.add(0, 7, 0.20, 6, 0.05)
    assert costs.passes(0)[4] == pytest.approx(0.12 * 1.12 / 1.06) and costs.passes(0)[9] == pytest.approx(0.2 * 1.27 / 1.18)
    assert costs.drafting(0, 0.1)[4] == pytest.approx(0.03)


def test_acceptance_counts_only_what_was_seen() -> None:
    acceptance = Acceptance()
    start = acceptance.rates()
    assert start == pytest.approx([2 / 3] * MOST_DRAFTS)
    for _ in range(200):
        acceptance.observe(4, 1)   # the second draft is always wrong; the third and fourth are never seen
    rates = acceptance.rates()
    assert rates[0] > 0.95 and rates[1] < 0.15
    assert rates[2] == pytest.approx(rates[1])   # unseen: as the one before
    for falling in range(400):
        acceptance.observe(5, (5, 5, 3, 1, 0)[falling % 5])
    rates = acceptance.rates()
    assert rates[0] > rates[1] > 0.6 > rates[4] * 0.5
    new = Acceptance(acceptance)   # a new text starts from what the model has seen
    assert new.rates()[:2] == pytest.approx(rates[:2])
    for _ in range(30):
        new.observe(1, 1)
    assert new.rates()[0] > rates[0] and new.rates()[1] / new.rates()[0] == pytest.approx(rates[1] / rates[0])


def test_fixed_lengths_are_cut_at_the_end() -> None:
    rule = FixedLength(5)
    assert (rule.next(0, 9), rule.next(0, 3), rule.next(0, 0)) == (5, 3, 0)
    rule.record(0, 5, 2, 0.1, 0.1)
    assert rule.next(0, 9) == 5


def test_drafts_that_come_at_once() -> None:
    """A block costs the same for one draft as for all: the rule takes as many as pay, never more than there are, and none where a block costs too much."""
    def decode(block: float, rate: float) -> list[int]:
        machine = Machine(cpu, lambda drafts: block if drafts else 0.0, steady(rate))
        machine.costs = Costs(at_once=7)
        return [length for _ in range(3) for length in machine.decode(400)[1]][100:]

    assert 6 <= np.median(decode(0.005, 0.9)) <= max(decode(0.005, 0.9)) <= 7
    assert np.median(decode(0.01, 0.85)) >= 4                                 # Orthrus: drafting takes a whole pass
    assert np.mean([length > 0 for length in decode(0.05, 0.3)]) < 0.1
