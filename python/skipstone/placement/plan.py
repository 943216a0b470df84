"""A plan: which layers run where, and how fast that will be.

Layers stay in order: first those of the processor, then card after card, so that rows cross each border once. The last layers go to a card first, because the
head and the drafter are with them; the embedding table stays in the mapped file. Of a mixture, experts of the first layers of the cards may stay with the
processor. Among all such plans that fit, the one with the fastest pass over a row at half the context, with two drafts, is taken.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import OutOfMemory
from .cut import open_borders
from .machine import BORDER, Card, Processor
from .sizes import Part, card_bytes, layers, part, scratch_bytes, state_bytes, state_read

ACCEPTANCE = (0.85, 0.77, 0.68, 0.6)    # of a draft, those before it being right: published figures of MTP heads and assistants
EXPERTS_RATE = 0.85                     # of the processor's rate for plain matrices: experts are smaller
DISPATCH = 20e-6                        # seconds of an operation of a pass on the processor that its whole team works on, on top of a chain of matrices
DRAFTS = 2                              # that go with a pass where plans are compared
COMMON_CONTEXT = 32768                  # at least so much is planned for where the model does not fit with all it was trained for


@dataclass(frozen=True)
class Stretch:
    """Layers first .. last - 1 on one device: "cpu", or a card's name."""

    device: str
    first: int
    last: int


@dataclass(frozen=True)
class Drafter:
    """part: its operations. card, bytes: its weights that are not the model's. table: the embedding table on a card, where chains of drafts read it.
    borrows: states of the model that it reads."""

    part: Part
    table: int
    card: int
    bytes: int
    borrows: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """What a plan places. borders: at which the recording can be cut, 0 among them; what a drafter reads stays in one section."""

    spec: dict[str, Any] = field(repr=False)
    before: Part
    layers: tuple[Part, ...]
    after: Part
    drafter: Drafter | None
    borders: tuple[int, ...]
    context: int
    kv_type: str

    @property
    def mixture(self) -> bool:
        return any(p.experts for p in self.layers)


@dataclass(frozen=True)
class Plan:
    """stretches: by device, in order. host_experts: layers on cards whose experts are the processor's. memory: by device, bytes by what they are for.
    seconds: of a pass, by rows and filled context; draft_seconds: of a draft. figures: what is behind them."""

    stretches: tuple[Stretch, ...]
    host_experts: tuple[int, ...]
    host_drafter_experts: bool
    context: int
    trained_context: int
    kv_type: str
    memory: dict[str, dict[str, int]]
    budgets: dict[str, int]
    passes: dict[int, dict[int, float]]
    draft_seconds: float | None
    cards: tuple[Card, ...]
    processor: Processor
    notes: tuple[str, ...] = ()

    @property
    def devices(self) -> list[str]:
        return [s.device for s in self.stretches]

    @property
    def whole(self) -> bool:
        """Everything is on one device."""
        return len(self.stretches) == 1 and not self.host_experts and not self.host_drafter_experts

    @property
    def key(self) -> str:
        """What a token's bits depend on besides the model's file: which layers the kinds of devices compute."""
        parts = [f"{s.device.partition(':')[0]}:{s.first}-{s.last - 1}" for s in self.stretches]
        return " ".join(parts) + (f" experts {','.join(map(str, self.host_experts))}" if self.host_experts else "")

    def drafted(self, context: int) -> tuple[int, float] | None:
        """(drafts, tokens a second) of the best number of drafts at ACCEPTANCE, 0 included; None without a drafter."""
        if self.draft_seconds is None:
            return None
        tokens = reached = 1.0
        best = 0, 1 / self.passes[1][context]
        for drafts, chance in enumerate(ACCEPTANCE, 1):
            reached *= chance
            tokens += reached
            speed = tokens / (self.passes[drafts + 1][context] + drafts * self.draft_seconds)
            best = max(best, (drafts, speed), key=lambda b: b[1])
        return best


