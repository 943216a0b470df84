"""Whole models: prompts, passes of 1 to 8 rows, plain and drafted decoding.

    python bench/end_to_end.py NAME Qwen3.5-4B-Q4_K_M.gguf gemma-4-12b.gguf=gemma-4-12b-assistant.gguf tiny-qwen35

Every model is a file, a folder or a bundled model's name, with a drafter's file after = where it has one of its own. Rounds go
over all models in turn, so that a change of the machine's speed meets each alike; figures are medians over rounds. Writes
bench/results/NAME.json: the machine, the read loop's speed before and after, and what skipstone bench measures of each.
"""
from __future__ import annotations

import argparse
import gc
import json
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import skipstone
from skipstone import _native
from skipstone.cli.bench import ROWS, machine, measure
from skipstone.cli.output import model_path

RESULTS = Path(__file__).resolve().parent / "results"


def middle(values: list[Any]) -> Any:
    """The median of figures, key by key and place by place in what holds them; counts and names are the same in all rounds."""
    first = values[0]
    if isinstance(first, dict):
        return {key: middle([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [middle(list(column)) for column in zip(*values, strict=False)]      # drafting may reach further in some rounds
    if isinstance(first, float):
        return statistics.median(values)
    return first


def opened(given: str, threads: int | None) -> skipstone.Model:
    """MODEL or MODEL=DRAFTER."""
    model, _, drafter = given.partition("=")
    return skipstone.load(model_path(model), draft=model_path(drafter) if drafter else "auto", threads=threads)


def rounds_of(models: list[skipstone.Model], rounds: int, context: int, prompt_tokens: int) -> list[dict[str, Any]]:
    """One entry a model: medians over `rounds` turns through all of them, and every turn's main figures."""
    turns: list[list[dict[str, Any]]] = [[] for _ in models]
    for turn in range(rounds):
        for model, seen in zip(models, turns, strict=True):
            longest = model.context_length - max(ROWS)
            seen.append(measure(model, min(context, longest), min(prompt_tokens, longest), 1))
            gc.collect()                                            # caches of this turn go before the next model's come
            print(f"round {turn + 1} of {rounds}: {model.name}: {seen[-1]['decode_tokens_per_second']:,.1f} tokens/s", file=sys.stderr)
    results = []
    for seen in turns:
        result = middle(seen)
        # Ratios of medians, rather than medians of ratios.
        result["relative"] = {k: ms / result["pass_ms"]["1"] for k, ms in result["pass_ms"].items()}
        if result["drafted"]:
            result["drafted"]["speedup"] = result["drafted"]["tokens_per_second"] / result["decode_tokens_per_second"]
        result["rounds"] = {"decode_tokens_per_second": [r["decode_tokens_per_second"] for r in seen],
                            "drafted_tokens_per_second": [r["drafted"]["tokens_per_second"] for r in seen if r["drafted"]],
                            "pass_ms": [r["pass_ms"]["1"] for r in seen]}
        results.append(result)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", help="of the file of results, without .json")
    parser.add_argument("models", nargs="+", metavar="MODEL[=DRAFTER]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--context", type=int, default=128, help="tokens in the cache while passes are measured")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="for the file of results")
    chosen = parser.parse_args()
    if not re.fullmatch(r"[\w.-]+", chosen.name):
        parser.error(f"name: {chosen.name!r}; expected letters, digits, . _ -")
    for option in ("rounds", "context", "prompt_tokens"):
        if getattr(chosen, option) < 1:
            parser.error(f"{option}: {getattr(chosen, option)}; expected 1 or more")
    try:
        models = [opened(given, chosen.threads) for given in chosen.models]
    except skipstone.SkipstoneError as error:
        parser.error(str(error))
    about = machine(models[0].threads)
    results = rounds_of(models, chosen.rounds, chosen.context, chosen.prompt_tokens)
    after = round(_native.read_bandwidth(models[0].threads) * 1e9)
    written = chosen.folder / f"{chosen.name}.json"
    written.parent.mkdir(parents=True, exist_ok=True)
    document = {"date": time.strftime("%Y-%m-%d"), "machine": {**about, "read_bytes_per_second_after": after}, "rounds": chosen.rounds,
                "models": results}
    written.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for result in results:
        relative = " ".join(f"{value:.2f}" for value in result["relative"].values())
        print(f"{result['model']}: {result['decode_tokens_per_second']:,.1f} tokens/s plain, t(k)/t(1) {relative}", end="")
        drafted = result["drafted"]
        print(f", drafted {drafted['tokens_per_second']:,.1f} ({drafted['speedup']:.2f} x, {drafted['tokens_per_pass']:.2f} a pass)"
              if drafted else "")


if __name__ == "__main__":
    main()
