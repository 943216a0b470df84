"""skipstone demo: the bundled models write the same text plain and drafted, side by side."""
from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import FAILED, console, errors_as_messages, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from ..decode.stats import Stats
    from ..model import Model

DRAFTS, TOKENS = 4, 128
# The models were trained on Python source: each continues the beginning of a file of its kind.
PROMPTS = {
    "tiny-qwen35": 'class Set:\n    """A set of items."""\n\n    def __init__(self, items):\n        self.items = items\n\n    def __len__(self):\n',
    "tiny-gemma4": 'class Account:\n    """A bank account."""\n\n    def __init__(self, owner):\n        self.owner = owner\n        self.balance = 0\n\n    def deposit(self, amount):\n',
}


def _stream_both(model: Model, prompt: str, out: Console) -> tuple[Any, Any]:
    """Both ways at once, pass by pass, as two columns on a terminal, one after the other elsewhere; their (text, tokens, stats)."""
    from rich.live import Live
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    ways = [("plain, one token a pass", 0), (f"drafted, {DRAFTS} drafts a pass", DRAFTS)]
    streams = [model.stream(prompt, max_tokens=TOKENS, draft_tokens=drafts, stop_at_eos=False) for _, drafts in ways]
    texts, passes = ["", ""], [0, 0]
    tokens: tuple[list[int], list[int]] = ([], [])
    stats: list[Stats | None] = [None, None]

    def columns() -> Table:
        grid = Table.grid(expand=True)
        for _ in ways:
            grid.add_column(ratio=1)
        shown = [Text("\n".join((prompt + text).splitlines()[-18:])) for text in texts]
        grid.add_row(*(Panel(s, title=f"{name}: pass {n}", height=20) for s, (name, _), n in zip(shown, ways, passes)))
        return grid

    # Without a terminal Live draws only what is there at the end.
    with Live(columns(), console=out, refresh_per_second=20, transient=False) as live:
        running = [0, 1]
        while running:
            for i in list(running):
                piece = next(streams[i], None)
                if piece is None:
                    running.remove(i)
                    continue
                texts[i] += piece.text
                tokens[i].extend(piece.tokens)
                stats[i] = piece.stats or stats[i]
                passes[i] += 1
            live.update(columns())
    if not out.is_terminal:
        out.print()                                         # which Live leaves out there
    return (texts[0], tokens[0], stats[0]), (texts[1], tokens[1], stats[1])


def _clock(model: Model, prompt: str, drafts: int) -> dict[int, float]:
    """Tokens written -> seconds since the first of them, at the end of every pass."""
    stream = model.stream(prompt, max_tokens=TOKENS, draft_tokens=drafts, stop_at_eos=False)
    written = len(next(stream).tokens)                     # the prompt is read
    start = time.perf_counter()
    clock = {written: 0.0}
    for piece in stream:
        written += len(piece.tokens)
        clock[written] = time.perf_counter() - start
    return clock


def _speeds(model: Model, prompt: str, rounds: int) -> tuple[float, float]:
    """Tokens/s plain and drafted, of runs in alternation after one of each unmeasured. The text is cut where drafted passes end, and each stretch counts
    with its best time of all runs of a way.

    What else the machine does only makes a stretch longer; it is short enough to be left alone at times even on a busy machine, and takes about
    as long one way as the other. Whole runs are left alone by luck.
    """
    ways = [[_clock(model, prompt, drafts) for drafts in (0, DRAFTS)] for _ in range(rounds + 1)][1:]
    cuts = sorted(set.intersection(*(set(clock) for pair in ways for clock in pair)))
    seconds = [sum(min(pair[way][end] - pair[way][begin] for pair in ways) for begin, end in pairwise(cuts)) for way in range(2)]
    return (cuts[-1] - cuts[0]) / seconds[0], (cuts[-1] - cuts[0]) / seconds[1]


def command(
    rounds: Annotated[int, typer.Option(min=1, help="Runs each way; of each stretch of text the best time counts.")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Watch Qwen3.5 with its MTP head and Gemma 4 with its assistant write the same text with and without drafting."""
    with errors_as_messages():
        from .. import bundled
        from ..loading import load

        out = console(stderr=as_json)
        figures = []
        for name, drafter in (("tiny-qwen35", "auto"), ("tiny-gemma4", str(bundled.GEMMA4_ASSISTANT))):
            model = load(bundled.NAMES[name], draft=drafter)
            kind = "its MTP head" if drafter == "auto" else "its assistant"
            out.print(f"\n[bold]{name}[/] ({model.architecture}) with {kind}, {model.threads} threads")
            plain, drafted = _stream_both(model, PROMPTS[name], out)
            before, after = _speeds(model, PROMPTS[name], rounds)
            equal = plain[:2] == drafted[:2]
            figures.append({"model": name, "architecture": model.architecture, "equal": equal, "tokens": len(drafted[1]), "text": drafted[0],
                            "tokens_per_pass": drafted[2].tokens_per_pass, "acceptance": drafted[2].acceptance, "plain_tokens_per_second": before,
                            "drafted_tokens_per_second": after})
            out.print(f"texts equal: {'[green]yes[/]' if equal else '[bold red]NO[/]'}, {len(drafted[1])} tokens, the same bits plain and drafted" if equal else
                      "texts equal: [bold red]NO[/]")
            out.print(f"tokens a pass: {drafted[2].tokens_per_pass:.2f}; accepted by draft position: {' '.join(f'{a:.2f}' for a in drafted[2].acceptance)}")
            out.print(f"tokens/s: {before:,.0f} plain, {after:,.0f} drafted, [bold]{after / before:.2f} x[/] (best of {rounds} runs each, stretch by stretch)")
        if as_json:
            print_json({"models": figures})
        if not all(f["equal"] for f in figures):
            raise typer.Exit(FAILED)
