"""How many tokens to draft: the length that writes most tokens a second on this machine, 0 included.

With A_j the chance that the first j drafts are all right, a cycle of k drafts writes 1 + A_1 + ... + A_k tokens and takes the time
of drafting k and of a pass over k + 1 rows. Both are measured while decoding: times by number of rows and by context, acceptance
by position over about the last fifty cycles. Lengths that were never tried are estimated on the hopeful side, so that they are
tried where they might pay. The text does not depend on any of it.
"""
from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from .options import MOST_DRAFTS

SLOPE = 0.03         # of a pass's time for each further row, where nothing is measured: hopeful
DRAFT = 0.08         # of a one-row pass, for a draft
HYSTERESIS = 1.03    # a change must promise more than this
MEMORY = 0.98        # what a cycle's observation keeps of its weight in the next
PRIOR = (4.0, 2.0)   # accepted and rejected drafts to start from


class Times:
    """Measured seconds by count (rows of a pass, or drafts): the lower quartile of the last few, since what disturbs a measurement
    makes it longer: other work on the machine, memory touched for the first time, cold caches."""

    def __init__(self) -> None:
        self._samples: dict[int, deque[float]] = {}
        self.table: dict[int, float] = {}

    def add(self, count: int, seconds: float) -> None:
        samples = self._samples.setdefault(count, deque(maxlen=9))
        samples.append(seconds)
        self.table[count] = sorted(samples)[len(samples) // 4]

    def samples(self, count: int) -> int:
        return len(self._samples.get(count, ()))


class Costs:
    """Seconds of passes and of drafting, by context; shared by all texts of a model. at_once: so many drafts come in the time of one."""

    def __init__(self, at_once: int | None = None) -> None:
        self._at_once = at_once
        self.most = min(at_once or MOST_DRAFTS, MOST_DRAFTS)
        self.probe = min(4, self.most) if at_once else 1   # drafts of a probe: the first costs most where they come at once
        self._passes: dict[int, Times] = {}
        self._drafts: dict[int, Times] = {}

    @staticmethod
    def _bucket(context: int) -> int:
        return max(9, context.bit_length())   # 0..511, then by doublings

    def add(self, context: int, rows: int, pass_seconds: float, drafts: int = 0, draft_seconds: float | None = None) -> None:
        """A pass over `rows` rows and, unless it is None, the time of drafting `drafts` before it."""
        bucket = self._bucket(context)
        self._passes.setdefault(bucket, Times()).add(rows, pass_seconds)
        if drafts and draft_seconds is not None:
            self._drafts.setdefault(bucket, Times()).add(drafts, draft_seconds)

    def plain_samples(self, context: int) -> int:
        times = self._passes.get(self._bucket(context))
        return times.samples(1) if times else 0

    def _nearest(self, tables: dict[int, Times], context: int) -> dict[int, float]:
        """The table of the context's bucket, completed from the nearest other buckets."""
        bucket = self._bucket(context)
        merged: dict[int, float] = {}
        for other in sorted(tables, key=lambda b: (-abs(b - bucket), b)):
            merged.update(tables[other].table)
        return merged

    def passes(self, context: int, most: int = MOST_DRAFTS + 1) -> list[float]:
        """Estimated seconds of passes over 1 .. most rows; relative ones before anything is measured."""
        known = self._nearest(self._passes, context)
        return [_pass_time(known, rows) for rows in range(1, most + 1)]

    def drafting(self, context: int, plain: float) -> list[float]:
        """Estimated seconds of drafting 0 .. MOST_DRAFTS tokens; plain: those of a one-row pass."""
        known = self._nearest(self._drafts, context)
        if self._at_once:
            seconds = min(known.values()) if known else DRAFT * plain
            return [0.0] + [seconds] * MOST_DRAFTS
        return [0.0] + [_draft_time(known, drafts, plain) for drafts in range(1, MOST_DRAFTS + 1)]


def _pass_time(known: dict[int, float], rows: int) -> float:
    if not known:
        return 1 + SLOPE * (rows - 1)
    if rows in known:
        return known[rows]
    fewer, more = max((r for r in known if r < rows), default=None), min((r for r in known if r > rows), default=None)
    nearest = fewer if fewer is not None else more
    assert nearest is not None
    hopeful = known[nearest] * (1 + SLOPE * (rows - 1)) / (1 + SLOPE * (nearest - 1))
    return min(hopeful, known[more]) if more is not None else hopeful   # a step in the costs may lie anywhere between


def _draft_time(known: dict[int, float], drafts: int, plain: float) -> float:
    if not known:
        return DRAFT * plain * drafts
    if drafts in known:
        return known[drafts]
    fewer, more = max((d for d in known if d < drafts), default=None), min((d for d in known if d > drafts), default=None)
    if more is None:
        assert fewer is not None
        return known[fewer] * drafts / fewer
    low = (fewer, known[fewer]) if fewer is not None else (0, 0.0)
    return low[1] + (known[more] - low[1]) * (drafts - low[0]) / (more - low[0])


class Acceptance:
    """The chance that draft i is right, given that those before it were: an average that forgets.

    Where little was seen, a position is expected to do as well as the one before it, times what it does worse in `start`: the
    acceptance of texts before this one. Without it the first position starts from PRIOR.
    """

    def __init__(self, start: Acceptance | None = None, memory: float = MEMORY) -> None:
        self._memory = memory
        self._right = [0.0] * MOST_DRAFTS
        self._seen = [0.0] * MOST_DRAFTS
        before = start.rates() if start else [PRIOR[0] / sum(PRIOR)] * MOST_DRAFTS
        # The start of the first position is worth observations that fade like others; of the further ones only their fall stays.
        self._seen[0] = sum(PRIOR)
        self._right[0] = sum(PRIOR) * before[0]
        self._falls = [1.0] + [min(1.0, rate / max(last, 1e-3)) for last, rate in zip(before, before[1:])]

    def observe(self, drafted: int, accepted: int) -> None:
        """Positions behind the first wrong draft were not seen; they are not counted as wrong."""
        for position in range(min(drafted, accepted + 1)):
            self._right[position] = self._right[position] * self._memory + (position < accepted)
            self._seen[position] = self._seen[position] * self._memory + 1

    def doubt(self, weight: float) -> None:
        """What was seen long ago counts no more than `weight` observations."""
        for position, seen in enumerate(self._seen):
            if seen > weight:
                self._right[position] *= weight / seen
                self._seen[position] = weight

    def rates(self) -> list[float]:
        rates = [self._right[0] / self._seen[0]]
        weight = sum(PRIOR)
        for right, seen, fall in zip(self._right[1:], self._seen[1:], self._falls[1:]):
            rates.append((right + weight * rates[-1] * fall) / (seen + weight))
        return rates


class Length(Protocol):
    """How many tokens one text drafts."""

    def next(self, context: int, most: int) -> int:
        """How many tokens to draft after `context` tokens, at most `most`."""

    def record(self, context: int, drafted: int, accepted: int, pass_seconds: float, draft_seconds: float | None) -> None:
        """What the cycle cost and brought. draft_seconds: None where drafting had unusual work to do."""


class FixedLength:
    """Always as many drafts as asked for."""

    def __init__(self, drafts: int) -> None:
        self._drafts = drafts

    def next(self, context: int, most: int) -> int:
        return min(self._drafts, most)

    def record(self, context: int, drafted: int, accepted: int, pass_seconds: float, draft_seconds: float | None) -> None:
        pass


class AutoLength:
    """The length that promises most tokens a second; see the top of the file.

    costs, acceptance: the model's, over all its texts; this text's own acceptance starts from there. Nothing that promises less
    than plain decoding is kept for long, and what is not used is looked at again, seldom: plain passes down to every 256 cycles;
    drafting, while it does not pay, every 32 cycles, then 64, up to 256, for up to eight cycles as long as no two drafts were wrong.
    """

    _SETTLED, _EVERY = 16, 8   # after so many cycles the choice is made anew only every few, as it takes some microseconds

    def __init__(self, costs: Costs, acceptance: Acceptance) -> None:
        self._costs = costs
        self._everywhere = acceptance
        self._acceptance = Acceptance(acceptance)
        self._current: int | None = None
        self._since_plain = 0      # cycles that drafted, since one that did not
        self._without = 0          # cycles since the last probe of drafting
        self._probe_every = 32
        self._probing = 0          # cycles left of a probe
        self._cycles = 0

    def next(self, context: int, most: int) -> int:
        if self._current is None or self._cycles < self._SETTLED or self._cycles % self._EVERY == 0:
            self._current = self._best(context)
        if self._current > 0:
            self._without = self._probing = 0
            if self._since_plain >= 32:
                self._probe_every = 32
            known = self._costs.plain_samples(context)
            if self._since_plain >= (1 if known == 0 else min(256, 4 << known)):
                return 0
            return min(self._current, most)
        if self._probing == 0 and self._without >= self._probe_every:
            self._probing, self._without, self._probe_every = 8, 0, min(256, 2 * self._probe_every)
            self._acceptance.doubt(8)
        return min(self._costs.probe if self._probing else 0, most)

    def _best(self, context: int) -> int:
        passes = self._costs.passes(context)
        drafting = self._costs.drafting(context, passes[0])
        speeds = []
        tokens = reached = 1.0
        for drafts, rate in enumerate([1.0, *self._acceptance.rates()[:self._costs.most]]):
            reached *= rate
            tokens += reached if drafts else 0.0
            speeds.append(tokens / (passes[drafts] + drafting[drafts]))
        best = max(range(len(speeds)), key=speeds.__getitem__)
        keep = self._current is not None and best > 0 and speeds[best] <= HYSTERESIS * speeds[self._current]
        return self._current if keep and self._current is not None else best

    def record(self, context: int, drafted: int, accepted: int, pass_seconds: float, draft_seconds: float | None) -> None:
        self._costs.add(context, drafted + 1, pass_seconds, drafted, draft_seconds)
        for acceptance in (self._acceptance, self._everywhere):
            acceptance.observe(drafted, accepted)
        self._cycles += 1
        self._since_plain = self._since_plain + 1 if drafted else 0
        self._without += not drafted
        if self._probing and drafted:
            self._probing = max(0, self._probing - (1 if accepted else 4))


class SharedLength:
    """The length of one text in passes that it shares with others: what Sharing gives it. acceptance: the model's over all its texts."""

    def __init__(self, acceptance: Acceptance) -> None:
        self._everywhere = acceptance
        self.acceptance = Acceptance(acceptance)
        self.given = 0

    def next(self, context: int, most: int) -> int:
        return min(self.given, most)

    def record(self, context: int, drafted: int, accepted: int, pass_seconds: float, draft_seconds: float | None) -> None:
        for acceptance in (self.acceptance, self._everywhere):
            acceptance.observe(drafted, accepted)


class Sharing:
    """How many tokens each of several texts drafts for one pass over all their rows: drafts are added one by one, always the one
    most likely to be accepted, and as many as promise most tokens a second together. Chains run together as well: they take the time
    of the longest.

    costs: of shared passes, by all their rows, and of chains, by the length of the longest; of one model, as machines differ.
    """

    PROBE = 64   # after so many passes without drafts each text drafts one

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._without = 0

    def give(self, contexts: Sequence[int], lengths: Sequence[Length], most: Sequence[int]) -> None:
        """contexts: tokens of each text; most: drafts that it has room for. Every SharedLength among `lengths` gets its number."""
        ours = {i: length for i, length in enumerate(lengths) if isinstance(length, SharedLength)}
        if not ours:
            return
        fixed = [length.next(context, room) for i, (context, length, room) in enumerate(zip(contexts, lengths, most)) if i not in ours]
        rows, longest = len(lengths) + sum(fixed), max(fixed, default=0)
        passes = self._costs.passes(max(contexts), rows + sum(min(most[i], self._costs.most) for i in ours))
        chains = self._costs.drafting(max(contexts), passes[0])
        rates = {i: length.acceptance.rates() for i, length in ours.items()}
        given = dict.fromkeys(ours, 0)
        best, tokens = dict(given), float(len(lengths))
        speed = tokens / (passes[rows - 1] + chains[longest])
        most = [min(room, self._costs.most) for room in most]
        waiting = [(-rates[i][0], i) for i in ours if most[i] > 0]
        heapq.heapify(waiting)
        while waiting:
            chance, i = heapq.heappop(waiting)
            given[i] += 1
            rows, tokens, longest = rows + 1, tokens - chance, max(longest, given[i])
            if tokens / (passes[rows - 1] + chains[longest]) > speed:
                speed, best = tokens / (passes[rows - 1] + chains[longest]), dict(given)
            if given[i] < most[i]:
                heapq.heappush(waiting, (chance * rates[i][given[i]], i))
        self._without = 0 if any(best.values()) else self._without + 1
        if self._without > self.PROBE:
            self._without = 0
            for i, length in ours.items():
                length.acceptance.doubt(8)
                best[i] = min(1, most[i])
        for i, length in ours.items():
            length.given = best[i]

    def record(self, context: int, rows: int, seconds: float, longest: int, draft_seconds: float | None) -> None:
        """The time of a shared pass over `rows` rows, and of the chains before it (None: they had unusual work); context: of the longest text."""
        self._costs.add(context, rows, seconds, longest, draft_seconds)
