"""The picture of a comparison that compare_cpu.py wrote.

    python bench/picture.py bench/results/epyc-zen4-2cores-gemma3-270m.json --threads 1
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import peers
from skipstone.cli.plot import svg


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="JSON")
    parser.add_argument("--threads", type=int, default=None, help="the run to draw; by default the last")
    parser.add_argument("--output", type=Path, default=None, help="SVG; by default beside the results, of the same name")
    chosen = parser.parse_args()
    document = json.loads(chosen.results.read_text(encoding="utf-8"))
    runs = [run for run in document["runs"] if chosen.threads in (None, run["threads"])]
    if not runs:
        parser.error(f"--threads: {chosen.threads}; {chosen.results.name} has runs with {', '.join(str(run['threads']) for run in document['runs'])}")
    output = chosen.output or chosen.results.with_suffix(".svg")
    output.write_text(svg(peers.picture(document, runs[-1])), encoding="utf-8")
    print(output)


if __name__ == "__main__":
    main()
