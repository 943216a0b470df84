"""From a path to a Model: file, network, tokenizer, drafter."""
from __future__ import annotations

import os
import platform
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import _native
from .decode.options import integer
from .decode.suggested import suggested_sampling
from .drafters.gemma4_assistant import Gemma4AssistantDrafter
from .drafters.mtp import MtpDrafter
from .errors import ArgumentError, DeviceError, FileError
from .files import open_model
from .files.hub import resolve
from .files.identity import identity
from .files.random_model import PREFIX
from .files.shapes import SHAPES
from .model import Model
from .models import build_drafter, build_network
from .results import LoadStats
from .text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from .drafters.base import Drafter
    from .files import ModelFile
    from .models import DrafterNetwork, Network
    from .text.tokenizer import Tokenizer

KV_TYPES = ("f16", "bf16", "f32", "q8_0", "q4_0")
KV_BLOCKS = ("q8_0", "q4_0")   # of 32 values, which the processor's caches can have


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


def load(path: str | os.PathLike[str], draft: Literal["auto", False] | str | os.PathLike[str] = "auto", device: str = "auto",
         threads: int | None = None, kv_type: str = "f16", context: int | None = None) -> Model:
    """Opens a model: a .gguf file (or the first of several), a folder with config.json and safetensors, or "random:SHAPE" or
    "random:SHAPE:TYPE": random weights in a released model's shape ("random:qwen3-8b:Q8_0"), to measure speed with. A name of the
    Hugging Face hub, org/repo or org/repo:QUANT, is one too; its files are downloaded when they are not there yet.

    draft     "auto": the file's own drafting head, else a companion beside it (NAME-assistant..., mtp-NAME...), else none;
              a path: that drafter, which must fit; False: none
    device    "auto": the first card that works and can hold and run the model, else the processor (a warning says why, where a card is there);
              "cpu": the processor; "cuda:0": an NVIDIA card; "hip:0": an AMD card (skipstone devices lists them)
    threads   None: as many as there are usable cores
    kv_type   what keys and values are kept in: "f16", "bf16" or "f32"; "q8_0" and "q4_0" take 53 % and 28 % of f16's memory, need heads of a
              multiple of 32 values and the processor, and change logits a little or visibly
    context   most tokens of a text; None: what the model was trained for

    FileError for what is wrong with a file (ModelError: a model that cannot be run), ArgumentError, DeviceError.
    """
    if kv_type not in KV_TYPES:
        raise ArgumentError(f"kv_type: {kv_type!r}; expected one of {', '.join(KV_TYPES)}")
    threads = int(_native.default_threads()) if threads is None else integer("threads", threads, 1, 1024)
    if not (draft == "auto" or draft is False or isinstance(draft, str | os.PathLike)):
        raise ArgumentError(f"draft: {draft!r}; expected 'auto', a path or False")
    if device == "auto" and (cards := usable_cards()):
        try:
            return _load(path, draft, cards[0], threads, kv_type, context)
        except DeviceError as error:
            warnings.warn(f"the model runs on the processor: {error}", stacklevel=2)
    return _load(path, draft, "cpu" if device == "auto" else device, threads, kv_type, context)


def usable_cards() -> list[str]:
    """Names of the cards that models can be loaded on; device="auto" takes the first."""
    return [str(card["name"]) for card in _native.gpu_devices() if not card["problem"]]


