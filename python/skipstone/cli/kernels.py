"""skipstone kernels: how fast the matrix products of each weight type run on this machine, beside its memory's speed."""
from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .output import console, errors_as_messages, print_json, shown

if TYPE_CHECKING:
    import numpy as np

TYPES = ("Q4_K", "Q6_K", "Q8_0", "Q5_K", "Q4_0", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS", "MXFP4", "BF16", "F16")
ROWS = (1, 2, 4, 8, 16)
SHAPES = ("4096x4096", "1024x4096")
LARGEST, MOST = 1 << 20, 1024


def last_cache_bytes() -> int:
    """Bytes of the largest cache that the first core sees; 64 MiB where the system does not tell."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1:], 0))
    return max(sizes, default=64 << 20)


class Copies:
    """Laid out copies of one random weight, taken in turn: together three times the last cache, so that each comes out of memory when its turn comes.
    At most MOST of them: what is smaller then comes out of a cache."""

    def __init__(self, type: str, rows: int, columns: int) -> None:
        import numpy as np

        from .. import _native
        from ..files.random_model import random_matrix

        data = random_matrix(type, rows, columns)
        self.bytes = data.nbytes
        self.weights = [_native.Weight(type, rows, columns, data) for _ in range(min(MOST, max(2, -(-3 * last_cache_bytes() // data.nbytes))))]
        one = np.ones((1, columns), np.float32)
        for weight in self.weights:                              # the first product lays a weight out
            _native.matmul(one, weight)
        self._turn = itertools.cycle(self.weights)

    def seconds(self, x: np.ndarray, threads: int) -> float:
        """Of one product of x with the next copy."""
        from .. import _native

        weight = next(self._turn)
        start = time.perf_counter()
        _native.matmul(x, weight, threads)
        return time.perf_counter() - start


class CardCopies:
    """The same on a card: a program that multiplies one input by all copies, each out of memory, for they are three times what its caches hold."""

    CACHES = 64 << 20

    def __init__(self, type: str, rows: int, columns: int, device: str) -> None:
        import numpy as np

        from .. import _native
        from ..files.random_model import random_matrix

        data = random_matrix(type, rows, columns)
        self.bytes = data.nbytes
        self.weights = [_native.Weight(type, rows, columns, data) for _ in range(min(MOST, max(8, -(-3 * self.CACHES // data.nbytes))))]
        head = _native.Weight("F32", 32, columns, np.zeros((32, columns), np.float32).reshape(-1).view(np.uint8))
        start, end = {"kind": "input", "inputs": [], "outputs": [0]}, {"kind": "head", "inputs": [0], "outputs": [], "weight": head, "softcap": 0.0}
        products = [{"kind": "matmul", "inputs": [0], "outputs": [i + 1], "weights": [w]} for i, w in enumerate(self.weights)]
        widths = [columns, *(rows for _ in products)]
        # Without the products, and with all of them: what one costs is the difference.
        self._programs = [_native.GpuProgram({"widths": widths[:1 + len(ops)], "states": [], "ops": [start, *ops, end]}, device) for ops in (products[:1], products)]

    def seconds(self, x: np.ndarray) -> float:
        import numpy as np

        took = []
        for program in self._programs:
            for _ in range(2):                                   # the second time it is recorded
                start = time.perf_counter()
                program.run([(None, np.zeros(len(x), np.int32))], hidden=x, want="none")
            took.append(time.perf_counter() - start)
        return max(1e-9, took[1] - took[0]) / (len(self.weights) - 1)


def measure_card(types: Sequence[str], rows: Sequence[int], shapes: Sequence[tuple[int, int]], device: str, rounds: int) -> Iterator[dict[str, Any]]:
    """As measure, on a card: beside its own reads and copies."""
    import numpy as np

    from .. import _native

    memory = _native.gpu_memory(device)
    read, copy = memory["read_bytes_per_second"], memory["copy_bytes_per_second"]
    for type, (n, k) in itertools.product(types, shapes):
        copies = CardCopies(type, n, k, device)
        x = np.random.default_rng(1).standard_normal((max(rows), k), dtype=np.float32)
        times: dict[int, list[float]] = {r: [] for r in rows}
        for turn in range(rounds + 1):
            for r in rows:
                seconds = copies.seconds(x[:r])
                if turn:
                    times[r].append(seconds)
        t = {r: statistics.median(v) for r, v in times.items()}
        yield {"type": type, "shape": [n, k], "device": device, "bytes": copies.bytes, "copies": len(copies.weights), "read_bytes_per_second": round(read), "copy_bytes_per_second": round(copy),
               "rows": {str(r): {"ms": 1e3 * s, "bytes_per_second": copies.bytes / s, "share_of_read_bandwidth": copies.bytes / s / read, "share_of_copy_bandwidth": copies.bytes / s / copy,
                                 "gmacs_per_second": r * n * k / s / 1e9, "relative": s / t[rows[0]]} for r, s in t.items()}}


def measure(types: Sequence[str], rows: Sequence[int], shapes: Sequence[tuple[int, int]], threads: Sequence[int], rounds: int) -> Iterator[dict[str, Any]]:
    """One entry for each type, shape and number of threads: medians for all row counts, taken in turn, and the read loop beside them."""
    import numpy as np

    from .. import _native

    for type, (n, k) in itertools.product(types, shapes):
        copies = Copies(type, n, k)
        x = np.random.default_rng(1).standard_normal((max(rows), k), dtype=np.float32)
        for team in threads:
            times: dict[int, list[float]] = {r: [] for r in rows}
            reads = []
            for turn in range(rounds + 1):
                if turn % 8 == 0:                                # beside the products: other work on the machine changes both
                    reads.append(1e9 * _native.read_bandwidth(team, 128))
                for r in rows:
                    seconds = copies.seconds(x[:r], team)
                    if turn:                                     # the first turn warms up
                        times[r].append(seconds)
            t, bandwidth = {r: statistics.median(v) for r, v in times.items()}, statistics.median(reads)
            yield {"type": type, "shape": [n, k], "threads": team, "bytes": copies.bytes, "copies": len(copies.weights), "read_bytes_per_second": round(bandwidth), "rows": {
                str(r): {"ms": 1e3 * s, "bytes_per_second": copies.bytes / s, "share_of_read_bandwidth": copies.bytes / s / bandwidth,
                         "gmacs_per_second": r * n * k / s / 1e9, "relative": s / t[rows[0]]} for r, s in t.items()}}


def _numbers(option: str, given: str, most: int) -> list[int]:
    """Whole numbers between commas."""
    from ..errors import ArgumentError

    numbers = [int(part) if part.strip().isdecimal() else 0 for part in given.split(",")]
    if not all(1 <= n <= most for n in numbers):
        raise ArgumentError(f"{option}: {given!r}; expected whole numbers from 1 to {most} between commas")
    return numbers


def _shapes(given: str, types: Sequence[str]) -> list[tuple[int, int]]:
    """NxK between commas, where K is a multiple of every type's block."""
    from .. import _native
    from ..errors import ArgumentError

    block = {t["name"]: int(t["block"]) for t in _native.types()}
    shapes = []
    for part in given.split(","):
        sizes = _numbers("--shape", part.lower().replace("x", ","), LARGEST)
        if len(sizes) != 2:
            raise ArgumentError(f"--shape: {part!r}; expected ROWSxCOLUMNS, 4096x4096 or the like")
        for type in types:
            if sizes[1] % block[type]:
                raise ArgumentError(f"--shape: {part}; {type} needs columns that are a multiple of {block[type]}")
        shapes.append((sizes[0], sizes[1]))
    return shapes


def _types(given: str) -> list[str]:
    from .. import _native
    from ..errors import ArgumentError

    known = [str(t["name"]) for t in _native.types()]
    chosen = known if given == "all" else [part.strip().upper() for part in given.split(",")]
    for type in chosen:
        if type not in known:
            raise ArgumentError(f"--types: {type!r} is unknown; expected all, or some of {', '.join(known)} between commas")
    return chosen


def command(
    types: Annotated[str, typer.Option(help="Weight types between commas, or all.")] = ",".join(TYPES),
    rows: Annotated[str, typer.Option(help="Rows of activations a product, between commas.")] = ",".join(map(str, ROWS)),
    shape: Annotated[str, typer.Option(help="Shapes of the weight, ROWSxCOLUMNS, between commas.")] = ",".join(SHAPES),
    device: Annotated[str, typer.Option(help="Where they run: cpu, cuda:0 or hip:0; skipstone devices lists them.")] = "cpu",
    threads: Annotated[Optional[str], typer.Option(help="Threads, between commas; by default 1 and all usable cores.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to take medians over.")] = 25,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the matrix products out of memory: GB/s, share of a plain read loop's speed, and multiplications a second."""
    with errors_as_messages():
        from .. import _native
        from .bench import card, machine

        chosen, cores = _types(types), int(_native.default_threads())
        shapes, counts = _shapes(shape, chosen), _numbers("--rows", rows, 512)
        teams = _numbers("--threads", threads, 1024) if threads is not None else sorted({1, cores})
        place = _card(device)
        figures = measure(chosen, counts, shapes, teams, rounds) if place is None else measure_card(chosen, counts, shapes, place, rounds)
        about = {**machine(max(teams)), **card(device)}
        if as_json:
            print_json({"machine": about, "kernels": list(figures)})
            return
        out = console()
        if place is None:
            out.print(f"[dim]{shown(about['cpu'])}, {about['isa']}, {about['usable_cores']} usable cores, load {about['load_average'] or 0:.1f}[/]")
        else:
            out.print(f"[dim]{shown(about['card'])}, reads {about['card_read_bytes_per_second'] / 1e9:,.0f} GB/s, copies {about['card_copy_bytes_per_second'] / 1e9:,.0f} GB/s[/]")
        out.print("[dim]ms of a product; t(k)/t(1); GB/s of weights and their share of the read loop's speed; thousand million multiplications a second[/]")
        for figure in figures:
            _show(out, figure, counts)


def _card(device: str) -> str | None:
    """cuda:N or hip:N; None for cpu."""
    from ..errors import ArgumentError

    kind, _, index = device.partition(":")
    if device == "cpu":
        return None
    if kind not in ("cuda", "hip") or not index.isdecimal():
        raise ArgumentError(f"--device: {device!r}; expected cpu, or cuda:N or hip:N as skipstone devices lists it")
    return device


def _show(out: Any, figure: dict[str, Any], counts: Sequence[int]) -> None:
    """One type's table, printed as soon as it is measured."""
    from rich.table import Table

    n, k = figure["shape"]
    out.print(f"[bold]{figure['type']}[/]  {n} x {k}, {figure['bytes'] / 1e6:.1f} MB, " +
              (f"{figure['threads']} threads, read loop" if "threads" in figure else f"{figure['device']}, {figure['copies']} copies, reads") + f" {figure['read_bytes_per_second'] / 1e9:.1f} GB/s")
    table = Table("rows", *map(str, counts), box=None, header_style="dim", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    cells = [figure["rows"][str(r)] for r in counts]
    table.add_row("ms", *(f"{c['ms']:.3f}" for c in cells))
    table.add_row(f"t(k)/t({counts[0]})", *(f"{c['relative']:.2f}" for c in cells))
    table.add_row("GB/s", *(f"{c['bytes_per_second'] / 1e9:.1f}" for c in cells))
    table.add_row("share", *(f"{c['share_of_read_bandwidth']:.0%}" for c in cells))
    if "share_of_copy_bandwidth" in cells[0]:
        table.add_row("of copy", *(f"{c['share_of_copy_bandwidth']:.0%}" for c in cells))
    table.add_row("GMAC/s", *(f"{c['gmacs_per_second']:.0f}" for c in cells))
    out.print(table)
