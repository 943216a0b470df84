"""skipstone info: what a model file is, from its headers alone."""
from __future__ import annotations

import hashlib
import os
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ..chat.dialects import dialect_of
from .output import console, draft_argument, errors_as_messages, layers_argument, model_path, print_json, shown

if TYPE_CHECKING:
    from ..files import ModelFile

# The hyper-parameters worth a line, by what they are called in GGUF (after the architecture's prefix) and in config.json.
PARAMETERS = (
    ("layers", "block_count", "num_hidden_layers"), ("hidden size", "embedding_length", "hidden_size"), ("feed-forward size", "feed_forward_length", "intermediate_size"),
    ("query heads", "attention.head_count", "num_attention_heads"), ("key/value heads", "attention.head_count_kv", "num_key_value_heads"),
    ("head size", "attention.key_length", "head_dim"), ("sliding window", "attention.sliding_window", "sliding_window"), ("context", "context_length", "max_position_embeddings"),
    ("experts", "expert_count", "num_experts"), ("experts a token", "expert_used_count", "num_experts_per_tok"), ("drafting layers", "nextn_predict_layers", "mtp_num_hidden_layers"),
    ("rows of a block of drafts", "block_size", "block_size"),
)


def describe(file: ModelFile) -> dict[str, Any]:
    """What the headers say, and whether Skipstone can run it."""
    types: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        types[tensor.type] += 1
        sizes[tensor.type] += tensor.data.nbytes
    text_config = file.config.get("text_config") if isinstance(file.config.get("text_config"), dict) else {}
    config = {**file.config, **(text_config or {})}
    parameters: dict[str, Any] = {}
    for label, gguf_key, config_key in PARAMETERS:
        value = file.metadata.get(f"{file.architecture}.{gguf_key}", config.get(config_key))
        if isinstance(value, list):
            value = sorted(set(map(str, value)))
            value = "/".join(value[:4])
        if value not in (None, "", 0):
            parameters[label] = value
    runs, why = _runs(file)
    tokenizer, problem = _tokenizer(file)
    if problem and runs:
        runs, why = False, problem
    return {"path": str(file.path), "format": file.format, "architecture": file.architecture, "name": file.metadata.get("general.name"), "parameters": parameters,
            "weights": sum(int(_count(t.shape)) for t in file.tensors.values()), "tensors": len(file.tensors), "bytes": sum(sizes.values()),
            "types": {name: {"tensors": types[name], "bytes": sizes[name]} for name in sorted(types, key=lambda n: -sizes[n])},
            "runs": runs, "reason": why, "places": _places(sum(sizes.values())), **tokenizer, **_drafter(file)}


def _runs(file: ModelFile) -> tuple[bool, str | None]:
    """Can this version run the file? Records its network without loading a weight; else the reason."""
    from ..errors import SkipstoneError
    from ..models import registry
    from ..placement.sizes import SizedWeight

    drafter = registry.find(file, registry.DRAFTERS)
    try:
        if drafter:
            registry.taps(file)
            return True, "as the drafter of the model that it was made for" + (", on the processor" if drafter is registry.dflash else "")
        registry.build_network(file, make_weight=SizedWeight, program=lambda spec: None)
    except SkipstoneError as error:
        return False, str(error)
    return True, None


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _tokenizer(file: ModelFile) -> tuple[dict[str, Any], str | None]:
    """Kind, size and ends, without building it, which takes longer than all the rest; and what is wrong with it."""
    from ..errors import FileError
    from ..text.tokenizer import read_ends

    kind = file.metadata.get("tokenizer.ggml.model") if file.format == "gguf" else "tokenizer.json"
    ends, problem = None, None
    try:
        ends = read_ends(file)
    except FileError as error:
        if file.format != "gguf":
            raise
        problem = str(error)
    if ends is None:
        return {"tokenizer": kind if problem else None, "vocabulary": None, "stop_tokens": {}, "chat_template": None, "answers": None}, problem
    template = ends.chat_template
    return {"tokenizer": kind, "vocabulary": ends.tokens, "stop_tokens": {str(i): text for i, text in ends.stops.items()},
            "chat_template": hashlib.sha256(template.encode("utf-8", "replace")).hexdigest() if template else None,
            "answers": dialect_of(template, file.architecture).name if template else None}, None


def _places(weights: int) -> list[dict[str, Any]]:
    """Where a model with so many bytes of weights has room; its cache comes on top of them."""
    from .. import _native
    from .devices import memory_bytes

    places = [("cpu", memory_bytes())] + [(card["name"], card["memory"]) for card in _native.gpu_devices() if not card["problem"]]
    return [{"device": name, "memory_bytes": memory, "fits": weights < 0.9 * memory} for name, memory in places]


