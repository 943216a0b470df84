"""From a path to a Model: file, network, tokenizer, drafter."""
from __future__ import annotations

import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import _native
from .decode.options import integer
from .decode.suggested import suggested_sampling
from .drafters.block import BlockDrafter
from .drafters.gemma4_assistant import Gemma4AssistantDrafter
from .drafters.mtp import MtpDrafter
from .drafters.ngram import NAME as NGRAM
from .drafters.ngram import NgramDrafter
from .errors import ArgumentError, DeviceError, DeviceOutOfMemory, FileError, OutOfMemory
from .files import open_model
from .files.hub import resolve
from .files.identity import identity
from .files.random_model import PREFIX
from .files.shapes import SHAPES
from .model import Model
from .models import build_drafter, build_network, has_own_drafter, taps
from .placement.machine import Card, assumed_card, card
from .placement.place import Placed, choose, memory_size, number_or_auto
from .placement.sizes import SizedWeight
from .results import LoadStats
from .text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from .drafters.base import Drafter
    from .files import ModelFile
    from .models import DrafterNetwork, Network
    from .models.network import Block
    from .placement.plan import Plan
    from .text.tokenizer import Tokenizer

KV_TYPES = ("f16", "bf16", "f32", "q8_0", "q4_0")
KV_BLOCKS = ("q8_0", "q4_0")   # of 32 values


@dataclass(frozen=True)
class Device:
    """Something that can run models. name: what load takes as device; isas: instruction sets that run here, the best first."""

    name: str
    description: str
    isa: str
    isas: tuple[str, ...]
    threads: int


def devices() -> list[Device]:
    """What this machine can run models on."""
    return [Device("cpu", _processor(), _native.isa(), tuple(_native.isas()), int(_native.default_threads()))]


def load(path: str | os.PathLike[str], draft: Literal["auto", "ngram", False] | str | os.PathLike[str] = "auto", device: str = "auto",
         threads: int | None = None, kv_type: str = "f16", context: int | None = None, devices: Sequence[str] | None = None,
         gpu_layers: Literal["auto"] | int = "auto", cpu_experts: Literal["auto"] | int = "auto",
         memory_limit: str | int | None = None) -> Model:
    """Opens a model: a .gguf file (or the first of several), a folder with config.json and safetensors, or "random:SHAPE" or
    "random:SHAPE:TYPE": random weights in a released model's shape ("random:qwen3-8b:Q8_0"), to measure speed with. A name of the
    Hugging Face hub, org/repo or org/repo:QUANT, is one too; its files are downloaded when they are not there yet.

    draft     "auto": the file's own drafting head, else a companion beside it (NAME-assistant..., mtp-NAME..., NAME-dflash...), else none;
              "ngram": from the text's own repetitions; a path: that drafter, which must fit; False: none
    device    "auto": the cards that work, as many as the model needs, and the processor for what has no room on them (a warning says
              why, where a card is there and cannot run the model); "cpu": the processor alone; "cuda:0", "hip:0": that NVIDIA or
              AMD card (skipstone devices lists them) and the processor
    threads   None: as many as there are usable cores
    kv_type   what keys and values are kept in: "f16", "bf16" or "f32"; "q8_0" and "q4_0" take 53 % and 28 % of f16's memory, need heads of a
              multiple of 32 values and the processor, and change logits a little or visibly
    context   most tokens of a text; None: what the model was trained for, or less where cards do not hold the model with all of that
    devices   several cards, ["cuda:0", "cuda:1"]: the layers are spread over them, the first on the first
    gpu_layers, cpu_experts    how many layers, the last ones, are on cards, and of how many layers, the first ones, the processor has
              the experts; "auto": what promises most speed. Model.plan says what was chosen, skipstone info --plan before loading
    memory_limit    of each card: "12GB", or bytes. None: what is free

    FileError for what is wrong with a file (ModelError: a model that cannot be run), ArgumentError, DeviceError.
    """
    if kv_type not in KV_TYPES:
        raise ArgumentError(f"kv_type: {kv_type!r}; expected one of {', '.join(KV_TYPES)}")
    threads = int(_native.default_threads()) if threads is None else integer("threads", threads, 1, 1024)
    if not (draft == "auto" or draft is False or isinstance(draft, str | os.PathLike)):
        raise ArgumentError(f"draft: {draft!r}; expected 'auto', 'ngram', a path or False")
    wanted = Wanted.of(device, devices, gpu_layers, cpu_experts, memory_limit)
    if wanted.cards:
        try:
            return _load_planned(path, draft, wanted, threads, kv_type, context)
        except (DeviceError, OutOfMemory) as error:
            if not wanted.may_fall_back:
                raise
            warnings.warn(f"the model runs on the processor: {error}", stacklevel=2)
    return _load(path, draft, None, threads, kv_type, context)


