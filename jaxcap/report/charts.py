"""Training curves as small SVG charts, one per metric.

Metrics have different scales (CIDEr-D of drawn scenes is five times BLEU-4), so each has its own
chart. A chart shows one metric for several splits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

MAX_POINTS = 300
MAX_DOTS = 40
"""Longest series with marked points."""

WIDTH, HEIGHT = 300, 170
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 26

COLOURS, DASHES = 6, 4
"""Numbers of classes in page.css; together they distinguish COLOURS·DASHES series."""

_TINY = 1e-300
"""Smaller numbers count as 0; powers of ten do not reach them."""

Points = list[tuple[float, float]]


def number(value: float, digits: int = 1) -> str:
    """Format a number for people: with a true minus sign, and a dash in place of "nan"."""
    return f"{value:,.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def signed(value: float) -> str:
    """Format a difference for people."""
    return f"{'+' if value > 0 else ''}{number(value)}"


def training_charts(lines: Sequence[Mapping[str, Any]], step: int | None = None) -> str:
    """Return the section "Training", or an empty string if there is nothing to draw.

    Args:
      lines: the lines of `metrics.jsonl`. "loss" and every "SPLIT/METRIC" are drawn.
      step: the step at which the legends give the values; None: the last one.
    """
    charts: dict[str, dict[str, Points]] = {}
    for name in dict.fromkeys(key for line in lines for key in line):
        split, _, metric = name.rpartition("/")
        if (split or metric == "loss") and (points := _points(lines, name)):
            charts.setdefault(metric, {})[split or "train"] = points
    if not charts:
        return ""
    drawn = "".join(_chart(metric, series, step) for metric, series in charts.items())
    at = "" if step is None else f" (values at step {step:,}, the evaluated checkpoint)"
    return (
        '<section><details open class="training"><summary>Training'
        f'{at}</summary><div class="charts">{drawn}</div></details></section>'
    )


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> Points:
    """Return one series by step, averaged down to at most `MAX_POINTS` points."""
    values = {
        float(line["step"]): float(line[name])  # a resumed run's later line replaces an earlier one
        for line in lines
        if "step" in line and isinstance(line.get(name), int | float) and math.isfinite(line[name])
    }
    points = sorted(values.items())
    group = -(-len(points) // MAX_POINTS)
    if group <= 1:
        return points
    chunks = (points[i : i + group] for i in range(0, len(points), group))
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def round_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return multiples of 1, 2, or 5 times a power of ten that cover low … high."""
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, _TINY):  # equal up to rounding
        half = (abs(low) if largest > _TINY else 1) / 2
        low, high = low - half, low + half
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_label(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0]
    return number(value, max(0, -math.floor(math.log10(step) + 1e-9)))


def stroke_class(index: int) -> str:
    """Return classes of colour and dash; the first COLOURS·DASHES combinations differ."""
    return f"c{index % COLOURS} d{(index + index // COLOURS) % DASHES}"


def _at(points: Points, step: int | None) -> float:
    """Return the value of a series at a step, or at the last step before it."""
    return next((y for x, y in reversed(points) if step is None or x <= step), points[0][1])


def _chart(metric: str, series: Mapping[str, Points], step: int | None) -> str:
    """Draw one metric, with a line per split. The legend is HTML, so that it wraps."""
    digits = 2 if metric == "loss" else 1
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_ticks = round_ticks(min(0.0, *xs), max(xs), 3)
    y_ticks = round_ticks(min(ys), max(ys), 3)
    # The axis ends at the last step, so that the lines fill the chart.
    x_low, x_high = x_ticks[0], max(*xs, x_ticks[0] + 1e-9)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def px(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        y, label = py(tick), tick_label(tick, y_ticks)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        )
    for tick in (t for t in x_ticks if t <= x_high):
        x, label = px(tick), tick_label(tick, x_ticks)
        # A label at the right edge ends there.
        anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{label}</text>')
    legend, described = [], []
    for index, (split, points) in enumerate(series.items()):
        stroke = stroke_class(index)
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="{stroke}" points="{path}"/>')
        if len(points) <= MAX_DOTS:
            parts += [
                f'<circle class="{stroke}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="2.5">'
                f"<title>step {number(x, 0)}: {number(y, digits)}</title></circle>"
                for x, y in points
            ]
        legend.append(
            f'<li><svg class="key" viewBox="0 0 22 8" aria-hidden="true">'
            f'<polyline class="{stroke}" points="0,4 22,4"/></svg>'
            f"{escape(split)} <b>{number(_at(points, step), digits)}</b></li>"
        )
        described.append(
            f"{split}: {len(points)} points, from {points[0][1]:.4g} at step {points[0][0]:.0f} "
            f"to {points[-1][1]:.4g} at step {points[-1][0]:.0f}."
        )
    return (
        f"<figure><figcaption>{escape(metric)}"
        f'<ul class="legend">{"".join(legend)}</ul></figcaption>'
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(metric)} over training steps</title>"
        f"<desc>{escape(' '.join(described))}</desc>{''.join(parts)}</svg></figure>"
    )
