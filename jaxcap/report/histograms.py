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


def histogram(
    title: str, series: Mapping[str, Counts], marks: Sequence[int] = (), *, width: int = WIDTH
) -> str:
    """Draw the share of each value in each split.

    Args:
      title: names the counted values and their unit.
      series: split to value to count. The first is drawn as bars, others as outlines.
      marks: values to mark with a vertical line, such as limits. Values out of range are omitted.
      width: width of the drawing. Phones show it `WIDTH` wide, so that its text stays legible.
    """
    series = {split: counts for split, counts in series.items() if counts}
    if not series:
        return ""
    low = min(min(counts) for counts in series.values())
    high = max(max(counts) for counts in series.values())
    span = _span(high - low + 1)
    shares = {split: _shares(counts, low, span) for split, counts in series.items()}
    drawings = [
        _drawing(title, series, shares, marks, low=low, span=span, width=each)
        for each in dict.fromkeys((width, WIDTH))
    ]
    legend = "".join(
        f'<li><svg class="key" viewBox="0 0 22 8" aria-hidden="true">{_key(index)}</svg>'
        f"{escape(split)}</li>"
        for index, split in enumerate(series)
    )
    return (
        f'<figure><figcaption>{escape(title)}<ul class="legend">{legend}</ul></figcaption>'
        f"{''.join(drawings)}</figure>"
    )


def _key(index: int) -> str:
    if index == 0:
        return '<rect class="bar" x="6" width="10" height="8"/>'
    return f'<polyline class="{stroke_class(index)}" points="0,4 22,4"/>'


def _drawing(
    title: str,
    series: Mapping[str, Counts],
    shares: Mapping[str, Sequence[float]],
    marks: Sequence[int],
    *,
    low: int,
    span: int,
    width: int,
) -> str:
    ends = low + span * max(map(len, shares.values()))
    y_ticks = round_ticks(0.0, max(max(each) for each in shares.values()), 3)

    def px(x: float | int) -> float:
        return LEFT + (x - low) / (ends - low) * (width - LEFT - RIGHT)

    def py(y: float | int) -> float:
        return HEIGHT - BOTTOM - y / y_ticks[-1] * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        y, label = py(tick), tick_label(tick, y_ticks)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label} %</text>'
        )
    for tick in (t for t in round_ticks(float(low), float(ends), 5) if low <= t <= ends):
        # A bar begins at its value. If each bar has one value, centre the label below it.
        x = px(tick + 0.5) if span == 1 else px(tick)
        if x <= width - RIGHT and tick == int(tick):
            parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{number(tick, 0)}</text>'
            )
    for index, values in enumerate(shares.values()):
        if index == 0:
            parts += [_bar(px, py, low + i * span, span, v) for i, v in enumerate(values) if v]
            continue
        corners = [(low + (i + side) * span, v) for i, v in enumerate(values) for side in (0, 1)]
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in corners)
        parts.append(f'<polyline class="{stroke_class(index)}" points="{path}"/>')
    for mark in (m for m in marks if low <= m <= ends):
        x = px(mark)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{py(0):.1f}"/>')
    wide = " wide" if width > WIDTH else ""
    return (
        f'<svg class="chart{wide}" viewBox="0 0 {width} {HEIGHT}" role="img">'
        f"<title>{escape(title)}</title>"
        f"<desc>{escape(_described(series))}</desc>{''.join(parts)}</svg>"
    )


def _span(values: int) -> int:
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