@dataclass(frozen=True)
class Wanted:
    """Where a model shall run, as it was asked for. cards: names; none: the processor alone. gpu_layers, cpu_experts: None: as is best."""

    cards: tuple[str, ...]
    spread: bool
    gpu_layers: int | None
    cpu_experts: int | None
    limit: int | None
    may_fall_back: bool

    @classmethod
    def of(cls, device: str, devices: Sequence[str] | None, gpu_layers: Any, cpu_experts: Any, memory_limit: Any, assume: bool = False) -> Wanted:
        """Arguments of load, checked. ArgumentError, and DeviceError for devices that are not there. assume: a card that is not there, of
        memory_limit, may be planned for."""
        layers, experts = number_or_auto("gpu_layers", gpu_layers), number_or_auto("cpu_experts", cpu_experts)
        limit = None if memory_limit is None else memory_size("memory_limit", memory_limit)
        if not isinstance(device, str):
            raise ArgumentError(f"device: {device!r}; expected 'auto', 'cpu' or a card such as 'cuda:0'")
        if devices is not None:
            if isinstance(devices, str) or not all(isinstance(d, str) for d in devices) or not devices or len(set(devices)) < len(devices):
                raise ArgumentError(f"devices: {devices!r}; expected a list of different cards, such as ['cuda:0', 'cuda:1']")
            if device != "auto":
                raise ArgumentError(f"device: {device!r} and devices: {list(devices)!r}; expected one of the two")
            names = tuple(_card_name(d) for d in devices if d != "cpu")
            return cls(names if layers != 0 else (), len(names) > 1, layers, experts, limit, False)
        if device == "auto":
            cards = tuple(usable_cards()) if layers != 0 else ()
            if not cards and layers and not (assume and limit):
                raise DeviceError(f"gpu_layers: {layers}, but no card can be used{_problems()}. Use gpu_layers='auto'")
            return cls(cards, False, layers, experts, limit, layers is None and experts is None)
        if device == "cpu":
            if layers or limit is not None:
                name, value = ("gpu_layers", gpu_layers) if layers else ("memory_limit", memory_limit)
                raise ArgumentError(f"{name}: {value!r} is about cards, but device is 'cpu'; leave one of them out")
            return cls((), False, layers, experts, limit, False)
        return cls((_card_name(device),) if layers != 0 else (), False, layers, experts, limit, False)


