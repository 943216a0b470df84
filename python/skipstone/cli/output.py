"""What the commands share: consoles, JSON, and errors as one line with an exit code."""
from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from ..decode.stats import Stats

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def console(stderr: bool = False) -> Console:
    """A rich console that has colours only on a terminal and not under NO_COLOR."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=plain) + "\n")
    sys.stdout.flush()                                  # here a reader that has gone is still noticed as one


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """A user's mistake or a bad file ends the command with one line on standard error, not with a traceback."""
    import typer

    from ..errors import SkipstoneError

    try:
        yield
    except SkipstoneError as error:
        console(stderr=True).print(f"[bold red]error:[/] {shown(str(error))}", soft_wrap=True)
        raise typer.Exit(USAGE) from None
    except KeyboardInterrupt:
        console(stderr=True).print("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        _give_up_output()
        raise typer.Exit(0) from None
    except OSError as error:
        # Files of models raise FileError: this is the output, say on a full disk.
        _give_up_output()
        console(stderr=True).print(f"[bold red]error:[/] {shown(str(error))}", soft_wrap=True)
        raise typer.Exit(FAILED) from None


def _give_up_output() -> None:
    """Nobody takes the output any more; flushing the rest of it at exit would complain once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    """Text of files and models without control characters, which could steer the terminal; newlines and tabs stay."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}" for c in text)


def shown(text: str) -> str:
    """The same for printing with rich: what looks like its markup stays as it is."""
    from rich.markup import escape

    return escape(printable(text))


def standard_input() -> str:
    """All of standard input, as text."""
    from ..errors import ArgumentError

    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise ArgumentError(f"standard input is no {error.encoding} text: {where}; give it a text, or change its encoding") from None


JSON_SCHEMA_HELP = "Write JSON that this schema allows: its text, or a file with it; true for any JSON."
REGEX_HELP = "Write what this regular expression matches."
GRAMMAR_HELP = "Write what this grammar allows, Lark or GBNF: its text, or a file with it."


def read_text(path: str) -> str:
    """A file's text; ArgumentError where it cannot be read."""
    from ..errors import ArgumentError

    try:
        with open(path, encoding="utf-8") as file:
            return file.read(64 << 20)
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path}: the file cannot be read ({getattr(error, 'strerror', None) or error}); expected UTF-8 text") from None


def text_or_file(name: str, given: str | None) -> str | None:
    """The text of an option that may name a file in its place."""
    from ..errors import ArgumentError

    if given is None or not given.strip():
        return given
    if os.path.isfile(given) or given.endswith((".json", ".lark", ".gbnf")) and "\n" not in given:
        try:
            return read_text(given)
        except ArgumentError as error:
            raise ArgumentError(f"{name}: {error}") from None
    return given


def figures(stats: Stats) -> dict[str, Any]:
    """Stats for JSON."""
    return {**asdict(stats), "tokens_per_second": stats.tokens_per_second, "prompt_tokens_per_second": stats.prompt_tokens_per_second,
            "tokens_per_pass": stats.tokens_per_pass, "acceptance": stats.acceptance}


def draft_tokens_argument(given: str) -> Any:
    """What generate takes as draft_tokens for --draft-tokens."""
    from ..errors import ArgumentError

    if not re.fullmatch(r"auto|[0-9]{1,9}", given):
        raise ArgumentError(f"--draft-tokens: {given!r}; expected auto or a number from 0 to 15")
    return given if given == "auto" else int(given)


def draft_argument(draft: str | None, no_draft: bool) -> Any:
    """What load takes as draft for --draft and --no-draft."""
    from ..errors import ArgumentError

    if no_draft and draft is not None:
        raise ArgumentError("--draft and --no-draft exclude each other; give one of them")
    return False if no_draft else "auto" if draft is None else draft if draft == "ngram" else model_path(draft)


def layers_argument(name: str, given: str) -> Any:
    """What load takes for --gpu-layers and --cpu-experts."""
    from ..errors import ArgumentError

    if not re.fullmatch(r"auto|[0-9]{1,6}", given):
        raise ArgumentError(f"{name}: {given!r}; expected auto or a number of layers")
    return given if given == "auto" else int(given)


def model_path(model: str) -> str:
    """The path of a model: as given, that of a bundled model of this name, or of one from the hub, downloaded if need be."""
    from .. import bundled
    from ..errors import ArgumentError
    from ..files import hub

    if not model:                                       # which pathlib takes for the current folder
        raise ArgumentError("the path of a model or drafter is empty; expected a file, a folder or a bundled model's name")
    return os.fspath(hub.resolve(model if os.path.exists(model) else str(bundled.NAMES.get(model, model))))
