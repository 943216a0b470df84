"""Skipstone beside llama.cpp and ik_llama.cpp on one GGUF file: passes of 1 to 16 rows, and a prompt.

    pip install xllamacpp ik-llama-cpp-python==0.1.5 gguf
    python bench/compare_cpu.py gemma-3-270m-Q4_K_M.gguf --threads 1,2 --output bench/results/NAME.json
    python bench/compare_cpu.py random:qwen3.5-0.8b:Q4_K_M --context 4096

Engines: skipstone; llama (llama.cpp in the wheel xllamacpp); ik (ik_llama.cpp in the wheel ik-llama-cpp-python, weights repacked at load); native (llama.cpp
built for this machine from PyPI's source of llama_cpp_python 0.3.36; --native-library names its libllama.so, see --help). Each runs in a process of its own,
all on the same token ids, one after the other in every round; figures are medians over rounds, logits of every row included. The load average and a plain
read loop are measured in every round. A random model is written to a temporary file for the peers and removed at the end.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import peers
from rounds import ROWS, Worker, medians

ENGINES = ("skipstone", "llama", "ik", "native")


def compare(path: str, threads: int, chosen: argparse.Namespace, bytes_row: int) -> dict[str, Any]:
    """All engines with so many threads: milliseconds, shares of the read loop, and the loads seen."""
    from skipstone import _native

    workers = {name: w for name in chosen.engines if (w := Worker.start(name, path, threads=threads, context=chosen.context, prompts=[chosen.prompt_tokens],
                                                                       library=chosen.native_library)) is not None}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    reads, loads = [], []
    for turn in range(chosen.rounds):
        reads.append(_native.read_bandwidth(threads, 512))
        loads.append(os.getloadavg()[0])
        for name, worker in list(workers.items()):
            figures = worker.round()
            if figures is None:
                workers.pop(name).end()
                rounds.pop(name)
            else:
                rounds[name].append(figures)
        print(f"{threads} threads, round {turn + 1} of {chosen.rounds}: load {loads[-1]:.1f}, read loop {reads[-1]:.1f} GB/s", file=sys.stderr)
    for worker in workers.values():
        worker.end()
    read = statistics.median(reads)
    engines = {}
    for name, seen in rounds.items():
        median = medians(seen)
        ms = {k: 1e3 * median[str(k)] for k in ROWS}
        engines[name] = {"ms": {str(k): round(v, 3) for k, v in ms.items()}, "share": round(bytes_row / ms[1] / 1e6 / read, 3), "tokens_s": round(1e3 / ms[1], 1),
                         "t4": round(ms[4] / ms[1], 2), "t8": round(ms[8] / ms[1], 2),
                         "prompt_tokens_s": round(chosen.prompt_tokens / median[f"prompt_{chosen.prompt_tokens}"], 1)}
    return {"threads": threads, "read_loop_GBs": [round(v, 2) for v in (min(reads), read, max(reads))], "load": round(statistics.median(loads), 2), "engines": engines}


def print_table(run: dict[str, Any]) -> None:
    low, read, high = run["read_loop_GBs"]
    print(f"\n{run['threads']} threads; read loop {read:.1f} GB/s ({low:.1f} to {high:.1f}), load {run['load']}")
    print(f"{'ms a pass, rows':16}" + "".join(f"{k:>8}" for k in ROWS) + f"{'prompt/s':>10}{'share':>7}{'t(4)':>6}{'t(8)':>6}")
    for name, e in run["engines"].items():
        print(f"{name:16}" + "".join(f"{e['ms'][str(k)]:8.2f}" for k in ROWS) + f"{e['prompt_tokens_s']:10.0f}{e['share']:7.0%}{e['t4']:6.2f}{e['t8']:6.2f}")


def bytes_a_row(path: str) -> int:
    """What a pass over one row reads: as skipstone counts it, from the headers."""
    from skipstone.files import open_model
    from skipstone.models import registry
    from skipstone.placement.sizes import SizedWeight

    return registry.build_network(open_model(path), make_weight=SizedWeight, program=lambda spec: None).bytes_per_row


def check(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """Turns the engines into a list; ends the program where an option makes no sense."""
    names = chosen.engines.split(",")
    if unknown := [name for name in names if name not in ENGINES]:
        parser.error(f"--engines: {unknown[0]!r}; expected some of {', '.join(ENGINES)} between commas")
    chosen.engines = [name for name in names if name != "native" or chosen.native_library]
    if not chosen.engines:
        parser.error("--engines: native needs --native-library, a libllama.so that bench/native_llama.py builds")
    if chosen.threads and not all(n.isdecimal() and 1 <= int(n) <= 255 for n in chosen.threads.split(",")):
        parser.error(f"--threads: {chosen.threads!r}; expected numbers from 1 to 255 between commas")
    for option in ("rounds", "context", "prompt_tokens"):
        if getattr(chosen, option) < 1:
            parser.error(f"--{option.replace('_', '-')}: {getattr(chosen, option)}; expected 1 or more")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file, or random:SHAPE:TYPE")
    parser.add_argument("--threads", default=None, help="between commas; by default all usable cores")
    parser.add_argument("--context", type=int, default=128, help="tokens in the cache while passes are measured")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", default=",".join(ENGINES), help=f"between commas, of {', '.join(ENGINES)}")
    parser.add_argument("--native-library", default=os.environ.get("SKIPSTONE_LLAMA_LIBRARY"), help="libllama.so built for this machine, by bench/native_llama.py; without it that "
                        "engine is left out")
    parser.add_argument("--output", type=Path, default=None, help="JSON")
    parser.add_argument("--plot", type=Path, default=None, help="SVG of the run with most threads")
    chosen = parser.parse_args()
    from skipstone import SkipstoneError, _native
    from skipstone.cli.bench import machine

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))          # so that a random model's file goes
    check(parser, chosen)
    teams = [int(n) for n in chosen.threads.split(",")] if chosen.threads else [_native.default_threads()]
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = peers.as_file(chosen.model, Path(folder))
            size = bytes_a_row(path)
        except SkipstoneError as error:
            parser.error(str(error))
        runs = []
        for threads in teams:
            runs.append(compare(path, threads, chosen, size))
            print_table(runs[-1])
    document = {"date": time.strftime("%Y-%m-%d"), "file": os.path.basename(chosen.model), "bytes_row": size, "context": chosen.context, "rounds": chosen.rounds,
                "prompt_tokens": chosen.prompt_tokens, "machine": machine(max(teams)), "system": platform.platform(), "peers": peers.versions(chosen.native_library),
                "method": "each engine in its own process, interleaved rounds, medians; milliseconds a pass of k rows after the context, logits of all rows", "runs": runs}
    if chosen.output:
        chosen.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if chosen.plot:
        from skipstone.cli.plot import svg

        chosen.plot.write_text(svg(peers.picture(document, runs[-1])), encoding="utf-8")


if __name__ == "__main__":
    main()