def _load_planned(path: str | os.PathLike[str], draft: Any, wanted: Wanted, threads: int, kv_type: str, context: int | None) -> Model:
    """On cards, by plan. Where memory runs out although the plan had room for all, a plan for less is made."""
    error: DeviceOutOfMemory | None = None
    for attempt in range(8):
        cards = [card(name, wanted.limit) for name in wanted.cards]
        cards = [replace(c, bytes=int(c.bytes * 0.88**attempt)) for c in cards]
        try:
            plan = make_plan(path, draft, cards, wanted, threads, kv_type, context)
            if plan.devices == ["cpu"]:
                reason = "; ".join(plan.notes)
                if plan.notes and not wanted.may_fall_back and not error and "cannot be run" in reason:
                    raise DeviceError(f"{', '.join(wanted.cards)}: {reason}; use device='cpu'")
                warnings.warn(f"the model runs on the processor: {error or reason}", stacklevel=3)
                return _load(path, draft, None, threads, kv_type, context)
            if error:
                plan = replace(plan, notes=(*plan.notes, f"made anew, as memory ran out with the plan before: {error}"))
            return _load(path, draft, plan, threads, kv_type, context)
        except DeviceOutOfMemory as problem:
            error = problem.with_traceback(None)               # which would keep what was loaded
            if wanted.gpu_layers is not None:
                break
        except OutOfMemory as problem:
            raise error or problem from None
    assert error is not None
    raise error


def make_plan(path: str | os.PathLike[str], draft: Any, cards: list[Card], wanted: Wanted, threads: int, kv_type: str, context: int | None) -> Plan:
    """The plan for a model, without loading it. OutOfMemory where nothing fits, DeviceError where no layer can be run on a card."""
    file = open_model(resolve(path))
    network = build_network(file, make_weight=SizedWeight, program=lambda spec: None)
    _check_context(context, file, network)
    _check_kv_type(kv_type, file, network)
    drafter: DrafterNetwork | None = None
    if draft == "auto" and network.weights is None:
        drafter = build_drafter(network, file, make_weight=SizedWeight, program=lambda spec: None)
        for candidate in _companions(file) if drafter is None else ():
            try:
                if isinstance(candidate, FileError) or taps(candidate):
                    continue
                drafter = build_drafter(network, file, candidate, make_weight=SizedWeight, program=lambda spec: None)
                break
            except FileError:
                continue                                       # reported when it is loaded
    elif draft not in ("auto", NGRAM, False) and not taps(given := open_model(resolve(draft))):
        drafter = build_drafter(network, file, given, make_weight=SizedWeight, program=lambda spec: None)
    return choose(network, drafter, cards, threads, context, kv_type, wanted.gpu_layers, wanted.cpu_experts, wanted.spread)


def _check_context(context: int | None, file: ModelFile, network: Network) -> None:
    if context is not None and integer("context", context, 1, None) > network.context_length:
        raise ArgumentError(f"context: {context}; {file.path.name} was made for {network.context_length} tokens at most")


def plan_for(path: str | os.PathLike[str], draft: Any, wanted: Wanted, threads: int, kv_type: str, context: int | None) -> Plan:
    """What load would do, for a machine without a card as for one with an assumed card of `wanted.limit` bytes."""
    cards = [card(name, wanted.limit) for name in wanted.cards]
    if not cards and wanted.limit is not None:
        cards = [assumed_card(wanted.limit)]
    return make_plan(path, draft, cards, wanted, threads, kv_type, context)


def usable_cards() -> list[str]:
    """Names of the cards that models can be loaded on; device="auto" takes the first."""
    return [str(card["name"]) for card in _native.gpu_devices() if not card["problem"]]


