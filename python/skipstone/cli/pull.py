"""skipstone pull: download a model from the Hugging Face hub."""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import console, errors_as_messages, print_json, shown


def command(
    name: Annotated[str, typer.Argument(help="org/repo, or org/repo:QUANT for one of several quantizations.")],
    list_only: Annotated[bool, typer.Option("--list", help="Only list what the repository offers.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Ask the hub for a newer version, though the files are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Download a model, or what of it is missing, and print where it lies. Every command takes such a name in place of a path."""
    with errors_as_messages():
        from ..errors import ArgumentError
        from ..files import hub

        wanted = hub.hub_name(name)
        if wanted is None:
            raise ArgumentError(f"{name}: " + ("this is a file or folder, not a name on the hub" if os.path.exists(name) else
                                               "no name on the hub; expected org/repo or org/repo:QUANT"))
        if list_only:
            _list(wanted, as_json)
            return
        if not sys.stderr.isatty():
            _no_bars()
        there = None if update else hub.find(wanted)
        path = there or hub.pull(wanted)
        if as_json:
            print_json({"name": str(wanted), "path": str(path), "bytes": _bytes(path), "downloaded": there is None})
        else:
            print(path)
            console(stderr=True).print(f"[dim]{'downloaded' if there is None else 'was there already'}: {_bytes(path) / 1e9:,.2f} GB[/]")


def _no_bars() -> None:
    try:
        from huggingface_hub.utils import disable_progress_bars
    except ImportError:
        return                                              # hub says what is missing
    disable_progress_bars()


def _bytes(path: Path) -> int:
    from ..files.shards import part_paths

    files = list(path.iterdir()) if path.is_dir() else part_paths(path)
    return sum(file.stat().st_size for file in files if file.is_file())


def _list(wanted: Any, as_json: bool) -> None:
    from rich.table import Table

    from ..files import hub

    sizes = dict(hub.listed(wanted))
    offered: list[dict[str, Any]] = [{"quantization": choice.quantization, "files": list(choice.files), "drafters": list(choice.drafters),
                                      "bytes": sum(sizes[file] for file in choice.files)} for choice in hub.choices(sizes)]
    offered.sort(key=lambda choice: choice["bytes"])
    if as_json:
        print_json({"name": wanted.repo, "choices": offered})
        return
    out = console()
    if not offered:
        out.print(f"{shown(wanted.repo)} holds no model that Skipstone could read")
        return
    table = Table("quantization", "GB", "files", "drafter", box=None, header_style="dim", pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    for choice in offered:
        table.add_row(shown(choice["quantization"] or ("safetensors" if choice["files"][0].endswith(".safetensors") else "-")), f"{choice['bytes'] / 1e9:,.2f}",
                      str(len(choice["files"])), shown(", ".join(choice["drafters"])))
    out.print(table)
    out.print(f"[dim]skipstone pull {shown(wanted.repo)}:QUANT downloads one[/]")