def describe(network: Any, drafter: Any, context: int, kv_type: str) -> Model:
    """network, drafter: a Network and a DrafterNetwork or None, with weights or stand-ins."""
    before, middle, after = layers(network.spec)
    own = None
    if drafter is not None:
        ops = drafter.spec["ops"]
        shared = {id(w) for w in (network.embedding, network.head)}
        new = [w for op in ops for w in ([op["weight"]] if op["kind"] == "head" else op.get("weights", ())) if id(w) not in shared]
        borrows = tuple(sorted({int(op["borrowed_state"]) for op in ops if "borrowed_state" in op}))
        table = 0 if network.embedding is network.head else card_bytes(network.embedding)
        own = Drafter(part(ops, drafter.spec["states"]), table, sum(map(card_bytes, new)), sum(int(w.bytes) for w in new), borrows)
    borders = open_borders(network.spec)
    if own is not None and own.borrows:
        reads = min(i for i, (a, b) in enumerate(zip(network.spec["borders"], network.spec["borders"][1:]))
                    if any(op.get("state") == own.borrows[0] for op in network.spec["ops"][a:b]))
        borders = [b for b in borders if b <= reads]
    return Model(network.spec, before, tuple(middle), after, own, tuple(borders), context, kv_type)


class Planner:
    """Plans of one model for given cards."""

    def __init__(self, model: Model, cards: Sequence[Card], processor: Processor, spread: bool = False, card_experts: bool = True) -> None:
        """spread: over all cards, evenly, rather than over as few as hold it. card_experts: whether cards can run experts."""
        self.model, self.cards, self.processor, self.spread, self.card_experts = model, list(cards), processor, spread, card_experts
        self._layers: dict[tuple[int, bool], dict[str, int]] = {}                     # what is asked again and again
        self._scratch: dict[tuple[int, int], int] = {}
        self._costs: dict[tuple[int, str, bool, int, int], float] = {}
        self.width = max(model.spec["widths"][b] for op in model.spec["ops"] if op["kind"] == "embed" for b in op["outputs"])
        self.places = sorted({0, model.context // 2, model.context})                   # filled contexts for which speeds are told
        self.middle = self.places[len(self.places) // 2]
        self.kinds = sorted({kind for p in (model.before, *model.layers, model.after) for kind in p.unknown})

    def best(self, gpu_layers: int | None, cpu_experts: int | None) -> Plan:
        """The fastest that fits. None: free to choose. OutOfMemory where nothing fits."""
        count = len(self.model.layers)
        firsts = list(self.model.borders)
        if gpu_layers is not None:                        # the border that leaves so many layers to cards, or the next that leaves more
            firsts = [max((b for b in (*self.model.borders, count) if b <= count - min(gpu_layers, count)), default=0)]
        if self.kinds or not self.cards:
            firsts = [count]
        found: list[tuple[float, Plan]] = []
        for first in firsts:
            for plan in self._with_experts(first, cpu_experts):
                drafts = self._draft_seconds(plan.stretches[-1].device, plan.host_drafter_experts, self.middle) if self.model.drafter else 0.0
                found.append((plan.passes[1][self.middle] + DRAFTS * drafts, plan))
        fits = [(seconds, plan) for seconds, plan in found if self._fits(plan)]
        if not fits and gpu_layers is None and not cpu_experts and self.cards and not self.kinds:      # better without a card than not at all
            least = min((p for _, p in found), key=lambda p: sum(sum(m.values()) for d, m in p.memory.items() if d != "cpu"))
            needs = sum(sum(m.values()) for d, m in least.memory.items() if d != "cpu")
            note = f"the cards' memory ({', '.join(f'{c.name}: {gb(c.bytes)}' for c in self.cards)}) has no room for any part of it; the smallest takes {gb(needs)}"
            plan = self._place(count, (), False)[0]
            found.append((plan.passes[1][self.middle], replace(plan, notes=(note,))))
            fits = [found[-1]] if self._fits(plan) else []
        if not fits:
            raise OutOfMemory(self._too_large([plan for _, plan in found], gpu_layers, cpu_experts))
        return self._finished(min(fits, key=lambda f: f[0])[1])

    def whole(self) -> Plan | None:
        """All on cards, where that has room."""
        if self.kinds or not self.cards or (self.model.mixture and not self.card_experts):
            return None
        return next((self._finished(p) for p in self._place(0, (), False) if self._fits(p)), None)

    def _finished(self, plan: Plan) -> Plan:
        """With all its speeds."""
        passes = {rows: {at: self._seconds(plan.stretches, set(plan.host_experts), rows, at) for at in self.places} for rows in (1, 2, 3, 4, 5, 8)}
        drafts = self._draft_seconds(plan.stretches[-1].device, plan.host_drafter_experts, self.middle) if self.model.drafter else None
        return replace(plan, passes=passes, draft_seconds=drafts)

    def _fits(self, plan: Plan) -> bool:
        return all(sum(plan.memory[d].values()) <= plan.budgets[d] for d in plan.memory)

    def _too_large(self, plans: list[Plan], gpu_layers: int | None, cpu_experts: int | None) -> str:
        nearest = min(plans, key=lambda p: max(sum(p.memory[d].values()) / max(1, p.budgets[d]) for d in p.memory), default=None)
        asked = " and ".join(f"{name}={n}" for name, n in (("gpu_layers", gpu_layers), ("cpu_experts", cpu_experts)) if n is not None)
        if nearest is None:
            return "no plan was found"
        worst = max(nearest.memory, key=lambda d: sum(nearest.memory[d].values()) / max(1, nearest.budgets[d]))
        needs, has = sum(nearest.memory[worst].values()), nearest.budgets[worst]
        largest = ", ".join(f"{what} {gb(size)}" for what, size in sorted(nearest.memory[worst].items(), key=lambda i: -i[1])[:3])
        fix = f"fewer of them, 'auto', or a shorter context (now {nearest.context})" if asked else f"a shorter context (now {nearest.context}), a smaller kv_type or a smaller model"
        return f"{f'with {asked} ' if asked else ''}the model does not fit: {worst} would need {gb(needs)} of {gb(has)} ({largest}); use {fix}"

    def _with_experts(self, first: int, cpu_experts: int | None) -> list[Plan]:
        """Plans whose layers from `first` on are on cards, with all useful numbers of layers' experts on the processor."""
        count = len(self.model.layers)
        sparse = [i for i in range(first, count) if self.model.layers[i].experts]
        if not sparse or not self.cards:
            return self._place(first, (), bool(self.model.drafter and self.model.drafter.part.experts and not self.card_experts and first < count))
        numbers = range(len(sparse) + 1) if cpu_experts is None else [sum(i < cpu_experts for i in sparse)]
        if not self.card_experts:
            numbers = [len(sparse)]
        made = []
        drafts = self.model.drafter is not None and self.model.drafter.part.experts is not None
        for n in numbers:
            for own in ((False, True) if drafts and self.card_experts and n else (drafts and not self.card_experts,)):
                made += self._place(first, tuple(sparse[:n]), own)
        return made

    def _place(self, first: int, host: tuple[int, ...], host_drafter: bool) -> list[Plan]:
        """Layers from `first` on over the cards: over as few as they need, or spread over all. One plan, which may not fit."""
        count = len(self.model.layers)
        if first == count:
            plan = self._plan((Stretch("cpu", 0, count),), (), False)
            return [replace(plan, notes=(f"{self.kinds[0]} of this model cannot be run on a card yet",)) if self.kinds and self.cards else plan]
        head = (Stretch("cpu", 0, first),) if first else ()
        if not self.cards:
            return []
        groups = [self.cards] if self.spread else [self.cards[:n] for n in range(1, len(self.cards) + 1)]
        nearest: Plan | None = None
        for cards in groups:
            if len(cards) == 1:
                nearest = self._plan((*head, Stretch(cards[0].name, first, count)), host, host_drafter)
            else:
                stretches = self._over(cards, first, host, host_drafter)
                if stretches is None:
                    continue
                nearest = self._plan((*head, *stretches), host, host_drafter)
            if self._fits(nearest):
                break
        return [nearest] if nearest else []

    def _over(self, cards: list[Card], first: int, host: tuple[int, ...], host_drafter: bool) -> tuple[Stretch, ...] | None:
        """The layers over several cards, every card filled to the same share as far as layers allow; None where there are fewer layers than cards."""
        count = len(self.model.layers)
        borders = [b for b in self.model.borders if b > first]
        if len(borders) < len(cards) - 1:
            return None
        need = {i: sum(self._layer(i, i in host).values()) for i in range(first, count)}
        tail = sum(self._tail(host_drafter).values())

        def filled(share: float) -> tuple[Stretch, ...] | None:
            made: list[Stretch] = []
            end = count
            for card in reversed(cards):
                left = len(cards) - len(made) - 1
                allowed = share * card.bytes - scratch_bytes(self.model.spec, self.model.spec["borders"][first], len(self.model.spec["ops"]), self.model.context)
                allowed -= tail if end == count else 0
                starts = [b for b in borders if b < end and sum(x < b for x in borders) >= left - 1] if left else [first]
                if not starts:
                    return None
                fitting = [b for b in starts if sum(need[i] for i in range(b, end)) <= allowed]
                start = min(fitting) if fitting else max(starts)
                made.append(Stretch(card.name, start, end))
                end = start
            return tuple(reversed(made)) if end == first and all(s.first < s.last for s in made) else None

        def worst(stretches: tuple[Stretch, ...]) -> float:
            plan = self._plan(((Stretch("cpu", 0, first),) if first else ()) + stretches, host, host_drafter)
            return max(sum(plan.memory[c.name].values()) / max(1, c.bytes) for c in cards)

        options = [s for share in [i / 24 for i in range(1, 25)] if (s := filled(share)) is not None]
        return min(set(options), key=worst) if options else None

    def _layer(self, index: int, host_experts: bool) -> dict[str, int]:
        """Memory of a layer on a card."""
        key = index, host_experts
        if key not in self._layers:
            self._layers[key] = self._layer_memory(index, host_experts)
        return self._layers[key]

    def _layer_memory(self, index: int, host_experts: bool) -> dict[str, int]:
        p = self.model.layers[index]
        return {"layers": p.card, "experts": 0 if host_experts or p.experts is None else p.experts.card,
                "KV cache": sum(state_bytes(s, self.model.context, self.model.kv_type) for s in p.states)}

    def _tail(self, host_drafter: bool) -> dict[str, int]:
        """Memory of what follows the last layer, on a card."""
        made = {"head": self.model.after.card}
        d = self.model.drafter
        if d is not None:
            made["drafter"] = d.table + d.card + (0 if host_drafter or d.part.experts is None else d.part.experts.card) + sum(state_bytes(s, self.model.context, self.model.kv_type) for s in d.part.states)
        return made

    def _plan(self, stretches: tuple[Stretch, ...], host: tuple[int, ...], host_drafter: bool) -> Plan:
        model, count = self.model, len(self.model.layers)
        memory: dict[str, dict[str, int]] = {}

        def take(device: str, needs: dict[str, int]) -> None:
            of = memory.setdefault(device, {})
            for what, size in needs.items():
                if size:
                    of[what] = of.get(what, 0) + size

        for s in stretches:
            starts = model.spec["borders"]
            ops = 0 if s.first == 0 else starts[s.first], len(model.spec["ops"]) if s.last == count else starts[s.last]
            for i in range(s.first, s.last):
                p = model.layers[i]
                if s.device == "cpu":
                    take("cpu", {"layers": p.bytes, "experts": p.experts.bytes if p.experts else 0,
                                 "KV cache": sum(state_bytes(x, model.context, model.kv_type) for x in p.states)})
                else:
                    take(s.device, self._layer(i, i in host))
                    if i in host and p.experts:
                        take("cpu", {"experts": p.experts.bytes})
            if s.device == "cpu":
                take("cpu", {"scratch": 64 << 20})
            else:
                if ops not in self._scratch:
                    self._scratch[ops] = scratch_bytes(model.spec, *ops, model.context)
                take(s.device, {"scratch": self._scratch[ops]})
            if s.last == count:
                take(s.device, self._tail(host_drafter) if s.device != "cpu" else self._tail_on_processor())
                if host_drafter and s.device != "cpu" and model.drafter and model.drafter.part.experts:
                    take("cpu", {"experts": model.drafter.part.experts.bytes})
        take("cpu", {"embeddings": model.before.table})
        budgets = {"cpu": int(0.95 * self.processor.bytes), **{c.name: c.bytes for c in self.cards}}
        passes = {1: {self.middle: self._seconds(stretches, set(host), 1, self.middle)}}
        used = tuple(c for c in self.cards if c.name in memory)
        return Plan(stretches, host, host_drafter, model.context, model.context, model.kv_type, memory, {d: budgets[d] for d in memory}, passes, None, used, self.processor)

    def _tail_on_processor(self) -> dict[str, int]:
        d = self.model.drafter
        made = {"head": self.model.after.bytes}
        if d is not None:
            made["drafter"] = d.bytes + (d.part.experts.bytes if d.part.experts else 0) + sum(state_bytes(s, self.model.context, self.model.kv_type) for s in d.part.states)
        return made

    def _seconds(self, stretches: tuple[Stretch, ...], host: set[int], rows: int, position: int) -> float:
        total = 0.0
        for number, s in enumerate(stretches):
            card = next((c for c in self.cards if c.name == s.device), None)
            for i in range(s.first, s.last + (s.last == len(self.model.layers))):      # and what stands after the last
                key = i, s.device, i in host, rows, position
                if key not in self._costs:
                    p = self.model.layers[i] if i < len(self.model.layers) else self.model.after
                    self._costs[key] = self._part_seconds(p, card, i in host, rows, position)
                total += self._costs[key]
            if card is not None and number:
                total += card.meeting + rows * self.width * 4 / card.to_card
            elif card is not None:
                total += card.meeting
        return total

    def _part_seconds(self, p: Part, card: Card | None, host_experts: bool, rows: int, position: int) -> float:
        """Of a pass over `rows` rows of one text."""
        cpu = self.processor
        states = sum(state_read(s, position, self.model.kv_type) for s in p.states)
        if card is None:
            seconds = p.bytes / cpu.rate(rows) + states / (0.5 * cpu.read) + DISPATCH * (2 if p.states else 1)
            return seconds + (self._experts_seconds(p, rows) if p.experts else 0.0)
        kernels = p.matmuls + (2 if p.states else 1) + (3 if p.experts else 0)
        seconds = (p.card * (1 + 0.01 * (rows - 1)) + states) / card.read + BORDER * kernels
        if p.experts and host_experts:
            crossing = card.meeting + rows * self.width * 4 * (1 / card.to_card + 1 / card.from_card)
            seconds += crossing + self._experts_seconds(p, rows)
        elif p.experts:
            seconds += p.experts.card / p.experts.bytes * p.experts.read(rows) / (0.65 * card.read)
        return seconds

    def _experts_seconds(self, p: Part, rows: int) -> float:
        assert p.experts is not None
        return p.experts.read(rows) / (EXPERTS_RATE * self.processor.rate(max(1, round(rows * p.experts.used / p.experts.count)))) + 2 * DISPATCH

    def _draft_seconds(self, device: str, host_experts: bool, position: int) -> float:
        d = self.model.drafter
        assert d is not None
        card = next((c for c in self.cards if c.name == device), None)
        return self._part_seconds(d.part, card, host_experts, 1, position) + (card.meeting if card else 0.0)


def gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"