def _load(path: str | os.PathLike[str], draft: Any, plan: Plan | None, threads: int, kv_type: str, context: int | None) -> Model:
    placed = Placed(plan) if plan else None
    device, make = "+".join(plan.devices) if plan else "cpu", placed.drafter if placed else None
    start = time.perf_counter()
    file = open_model(resolve(path))
    given = open_model(resolve(draft)) if draft not in ("auto", NGRAM, False) else None
    beside = list(_companions(file)) if draft == "auto" and not has_own_drafter(file) else []
    tapped = taps(given) if given else _first_taps(beside)
    if given and tapped and device != "cpu":
        raise DeviceError(f"draft: {given.name} drafts blocks, which runs on the processor alone; use device='cpu', draft='ngram' or another drafter")
    text = _Text(file, placed.target if placed else _native.Program)
    network = build_network(file, program=text.first, taps=tapped if device == "cpu" else ())
    _check_kv_type(kv_type, file, network)
    _check_context(context, file, network)
    if context is None:
        context = plan.context if plan else network.context_length
    drafter: Drafter | None = NgramDrafter() if draft == NGRAM else None
    if given:
        drafter = _drafter(build_drafter(network, file, given, program=make), network, given, threads, kv_type)
    elif draft == "auto":
        drafter = _own(file, network, device, threads, kv_type, make) or _companion(file, beside, network, device, threads, kv_type, make)
    seconds = time.perf_counter() - start
    loaded = LoadStats(seconds, seconds - text.seconds, sum(t.data.nbytes for t in file.tensors.values()))
    config = file.config or {key: value for key, value in file.metadata.items() if not key.startswith("tokenizer.")}
    return Model(path=file.path, architecture=network.architecture, config=config, program=network.program, bytes=network.bytes_per_row,
                 context_length=context, tokenizer=text.tokenizer, drafter=drafter, device=device, threads=threads, kv_type=kv_type, load_stats=loaded,
                 identify=lambda: f"{device.partition(':')[0] if plan is None or plan.whole else plan.key} {identity(file)}", plan=plan, hidden_width=network.hidden_size,
                 sampling=suggested_sampling(file))


class _Text:
    """Builds the tokenizer when the model is known to be sound, and before its weights take memory: building takes as much again for a moment."""

    def __init__(self, file: ModelFile, make: Callable[[dict[str, Any]], Any]) -> None:
        self.file, self.make = file, make
        self.tokenizer: Tokenizer | None = None
        self.seconds = 0.0

    def first(self, spec: dict[str, Any]) -> Any:
        """The program of `spec`, after the tokenizer."""
        start = time.perf_counter()
        self.tokenizer = load_tokenizer(self.file)
        _native.trim_memory()
        self.seconds = time.perf_counter() - start
        return self.make(spec)


def _check_kv_type(kv_type: str, file: ModelFile, network: Network) -> None:
    if kv_type not in KV_BLOCKS:
        return
    heads = sorted({int(s["head"]) for s in network.spec["states"] if s["kind"] == "kv" and s["head"] % 32})
    if heads:
        raise ArgumentError(f"kv_type: {kv_type!r} keeps blocks of 32 values; {file.path.name} has heads of {heads[0]}. Use f16, bf16 or f32")


def _card_name(device: str) -> str:
    """The name of a card that can be used. DeviceError."""
    usable = usable_cards()
    name = f"{device}:0" if device in ("cuda", "hip") else device
    if name not in usable:
        kind = name.partition(":")[0]
        raise DeviceError(f"device: {device!r}; available: {', '.join(['cpu', *usable])}{_problems(kind) if kind in ('cuda', 'hip') else ''}. Use device='auto'")
    return name


def _problems(kind: str = "") -> str:
    """Why cards cannot be used. kind: "cuda" or "hip" alone."""
    return "".join(f"; {card['name']}: {card['problem'].rstrip('.')}" for card in _native.gpu_devices() if card["problem"] and card["name"].startswith(kind))


def _drafter(made: DrafterNetwork | None, network: Network, file: ModelFile, threads: int, kv_type: str) -> Drafter | None:
    """network: the target; file: where the drafter comes from."""
    if made is None:
        return None
    if made.kind == "mtp":
        return MtpDrafter(made.program, kv_type, threads, made.bytes_per_row, lambda: identity(file))
    if made.block is not None:
        return BlockDrafter(made.program, made.block, network.hidden_size, _own_kv_type(made.block, kv_type), threads, made.bytes_per_row, lambda: identity(file))
    return Gemma4AssistantDrafter(made.program, threads, made.bytes_per_row, lambda: identity(file))


