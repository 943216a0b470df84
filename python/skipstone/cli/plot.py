"""Pictures of what skipstone bench measures, as plain SVG that reads in light and dark.

Panels: milliseconds of a pass over k rows above the memory's floor; the roofline, rows a second under what the memory and the arithmetic allow;
and, where drafts were verified, how many were accepted by position.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 340, 280, 52, 50, 40, 16
COLOURS = ("#2f6fde", "#d97a1d", "#7a5bc7", "#2c9a6a")
STYLE = """text{font:12px system-ui,sans-serif;fill:#24292f}.dim{fill:#6b7480}.head{font-weight:600}.grid{stroke:#8886;stroke-width:.6}
.floor{stroke:#6b7480;stroke-dasharray:5 3;fill:none;stroke-width:1.4}.line{fill:none;stroke-width:2}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#9aa4b0}.floor{stroke:#9aa4b0}}"""


@dataclass
class Picture:
    """curves: by engine, milliseconds a pass by rows. floor_ms: of reading the weights once at the read loop's speed. prompt: tokens a second
    by engine. acceptance: by draft position, 0 to 1."""

    title: str
    curves: Mapping[str, Mapping[int, float]]
    floor_ms: float
    prompt: Mapping[str, float] = field(default_factory=dict)
    acceptance: Sequence[float] = ()


def of_bench(result: Mapping[str, Any]) -> Picture:
    """The picture of what `skipstone bench --json` prints."""
    about = result["machine"]
    floor = 1e3 * result["bytes_per_pass"] / result["read_bytes_per_second"]
    return Picture(f"{result['model']}, {about['threads']} threads, {about['isa']}", {"Skipstone": {int(k): float(ms) for k, ms in result["pass_ms"].items()}}, floor,
                   {"Skipstone": result["prompt_tokens_per_second"]}, (result["drafted"] or {}).get("acceptance", ()))


def svg(picture: Picture) -> str:
    """The whole picture."""
    panels = [_passes(picture), _roofline(picture)]
    if picture.acceptance:
        panels.append(_accepted(picture.acceptance))
    wide = WIDTH * len(panels)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {HEIGHT}" width="{wide}" height="{HEIGHT}" role="img">',
             f"<title>{escape(picture.title)}</title>", f"<style>{STYLE}</style>", _text(8, 18, picture.title, "head")]
    for i, panel in enumerate(panels):
        parts.append(f'<g transform="translate({i * WIDTH},0)">{panel}</g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass
class _Axes:
    """From values to places in a panel. The vertical axis begins at 0 unless it is logarithmic."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log: bool = False

    def x(self, value: float) -> float:
        return LEFT + self._share(value, self.x_range) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - self._share(value, self.y_range) * (HEIGHT - TOP - BOTTOM)

    def _share(self, value: float, limits: tuple[float, float]) -> float:
        low, high = limits
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low)

    def frame(self, heading: str, below: str, xs: Sequence[float], ys: Sequence[float], form: str = "{:,g}") -> str:
        parts = [_text(LEFT, TOP - 12, heading, "dim")]
        for value in ys:
            parts.append(f'<path class="grid" d="M{LEFT} {self.y(value):.1f}H{WIDTH - RIGHT}"/>')
            parts.append(_text(LEFT - 6, self.y(value) + 4, form.format(value), "dim", "end"))
        parts += [_text(self.x(value), HEIGHT - BOTTOM + 16, f"{value:g}", "dim", "middle") for value in xs]
        return "".join([*parts, _text(WIDTH / 2 + 18, HEIGHT - 6, below, "dim", "middle")])

    def line(self, points: Sequence[tuple[float, float]], style: str, dots: str = "") -> str:
        """style: attributes of the line. dots: the colour of a dot at each point, if any."""
        path = "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
        return f'<path {style} d="{path}"/>' + "".join(f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="2.6" fill="{dots}"/>' for x, y in points if dots)


def _passes(picture: Picture) -> str:
    """t(k): where the floor is near, drafts are free."""
    rows = sorted({k for curve in picture.curves.values() for k in curve})
    most = max(picture.floor_ms, *(ms for curve in picture.curves.values() for ms in curve.values()))
    ticks = _ticks(most)
    axes = _Axes((min(rows) - 0.5, max(rows) + 0.5), (0, max(ticks[-1], most)))
    parts = [axes.frame("milliseconds a pass", "rows (a token and its drafts)", _some(rows), ticks)]
    parts.append(axes.line([(axes.x_range[0], picture.floor_ms), (axes.x_range[1], picture.floor_ms)], 'class="floor"'))
    for i, (name, curve) in enumerate(picture.curves.items()):
        points = sorted(curve.items())
        parts.append(axes.line(points, f'class="line" stroke="{COLOURS[i % 4]}"', COLOURS[i % 4]))
    parts += _legend([f"{name}: {curve[1]:.3g} ms for 1" if 1 in curve else name for name, curve in picture.curves.items()],
                     f"weights read once: {picture.floor_ms:.3g} ms")
    return "".join(parts)


def _roofline(picture: Picture) -> str:
    """Rows a second over rows: the memory's roof rises, the arithmetic's is flat."""
    rows = sorted({k for curve in picture.curves.values() for k in curve})
    speeds = {name: {k: 1e3 * k / ms for k, ms in curve.items()} for name, curve in picture.curves.items()}
    roof = max(picture.prompt.values(), default=math.inf)
    values = [v for curve in speeds.values() for v in curve.values()]
    low, high = 0.8 * min(values), 1.6 * max([*values, *picture.prompt.values()])
    axes = _Axes((0.9 * min(rows), 1.1 * max(rows)), (low, high), log=True)
    parts = [axes.frame("rows a second (both axes logarithmic)", "rows", [k for k in (1, 2, 4, 8, 16) if k in rows], _decades(low, high))]
    reach = [k for k in _steps(*axes.x_range) if low <= 1e3 * k / picture.floor_ms <= min(high, roof)]
    if len(reach) > 1:
        parts.append(axes.line([(k, 1e3 * k / picture.floor_ms) for k in reach], 'class="floor"'))
        middle = reach[len(reach) // 2]
        parts.append(_text(axes.x(middle) - 6, axes.y(1e3 * middle / picture.floor_ms) - 4, "memory", "dim", "end"))
    for i, (name, curve) in enumerate(speeds.items()):
        if name in picture.prompt:
            parts.append(axes.line([(axes.x_range[0], picture.prompt[name]), (axes.x_range[1], picture.prompt[name])], f'class="floor" style="stroke:{COLOURS[i % 4]}"'))
            parts.append(_text(WIDTH - RIGHT, axes.y(picture.prompt[name]) - 4, f"prompt: {picture.prompt[name]:,.0f} tokens/s", "dim", "end"))
        parts.append(axes.line(sorted(curve.items()), f'class="line" stroke="{COLOURS[i % 4]}"', COLOURS[i % 4]))
    return "".join(parts)


def _accepted(rates: Sequence[float]) -> str:
    """Bars: of the drafts at a position, how many were accepted."""
    axes = _Axes((0.3, len(rates) + 0.7), (0, 1))
    parts = [axes.frame("accepted drafts, of those made", "draft position", _some(range(1, len(rates) + 1)), (0, 0.25, 0.5, 0.75, 1), "{:.0%}")]
    half = 0.35 * (axes.x(2) - axes.x(1)) if len(rates) > 1 else 40
    for i, rate in enumerate(rates, 1):
        top = axes.y(min(1.0, rate))
        parts.append(f'<rect x="{axes.x(i) - half:.1f}" y="{top:.1f}" width="{2 * half:.1f}" height="{max(0.0, axes.y(0) - top):.1f}" rx="2" fill="{COLOURS[0]}"/>')
        if len(rates) <= 8:
            parts.append(_text(axes.x(i), top - 4, f"{rate:.2f}", "", "middle"))
    return "".join(parts)


def _legend(names: Sequence[str], floor: str) -> list[str]:
    """The curves' names, and that of the dashed line."""
    y = TOP + 8 + 17 * len(names)
    parts = [f'<path class="floor" d="M{LEFT + 6} {y}h14"/>', _text(LEFT + 24, y + 4, floor, "dim")]
    for i, name in enumerate(names):
        y = TOP + 12 + 17 * i
        parts.append(f'<rect x="{LEFT + 8}" y="{y - 9}" width="10" height="10" rx="2" fill="{COLOURS[i % 4]}"/>' + _text(LEFT + 24, y, name))
    return parts


def _text(x: float, y: float, text: str, cls: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"' + (f' class="{cls}"' if cls else "") + (f' text-anchor="{anchor}"' if anchor != "start" else "") + f">{escape(text)}</text>"


def _ticks(most: float) -> list[float]:
    """0 and up to six round steps, the last at or above `most`."""
    power = 10.0 ** math.floor(math.log10(most / 4))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if most / (s * power) <= 5)
    return [i * step for i in range(math.ceil(most / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between; fewer over a wide range."""
    steps = (1, 2, 5) if high / low < 300 else (1,)
    return [s * 10.0**p for p in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for s in steps if low <= s * 10.0**p <= high]


def _steps(low: float, high: float) -> list[float]:
    return [low * (high / low) ** (i / 64) for i in range(65)]


def _some(values: Sequence[int]) -> list[float]:
    """At most nine of them."""
    return [float(v) for v in values if len(values) <= 9 or v in (1, 2, 4, 8, 12, 16)]