def _drafter(file: ModelFile) -> dict[str, Any]:
    names = file.tensors
    if any(".nextn." in n for n in names) or any(n.startswith("mtp.") for n in names):
        return {"drafter": "has its own multi-token prediction head"}
    if "assistant" in file.architecture:
        return {"drafter": "is a drafter: an assistant for Gemma 4"}
    if any("candidate_selector" in n or n.startswith("selector_predecessor") for n in names):
        return {"drafter": "is a drafter: DFlash2"}
    if "dflash" in file.architecture.lower() or ("fc.weight" in names and "hidden_norm.weight" in names):
        return {"drafter": "is a drafter: DFlash"}
    if any("_diff.weight" in n for n in names):
        return {"drafter": "has Orthrus' second attention weights"}
    return {"drafter": None}


def command(
    model: Annotated[str, typer.Argument(help="A GGUF file, a folder with safetensors, or a bundled model's name.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print where everything would go, on cards and processor, and what speed to expect.")] = False,
    memory: Annotated[Optional[str], typer.Option(help="With --plan: of each card, 12GB; without a card, of one with common speeds.")] = None,
    context: Annotated[Optional[int], typer.Option(help="With --plan: most tokens of a text.")] = None,
    kv_type: Annotated[str, typer.Option(help="With --plan: type of the cache, f16, bf16, f32, q8_0 or q4_0.")] = "f16",
    draft: Annotated[Optional[str], typer.Option(help="With --plan: the drafter's file.")] = None,
    no_draft: Annotated[bool, typer.Option("--no-draft", help="With --plan: without the drafter.")] = False,
    device: Annotated[str, typer.Option(help="With --plan: auto, cpu, cuda:0 or hip:0.")] = "auto",
    gpu_layers: Annotated[str, typer.Option(help="With --plan: how many layers on cards; auto.")] = "auto",
    cpu_experts: Annotated[str, typer.Option(help="With --plan: of how many layers the processor has the experts; auto.")] = "auto",
    threads: Annotated[Optional[int], typer.Option(help="With --plan: threads of the processor.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a model file is: architecture, sizes, types, tokenizer, drafter; with --plan where it would run."""
    with errors_as_messages():
        from ..files import open_model

        if plan:
            from .plan_table import show_plan

            show_plan(model_path(model), draft_argument(draft, no_draft), device, layers_argument("--gpu-layers", gpu_layers),
                      layers_argument("--cpu-experts", cpu_experts), memory, context, kv_type, threads, as_json)
            return

        file = open_model(model_path(model))
        said = describe(file)
        listed: list[dict[str, Any]] = []
        if tensors:
            listed = [{"name": t.name, "type": t.type, "shape": list(t.shape), "bytes": t.data.nbytes} for t in file.tensors.values()]
        if as_json:
            print_json({**said, "tensor_list": listed} if tensors else said)
            return
        out = console()
        from rich.table import Table

        out.print(f"[bold]{shown(os.path.basename(said['path'].rstrip('/')))}[/]  {said['format']}, architecture {shown(said['architecture'])}"
                  + (f", {shown(str(said['name']))}" if said["name"] else ""))
        out.print(f"{said['weights'] / 1e6:,.1f} M weights in {said['tensors']} tensors, {said['bytes'] / 1e6:,.1f} MB")
        out.print(", ".join(f"{shown(label)} {shown(str(value))}" for label, value in said["parameters"].items()))
        table = Table("type", "tensors", "MB", box=None, header_style="dim", pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for name, t in said["types"].items():
            table.add_row(name, str(t["tensors"]), f"{t['bytes'] / 1e6:,.2f}")
        out.print(table)
        vocabulary = f", {said['vocabulary']} tokens" if said["vocabulary"] else ""
        out.print(f"tokenizer: {shown(str(said['tokenizer'] or 'none'))}{vocabulary}; texts end at {shown(', '.join(said['stop_tokens'].values()) or 'nothing')}")
        out.print(f"chat template: sha256 {said['chat_template'][:16]}, answers as {said['answers']} writes them" if said["chat_template"] else "chat template: none")
        out.print(f"drafting: {said['drafter'] or 'no drafter inside'}")
        reason = shown(said["reason"] or "")
        out.print(f"runs on this version {reason}".rstrip() if said["runs"] else f"does not run on this version: {reason}", soft_wrap=True)
        for word, fits in (("fits", True), ("too small", False)):
            places = [f"{place['device']} ({place['memory_bytes'] / 2**30:.1f} GiB)" for place in said["places"] if place["fits"] is fits]
            if places:
                out.print(f"{word}: {', '.join(places)}")
        for t in listed:
            out.print(f"{shown(t['name'])}  {t['type']}  {tuple(t['shape'])}", soft_wrap=True)
