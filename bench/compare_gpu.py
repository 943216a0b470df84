"""Skipstone beside llama.cpp built with CUDA, on one card and one GGUF file: passes of 1 to 16 rows after a context, and prompts.

    pip install gguf
    library=$(python bench/native_llama.py FOLDER --cuda 90)        # takes minutes
    python bench/compare_gpu.py random:qwen3-8b:Q4_K --native-library "$library" --output bench/results/NAME.json

Each engine runs in a process of its own on the same token ids, one after the other in every round; figures are medians over rounds and include the host's time.
Passes follow each other as in decoding, from the context on. A pass of ours ends with the chosen tokens of all its rows, one of llama.cpp's with the logits of all its rows: what verifying drafts needs of each. Prompts end
with the last row. The share is that of the device's own copy (bytes read and written), measured in the same run.
"""
from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import peers
from compare_cpu import bytes_a_row
from rounds import ROWS, Worker, medians

ENGINES = ("skipstone", "native")


def compare(path: str, chosen: argparse.Namespace, bytes_row: int, copy: float) -> dict[str, Any]:
    """Engine -> milliseconds a pass, share of the copy, tokens a second of prompts."""
    engines = [name for name in ENGINES if name != "native" or chosen.native_library]
    workers = {}
    for name in engines:
        worker = Worker.start(name, path, device=chosen.device, context=chosen.context, prompts=chosen.prompts, library=chosen.native_library)
        if worker:
            workers[name] = worker
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for turn in range(chosen.rounds + 1):                          # the first warms up and does not count
        for name, worker in list(workers.items()):
            figures = worker.round()
            if figures is None:
                workers.pop(name).end()
                seen.pop(name)
            elif turn:
                seen[name].append(figures)
    for worker in workers.values():
        worker.end()
    found = {}
    for name, rounds in seen.items():
        median = medians(rounds)
        ms = {k: round(1e3 * median[str(k)], 3) for k in ROWS}
        found[name] = {"ms": {str(k): v for k, v in ms.items()}, "share_of_copy": round(bytes_row / ms[1] * 1e3 / copy, 3), "t8": round(ms[8] / ms[1], 3),
                       "t16": round(ms[16] / ms[1], 3), "prompt_tokens_s": {str(n): round(n / median[f"prompt_{n}"]) for n in chosen.prompts}}
    return found


def print_table(found: dict[str, Any]) -> None:
    print(f"{'ms a pass, rows':16}" + "".join(f"{k:>7}" for k in ROWS) + f"{'of copy':>9}   prompts, tokens/s")
    for name, e in found.items():
        print(f"{name:16}" + "".join(f"{e['ms'][str(k)]:7.2f}" for k in ROWS) + f"{e['share_of_copy']:9.0%}   " + ", ".join(f"{n}: {v}" for n, v in e["prompt_tokens_s"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file, or random:SHAPE:TYPE")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--context", type=int, default=256, help="tokens in the cache while passes are measured")
    parser.add_argument("--prompts", default="512,4096", help="their lengths, between commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--native-library", default=None, help="libllama.so with CUDA, by bench/native_llama.py; without it Skipstone is measured alone")
    parser.add_argument("--output", type=Path, default=None, help="JSON")
    chosen = parser.parse_args()
    from skipstone import SkipstoneError, _native

    for option in ("rounds", "context"):
        if getattr(chosen, option) < 1:
            parser.error(f"--{option}: {getattr(chosen, option)}; expected 1 or more")
    if not all(n.isdecimal() and int(n) for n in chosen.prompts.split(",")):
        parser.error(f"--prompts: {chosen.prompts!r}; expected numbers from 1 between commas")
    chosen.prompts = [int(n) for n in chosen.prompts.split(",")]
    cards = {card["name"]: card for card in _native.gpu_devices() if not card["problem"]}
    if chosen.device not in cards:
        parser.error(f"--device: no {chosen.device} here; skipstone devices says what is, and why not")
    memory = _native.gpu_memory(int(chosen.device.partition(":")[2]))
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = peers.as_file(chosen.model, Path(folder))
            size = bytes_a_row(path)
        except SkipstoneError as error:
            parser.error(str(error))
        found = compare(path, chosen, size, memory["copy_bytes_per_second"])
    card = cards[chosen.device]
    print(f"{chosen.model}: {size / 1e9:.2f} GB a row, context {chosen.context}; {card['description']}, copy {memory['copy_bytes_per_second'] / 1e9:.0f} GB/s")
    print_table(found)
    if chosen.output:
        document = {"date": time.strftime("%Y-%m-%d"), "device": card["description"], "system": platform.platform(), "file": chosen.model, "bytes_row": size,
                    "context": chosen.context, "rounds": chosen.rounds, "copy_GBs": round(memory["copy_bytes_per_second"] / 1e9), "method": " ".join(str(__doc__).split("\n\n")[-1].split()),
                    "engines": found}
        chosen.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