def _load(path: str | os.PathLike[str], draft: Any, device: str, threads: int, kv_type: str, context: int | None) -> Model:
    device, make = _program_maker(device)
    start = time.perf_counter()
    file = open_model(resolve(path))
    text = _Text(file, make or _native.Program)
    network = build_network(file, program=text.first)
    _check_kv_type(kv_type, file, network, device)
    if context is None:
        context = network.context_length
    else:
        context = integer("context", context, 1, None)
        if context > network.context_length:
            raise ArgumentError(f"context: {context}; {file.path.name} was made for {network.context_length} tokens at most")
    drafter = None
    if draft == "auto":
        drafter = _drafter(build_drafter(network, file, program=make), file, threads, kv_type) or _companion(file, network, threads, kv_type, make)
    elif draft is not False:
        companion = open_model(resolve(draft))
        drafter = _drafter(build_drafter(network, file, companion, program=make), companion, threads, kv_type)
    seconds = time.perf_counter() - start
    loaded = LoadStats(seconds, seconds - text.seconds, sum(t.data.nbytes for t in file.tensors.values()))
    config = file.config or {key: value for key, value in file.metadata.items() if not key.startswith("tokenizer.")}
    return Model(path=file.path, architecture=network.architecture, config=config, program=network.program, bytes=network.bytes_per_row,
                 context_length=context, tokenizer=text.tokenizer, drafter=drafter, device=device, threads=threads, kv_type=kv_type, load_stats=loaded,
                 identify=lambda: f"{device.partition(':')[0]} {identity(file)}",
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


def _check_kv_type(kv_type: str, file: ModelFile, network: Network, device: str) -> None:
    if kv_type not in KV_BLOCKS:
        return
    if device != "cpu":
        raise ArgumentError(f"kv_type: {kv_type!r} on {device}; cards keep f16, bf16 or f32. Use one of them, or device='cpu'")
    heads = sorted({int(s["head"]) for s in network.spec["states"] if s["kind"] == "kv" and s["head"] % 32})
    if heads:
        raise ArgumentError(f"kv_type: {kv_type!r} keeps blocks of 32 values; {file.path.name} has heads of {heads[0]}. Use f16, bf16 or f32")


def _program_maker(device: str) -> tuple[str, Callable[[dict[str, Any]], Any] | None]:
    """The device's name and what turns a recorded pass into a program on it."""
    if device == "cpu":
        return "cpu", None
    cards, usable = _native.gpu_devices(), usable_cards()
    name = f"{device}:0" if device in ("cuda", "hip") else device
    if name not in usable:
        problems = "".join(f"; {card['name']}: {card['problem'].rstrip('.')}" for card in cards if card["problem"] and name.partition(":")[0] == card["name"].partition(":")[0])
        raise DeviceError(f"device: {device!r}; available: {', '.join([d.name for d in devices()] + usable)}{problems}. Use device='auto'")
    return name, lambda spec: _native.GpuProgram(spec, name)


def _drafter(made: DrafterNetwork | None, file: ModelFile, threads: int, kv_type: str) -> Drafter | None:
    """file: where it comes from."""
    if made is None:
        return None
    if made.kind == "mtp":
        return MtpDrafter(made.program, kv_type, threads, made.bytes_per_row, lambda: identity(file))
    return Gemma4AssistantDrafter(made.program, threads, made.bytes_per_row, lambda: identity(file))


def _companion(file: ModelFile, network: Network, threads: int, kv_type: str, make: Any) -> Drafter | None:
    """The drafter beside the model, if there is one that fits. One that does not is reported and left alone."""
    for candidate in companions(file.path):
        try:
            companion = open_model(candidate)
            return _drafter(build_drafter(network, file, companion, program=make), companion, threads, kv_type)
        except FileError as error:
            warnings.warn(f"{candidate.name} beside {file.path.name} looks like its drafter, but does not fit: {error}. "
                          "Decoding goes on without it; draft=False or draft=PATH says what is wanted", stacklevel=3)
    return None


# Endings of file names that say how the weights are stored.
_QUANTIZATION = re.compile(r"[-._](?:(?:ud|i1|qat)[-._])?(?:i?q\d\w*|tq\d\w*|bf16|f16|f32|mxfp4\w*|nvfp4\w*)$", re.IGNORECASE)


def companions(path: Path) -> list[Path]:
    """Files or folders beside `path` whose names make them its drafter: NAME-assistant, NAME-mtp and mtp-NAME, where the endings
    that tell the quantization need not be the same. Those with path's own ending come first, then by name. For a random model the one of its shape."""
    if str(path).startswith(PREFIX):
        shape, _, type = str(path).removeprefix(PREFIX).partition(":")
        return [Path(f"{PREFIX}{shape}-assistant:{type}")] if f"{shape}-assistant" in SHAPES else []
    folder = path.is_dir()
    name = path.name if folder else re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)
    plain = name if folder else _QUANTIZATION.sub("", name)
    ending = name[len(plain):].lower()
    wanted = {f"{plain}-assistant".lower(), f"{plain}-mtp".lower(), f"mtp-{plain}".lower()}
    found = []
    for other in path.parent.iterdir() if path.parent.is_dir() else ():
        if other == path or other.is_dir() != folder or not (folder or other.suffix.lower() == ".gguf"):
            continue
        stem = other.name if folder else re.sub(r"-00001-of-\d{5}$", "", other.stem)
        base = stem if folder else _QUANTIZATION.sub("", stem)
        if base.lower() in wanted:
            found.append((stem[len(base):].lower() != ending, other.name, other))
    return [other for _, _, other in sorted(found, key=lambda f: f[:2])]


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
