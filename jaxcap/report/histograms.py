"""Histograms as small SVG charts: bars for the first split, outlines for the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from jaxcap.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    number,
    round_ticks,
    stroke_class,
    tick_label,
)

_BINS = 50
"""Largest number of bars in a chart."""

Counts = Mapping[int, int]
Scale = Callable[[float | int], float]


def histogram(title: str, series: Mapping[str, Counts], marks: Sequence[int] = ()) -> str:
    """Draw the share of each value in each split.

    Args:
      title: names the counted values and their unit.
      series: split to value to count. The first is drawn as bars, others as outlines.
      marks: values to mark with a vertical line, such as limits. Values out of range are omitted.
    """
    series = {split: counts for split, counts in series.items() if counts}
    if not series:
        return ""
    low = min(min(counts) for counts in series.values())
    high = max(max(counts) for counts in series.values())
    width = _width(high - low + 1)
    shares = {split: _shares(counts, low, width) for split, counts in series.items()}
    ends = low + width * max(map(len, shares.values()))
    y_ticks = round_ticks(0.0, max(max(each) for each in shares.values()), 3)

    def px(x: float | int) -> float:
        return LEFT + (x - low) / (ends - low) * (WIDTH - LEFT - RIGHT)

    def py(y: float | int) -> float:
        return HEIGHT - BOTTOM - y / y_ticks[-1] * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        y, label = py(tick), tick_label(tick, y_ticks)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label} %</text>'
        )
    for tick in (t for t in round_ticks(float(low), float(ends), 5) if low <= t <= ends):
        # A bar begins at its value. If each bar has one value, centre the label below it.
        x = px(tick + 0.5) if width == 1 else px(tick)
        if x <= WIDTH - RIGHT and tick == int(tick):
            parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{number(tick, 0)}</text>'
            )
    legend = []
    for index, (split, values) in enumerate(shares.items()):
        if index == 0:
            parts += [_bar(px, py, low + i * width, width, v) for i, v in enumerate(values) if v]
            key = '<rect class="bar" x="6" width="10" height="8"/>'
        else:
            corners = [
                (low + (i + side) * width, v) for i, v in enumerate(values) for side in (0, 1)
            ]
            path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in corners)
            parts.append(f'<polyline class="{stroke_class(index)}" points="{path}"/>')
            key = f'<polyline class="{stroke_class(index)}" points="0,4 22,4"/>'
        legend.append(
            f'<li><svg class="key" viewBox="0 0 22 8" aria-hidden="true">{key}</svg>'
            f"{escape(split)}</li>"
        )
    for mark in (m for m in marks if low <= m <= ends):
        x = px(mark)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{py(0):.1f}"/>')
    return (
        f"<figure><figcaption>{escape(title)}"
        f'<ul class="legend">{"".join(legend)}</ul></figcaption>'
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(title)}</title>"
        f"<desc>{escape(_described(series))}</desc>{''.join(parts)}</svg></figure>"
    )


def _width(values: int) -> int:
    """Return the number of values per bar: 1, 2, or 5 times a power of ten."""
    rough = max(1.0, values / _BINS)
    magnitude = 10 ** math.floor(math.log10(rough))
    return next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough)


def _shares(counts: Counts, low: int, width: int) -> list[float]:
    """Return the percentage in each bin; the first begins at `low`."""
    bins = [0] * ((max(counts) - low) // width + 1)
    for value, count in counts.items():
        bins[(value - low) // width] += count
    total = sum(bins)
    return [100 * count / total for count in bins]


def _bar(px: Scale, py: Scale, x: int, width: int, share: float) -> str:
    left, right, top = px(x) + 0.5, px(x + width) - 0.5, py(share)
    what = f"{x:,}" if width == 1 else f"{x:,} to {x + width - 1:,}"
    return (
        f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{max(0.5, right - left):.1f}" '
        f'height="{py(0.0) - top:.1f}"><title>{what}: {share:.2f} %</title></rect>'
    )


def _described(series: Mapping[str, Counts]) -> str:
    return " ".join(
        f"{split}: {min(each)} to {max(each)}, most often {max(each, key=each.__getitem__)}."
        for split, each in series.items()
    )
