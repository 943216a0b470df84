"""skipstone: the commands and what they have in common."""
from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import bench, chat, demo, devices, info, kernels, pull, run

app = typer.Typer(name="skipstone", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  epilog="Exit codes: 0 done; 1 failed; 2 a mistake in the arguments or in a file; 130 interrupted.",
                  help="Fast, exact local decoding of Gemma 4 and Qwen with multi-token prediction.")


def _version(wanted: bool) -> None:
    if wanted:
        from .._version import __version__

        typer.echo(f"skipstone {__version__}")
        raise typer.Exit()


@app.callback()
def common(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    """Options before the command."""


for module in (demo, run, chat, bench, kernels, info, devices, pull):
    app.command(name=module.__name__.rpartition(".")[2])(module.command)


def main() -> None:
    # What a terminal cannot show is shown as ?: a model may write any character, and a path may hold any byte.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    app(prog_name="skipstone")