def _own_kv_type(block: Block, kv_type: str) -> str:
    """What the drafter's own cache is kept in: as the model's, where its heads allow that."""
    heads = (s["head"] for s in block.states)
    return "f16" if kv_type in KV_BLOCKS and any(head % 32 for head in heads) else kv_type


def _own(file: ModelFile, network: Network, device: str, threads: int, kv_type: str, make: Any) -> Drafter | None:
    """The drafter in the model's own file."""
    if network.weights is not None and device != "cpu":
        warnings.warn(f"{file.path.name} has Orthrus' attention weights, which draft on the processor alone; decoding goes on without them. "
                      "draft='ngram' drafts on every device", stacklevel=4)
        return None
    return _drafter(build_drafter(network, file, program=make), network, file, threads, kv_type)


def _first_taps(beside: list[ModelFile | FileError]) -> tuple[int, ...]:
    """The layers that the first companion reads of the model."""
    try:
        return taps(beside[0]) if beside and not isinstance(beside[0], FileError) else ()
    except FileError:
        return ()                        # building it says what is wrong


def _companions(file: ModelFile) -> Iterator[ModelFile | FileError]:
    """The files beside the model that look like its drafter, or why one cannot be read."""
    for candidate in companions(file.path):
        try:
            yield open_model(candidate)
        except FileError as error:
            yield error


def _companion(file: ModelFile, beside: list[ModelFile | FileError], network: Network, device: str, threads: int, kv_type: str, make: Any) -> Drafter | None:
    """The first of the files beside the model that fits it as its drafter. One that does not is reported and left alone."""
    for path, candidate in zip(companions(file.path), beside):
        try:
            if isinstance(candidate, FileError):
                raise candidate
            if device != "cpu" and taps(candidate):
                raise DeviceError("it drafts blocks, which runs on the processor alone")
            return _drafter(build_drafter(network, file, candidate, program=make), network, candidate, threads, kv_type)
        except (FileError, DeviceError) as error:
            warnings.warn(f"{path.name} beside {file.path.name} looks like its drafter, but does not fit: {error}. "
                          "Decoding goes on without it; draft=False or draft=PATH says what is wanted", stacklevel=4)
    return None


# Endings of file names that say how the weights are stored.
_QUANTIZATION = re.compile(r"[-._](?:(?:ud|i1|qat)[-._])?(?:i?q\d\w*|tq\d\w*|bf16|f16|f32|mxfp4\w*|nvfp4\w*)$", re.IGNORECASE)


def companions(path: Path) -> list[Path]:
    """Files or folders beside `path` whose names make them its drafter: NAME-assistant, NAME-mtp, mtp-NAME and, after those,
    NAME-dflash, where the endings that tell the quantization need not be the same. Those with path's own ending come first, then by name. For a random model the one of its shape."""
    if str(path).startswith(PREFIX):
        shape, _, type = str(path).removeprefix(PREFIX).partition(":")
        return [Path(f"{PREFIX}{shape}-assistant:{type}")] if f"{shape}-assistant" in SHAPES else []
    folder = path.is_dir()
    name = path.name if folder else re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)
    plain = name if folder else _QUANTIZATION.sub("", name)
    ending = name[len(plain):].lower()
    wanted = {f"{plain}-assistant".lower(), f"{plain}-mtp".lower(), f"mtp-{plain}".lower()}
    blocks = {f"{plain}-dflash".lower(), f"{plain}-dflash2".lower()}
    found = []
    for other in path.parent.iterdir() if path.parent.is_dir() else ():
        if other == path or other.is_dir() != folder or not (folder or other.suffix.lower() == ".gguf"):
            continue
        stem = other.name if folder else re.sub(r"-00001-of-\d{5}$", "", other.stem)
        base = stem if folder else _QUANTIZATION.sub("", stem)
        if base.lower() in wanted | blocks:
            found.append((base.lower() in blocks, stem[len(base):].lower() != ending, other.name, other))
    return [found[-1] for found in sorted(found, key=lambda f: f[:3])]


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
