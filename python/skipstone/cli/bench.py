"""skipstone bench: how fast a model runs on this machine, and how close to its memory's speed."""
from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .output import console, draft_argument, errors_as_messages, model_path, print_json, shown

if TYPE_CHECKING:
    from ..decode.stats import Stats
    from ..model import Model

ROWS = tuple(range(1, 9))


def machine(threads: int) -> dict[str, Any]:
    """What a figure needs beside it to mean something."""
    import numpy as np

    from ..decode.stats import read_bandwidth
    from ..loading import devices
    from .._version import __version__

    cpu = devices()[0]
    return {"skipstone": __version__, "python": platform.python_version(), "numpy": np.__version__, "cpu": cpu.description, "isa": cpu.isa, "usable_cores": cpu.threads, "threads": threads,
            "read_bytes_per_second": round(read_bandwidth(threads)), "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}


def card(device: str) -> dict[str, Any]:
    """The card that a model runs on, and its memory's speeds; empty for the processor."""
    from .. import _native

    if device == "cpu":
        return {}
    memory = _native.gpu_memory(device)
    description = next(d["description"] for d in _native.gpu_devices() if d["name"] == device)
    return {"card": description, **{f"card_{what}_bytes_per_second": round(memory[f"{what}_bytes_per_second"]) for what in ("read", "copy")}}


def load_figures(model: Model) -> dict[str, Any]:
    """What loading took, and the most memory that the process has held resident so far."""
    stats = model.load_stats
    assert stats is not None
    return {"seconds": stats.seconds, "weights_seconds": stats.weights_seconds, "bytes": stats.bytes, "bytes_per_second": stats.bytes_per_second,
            "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """The most memory that this process has held resident, pages of mapped files included."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most << 10


def _given(model: str | None, random: str | None, type: str | None) -> str:
    """What load takes for MODEL or --random SHAPE --type TYPE."""
    from ..errors import ArgumentError

    if (model is None) == (random is None):
        raise ArgumentError("expected one model, or --random SHAPE")
    if random is None:
        if type is not None:
            raise ArgumentError(f"--type {type} goes with --random; a file's types are its own")
        return model_path(model or "")
    return f"random:{random}:{type}" if type else f"random:{random}"


def _rates(text: str) -> list[float]:
    """"0.85,0.7" as numbers: how often the first draft of a pass is right, how often the first two are, and so on."""
    from ..errors import ArgumentError

    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 <= later <= earlier <= 1 for earlier, later in zip([1.0, *found], found)):
        raise ArgumentError(f"--acceptance: {text!r}; expected rates from 0 to 1 between commas that never grow: a draft is right only if all before it are")
    return found


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(model: Model, context: int, prompt_tokens: int, rounds: int, acceptance: list[float] | None = None) -> dict[str, Any]:
    """Medians over interleaved rounds: a prompt, passes of 1 to 8 rows after `context` tokens, plain and drafted decoding.

    acceptance: of drafted decoding, instead of the model's own.
    """
    import numpy as np

    from .. import _native

    ids = np.random.default_rng(0).integers(10, min(model.vocab_size, 30000), max(context + max(ROWS), prompt_tokens)).tolist()
    about = card(model.device)
    reads: list[float] = [about["card_read_bytes_per_second"]] if about else []
    prompt: list[float] = []
    passes: dict[int, list[float]] = {k: [] for k in ROWS}
    session = model.session(draft=False)
    session.forward(ids[:context], logits=None)
    for k in ROWS:                                        # every row count once, unmeasured
        session.forward(ids[context:context + k], logits="all")
        session.rollback(context)
    for _ in range(rounds):
        if not about:
            reads.append(1e9 * _native.read_bandwidth(model.threads))     # beside the passes: other work changes both
        fresh = model.session(draft=False)
        prompt.append(_seconds(lambda: fresh.forward(ids[:prompt_tokens], logits="last")))
        for k in ROWS:
            for _ in range(3):
                passes[k].append(_seconds(lambda: session.forward(ids[context:context + k], logits="all")))  # noqa: B023
                session.rollback(context)
    text = [int(t) for t in model.tokenizer.encode("import os\n\n\ndef main(", special=True)] if model.tokenizer else ids[:16]
    plain: list[Stats] = []
    drafted: list[Stats] = []
    for _ in range(rounds):
        plain.append(model.generate(text, max_tokens=64, draft_tokens=0, stop_at_eos=False).stats)
        if model.drafter and acceptance:
            from ..decode import simulated

            drafted.append(simulated.decode(model, text, 256, acceptance, len(drafted)))
        elif model.drafter:
            drafted.append(model.generate(text, max_tokens=64, draft_tokens="auto", stop_at_eos=False).stats)
    t = {k: statistics.median(v) for k, v in passes.items()}
    bandwidth = statistics.median(reads)
    result: dict[str, Any] = {
        "model": model.name, "architecture": model.architecture, "context": context, "bytes_per_pass": model.bytes, "prompt_tokens": prompt_tokens,
        "prompt_tokens_per_second": prompt_tokens / statistics.median(prompt), "pass_ms": {str(k): 1e3 * v for k, v in t.items()},
        "relative": {str(k): v / t[1] for k, v in t.items()}, "read_bytes_per_second": round(bandwidth),
        "share_of_read_bandwidth": model.bytes / t[1] / bandwidth, "share_of_copy_bandwidth": model.bytes / t[1] / about["card_copy_bytes_per_second"] if about else None,
        "decode_tokens_per_second": statistics.median(s.tokens_per_second for s in plain), "drafted": None,
    }
    if drafted:
        middle = sorted(drafted, key=lambda s: s.tokens_per_second)[len(drafted) // 2]
        result["drafted"] = {"tokens_per_second": middle.tokens_per_second, "tokens_per_pass": middle.tokens_per_pass, "acceptance": middle.acceptance, "simulated": acceptance,
                             "times_plain": middle.tokens_per_second / result["decode_tokens_per_second"], "draft_share": middle.draft_seconds / middle.decode_seconds}
    return result


def command(
    model: Annotated[Optional[str], typer.Argument(help="A GGUF file, a folder with safetensors, or a bundled model's name.")] = None,
    random: Annotated[Optional[str], typer.Option(metavar="SHAPE", help="Instead of a model: random weights in a released model's exact shape, qwen3-8b or the like.")] = None,
    type: Annotated[Optional[str], typer.Option(help="With --random: the type of its weights, Q4_K_M by default.")] = None,
    draft: Annotated[Optional[str], typer.Option(help="A drafter's file or name, or ngram; by default the model's own head or the file beside it.")] = None,
    no_draft: Annotated[bool, typer.Option("--no-draft", help="Measure without a drafter.")] = False,
    acceptance: Annotated[Optional[str], typer.Option(metavar="RATES", help="Count drafts as right at these rates, 0.85,0.77,0.68,0.6 or the like, a draft for each: what a "
                                                      "shape with random weights would gain. By default as the model finds them.")] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda:0 or hip:0; skipstone devices lists them.")] = "cpu",
    threads: Annotated[Optional[int], typer.Option(help="Threads; by default all usable cores.")] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens in the cache while passes are measured.")] = 128,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the measured prompt.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to take medians over.")] = 5,
    plot: Annotated[Optional[Path], typer.Option(metavar="FILE.svg", help="Draw the passes, the roofline and the accepted drafts.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure loading, prompt, decode and verify speed, and the share of the memory's speed that a pass reaches."""
    with errors_as_messages():
        from ..errors import ArgumentError
        from ..loading import load

        wanted = _rates(acceptance) if acceptance is not None else None
        if plot is not None and (plot.suffix.lower() != ".svg" or not plot.parent.is_dir()):
            raise ArgumentError(f"--plot: {plot}; expected a file name that ends in .svg, in a folder that exists")
        loaded = load(_given(model, random, type), draft=draft_argument(draft, no_draft), device=device, threads=threads)
        if wanted and loaded.drafter is None:
            raise ArgumentError(f"--acceptance: {loaded.name} has no drafter")
        longest = max(context + max(ROWS), prompt_tokens)
        if longest > loaded.context_length:
            raise ArgumentError(f"--context and --prompt-tokens need {longest} tokens; {loaded.name} takes {loaded.context_length}")
        result = {"load": load_figures(loaded), **measure(loaded, context, prompt_tokens, rounds, wanted), "machine": {**machine(loaded.threads), **card(loaded.device)}}
        if plot is not None:
            from .plot import of_bench, svg

            plot.write_text(svg(of_bench(result)), encoding="utf-8")
        if as_json:
            print_json(result)
            return
        from rich.table import Table

        out, about = console(), result["machine"]
        out.print(f"[bold]{shown(result['model'])}[/]  {shown(result['architecture'])}, {result['bytes_per_pass'] / 1e6:,.1f} MB of weights a pass, context {context}")
        if "card" in about:
            out.print(f"[dim]{shown(about['card'])}, reads {about['card_read_bytes_per_second'] / 1e9:,.0f} GB/s, copies {about['card_copy_bytes_per_second'] / 1e9:,.0f} GB/s[/]")
        else:
            out.print(f"[dim]{shown(about['cpu'])}, {about['isa']}, {about['threads']} threads, reads {result['read_bytes_per_second'] / 1e9:.1f} GB/s, load {about['load_average']:.1f}[/]")
        took = result["load"]
        out.print(f"loaded in {took['seconds']:.2f} s, the weights at {took['bytes_per_second'] / 1e9:.2f} GB/s; "
                  f"at most {took['peak_bytes'] / 1e6:,.0f} MB of memory for {took['bytes'] / 1e6:,.0f} MB of tensors")
        table = Table("rows", *map(str, ROWS), box=None, header_style="dim", pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        table.add_row("ms", *(f"{result['pass_ms'][str(k)]:.2f}" for k in ROWS))
        table.add_row("t(k)/t(1)", *(f"{result['relative'][str(k)]:.2f}" for k in ROWS))
        out.print(table)
        out.print(f"prompt of {prompt_tokens}: {result['prompt_tokens_per_second']:,.0f} tokens/s")
        out.print(f"plain decoding: {result['decode_tokens_per_second']:,.1f} tokens/s; a pass reads at {result['share_of_read_bandwidth']:.0%} of the read loop's speed" +
                  (f", {result['share_of_copy_bandwidth']:.0%} of the copy's" if result["share_of_copy_bandwidth"] else ""))
        if result["drafted"]:
            d = result["drafted"]
            right = " ".join(f"{rate:.2f}" for rate in d["acceptance"])
            if wanted:
                out.print("how many drafts are right is drawn from the given rates; what drafting costs is measured")
            elif random:
                out.print("the drafter's weights are random too: what it costs is measured, what it would bring is not")
            out.print(f"drafted: {d['tokens_per_second']:,.1f} tokens/s, {d['tokens_per_pass']:.2f} tokens a pass, {d['times_plain']:.2f} x plain, {d['draft_share']:.0%} of the time for drafts" + (f"; accepted by position {right}" if right else ""))
