"""A run's report: one HTML page with scores, training curves and captioned photographs.

The page stands alone: pictures are embedded, the curves are drawn here as SVG, and a content
policy in its head forbids every request, so it can be mailed, archived or opened offline.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from jaxcap.errors import InputError
from jaxcap.files import write_text

THUMBNAIL_SIDE = 160
VERDICT = "true and complete"
HEADLINE_SCORES = ("CIDEr-D", "BLEU-4")
MAX_POINTS = 300

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class ReportRow:
    """One captioned image.

    `image` is the bytes of a file that Pillow reads, a `PIL.Image.Image`, or uint8 `[H, W, 3]`.
    `scores` are shown as they come (×100, by convention). `log_prob` is the caption's natural
    log-probability. `verdict` says whether the caption is true and complete, where that is known.
    """

    image_id: str
    image: bytes | Image.Image | np.ndarray
    caption: str
    references: Sequence[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    log_prob: float | None = None
    verdict: bool | None = None


def write_report(
    path: Path,
    *,
    title: str,
    summary: Mapping[str, str | float],
    rows: Sequence[ReportRow],
    curves: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
) -> None:
    """Writes the page to `path`, beside it first and then renamed.

    Args:
      path: the file to write; its directory is made if need be.
      title: the page's heading.
      summary: floats are shown as large numbers, everything else as a list of facts; the value of
        "command" is shown as code. The share of rows whose verdict is true is added, unless the
        summary has a "true and complete" of its own.
      rows: the captioned images, in the order to show them. An image that can't be read leaves a
        note in its place.
      curves: the lines of `metrics.jsonl`, each with a "step". "loss" (and "SPLIT/loss") go to one
        chart and the other "SPLIT/METRIC" values to a second; other keys are not drawn.
      config: the run's configuration, shown as JSON.

    Raises:
      InputError: an image array is not uint8 `[H, W, 3]` or `[H, W]`.
    """
    page = _PAGE.format(
        title=escape(title),
        style=_STYLE,
        summary=_summary(summary, rows),
        curves=_curves(curves),
        captions=_captions(rows),
        config=escape(json.dumps(config, indent=2, ensure_ascii=False, default=str)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


# Summary


def _number(value: float, digits: int = 1) -> str:
    """A number as people read it: a true minus sign, no "nan"."""
    return f"{value:,.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def _summary(summary: Mapping[str, str | float], rows: Sequence[ReportRow]) -> str:
    figures = {name: _number(v) for name, v in summary.items() if isinstance(v, float)}
    judged = [row.verdict for row in rows if row.verdict is not None]
    # The caller may know the share of the whole split, of which the rows are a part.
    if judged and VERDICT not in figures:
        figures[f"{VERDICT}, {sum(judged)} of {len(judged)}"] = _number(
            100 * sum(judged) / len(judged)
        )
    facts = {name: str(v) for name, v in summary.items() if not isinstance(v, float)}
    return _definitions("figures", figures) + _definitions("facts", facts)


def _definitions(kind: str, items: Mapping[str, str]) -> str:
    def value(name: str) -> str:
        text = escape(items[name])
        return f"<code>{text}</code>" if name.lower() == "command" else text

    pairs = "".join(f"<div><dt>{escape(n)}</dt><dd>{value(n)}</dd></div>" for n in items)
    return f'<dl class="{kind}">{pairs}</dl>' if items else ""


# Curves


def _curves(lines: Sequence[Mapping[str, Any]]) -> str:
    losses: dict[str, Points] = {}
    scores: dict[str, Points] = {}
    for name in dict.fromkeys(key for line in lines for key in line):
        chart = losses if name.split("/")[-1] == "loss" else scores if "/" in name else None
        points = _points(lines, name)
        if chart is not None and points:
            chart[name] = points
    charts = [
        _chart(title, series)
        for title, series in (("Loss", losses), ("Validation scores", scores))
        if series
    ]
    if not charts:
        return ""
    return f'<section><h2>Training</h2><div class="charts">{"".join(charts)}</div></section>'


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> Points:
    """One series by step, thinned by averaging to what a chart can show."""
    values = {
        float(line["step"]): float(line[name])  # a resumed run's later line replaces the earlier
        for line in lines
        if "step" in line and isinstance(line.get(name), int | float) and math.isfinite(line[name])
    }
    points = sorted(values.items())
    group = -(-len(points) // MAX_POINTS)
    if group <= 1:
        return points
    chunks = (points[i : i + group] for i in range(0, len(points), group))
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that cover low … high."""
    if high <= low:
        low, high = low - abs(low or 1) / 2, low + abs(low or 1) / 2
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _tick_label(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0]
    return _number(value, max(0, -math.floor(math.log10(step) + 1e-9)))


def _chart(title: str, series: Mapping[str, Points]) -> str:
    """Line chart as inline SVG, its legend as HTML so that it wraps on a phone."""
    width, height, left, right, top, bottom = 480, 260, 48, 14, 12, 42
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_ticks = _ticks(min(0.0, *xs), max(xs))
    # Scores near one another deserve the whole height; others are read against zero.
    y_ticks = _ticks(0.0 if 0 < min(ys) < max(ys) / 2 else min(ys), max(ys))
    # Steps end where training ended, so that the lines fill the chart.
    x_low, x_high = x_ticks[0], max(*xs, x_ticks[0] + 1e-9)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def px(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (width - left - right)

    def py(y: float) -> float:
        return height - bottom - (y - y_low) / (y_high - y_low) * (height - top - bottom)

    parts = []
    for tick in y_ticks:
        y = py(tick)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        label = _tick_label(tick, y_ticks)
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in (t for t in x_ticks if t <= x_high):
        label, x, y = _tick_label(tick, x_ticks), px(tick), height - bottom + 20
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{width - right}" y="{height - 4}" text-anchor="end">step</text>')
    legend, described = [], []
    for index, (name, points) in enumerate(series.items()):
        colour = f"s{index % 6}"
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="{colour}" points="{path}"/>')
        if len(points) <= 40:
            parts += [
                f'<circle class="{colour}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="3"/>'
                for x, y in points
            ]
        last = _number(points[-1][1], 2 if name.endswith("loss") else 1)
        legend.append(
            f'<li><svg class="key" viewBox="0 0 22 8" aria-hidden="true">'
            f'<polyline class="{colour}" points="0,4 22,4"/></svg>'
            f"{escape(name)} <b>{last}</b></li>"
        )
        described.append(
            f"{name}: {len(points)} points, from {points[0][1]:.4g} at step {points[0][0]:.0f} "
            f"to {points[-1][1]:.4g} at step {points[-1][0]:.0f}."
        )
    return (
        f'<figure><figcaption>{escape(title)}<ul class="legend">{"".join(legend)}</ul></figcaption>'
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{escape(title)} over training steps</title>"
        f"<desc>{escape(' '.join(described))}</desc>{''.join(parts)}</svg></figure>"
    )


# Captions


def _captions(rows: Sequence[ReportRow]) -> str:
    if not rows:
        return '<p class="none">No captions were made.</p>'
    return '<ol class="rows">' + "".join(map(_row, rows)) + "</ol>"


def _scores(scores: Iterable[tuple[str, float]]) -> str:
    return "".join(f"<span>{escape(name)} <b>{_number(v)}</b></span>" for name, v in scores)


def _row(row: ReportRow) -> str:
    headline = [name for name in HEADLINE_SCORES if name in row.scores] or list(row.scores)[:2]
    numbers = _scores((name, row.scores[name]) for name in headline)
    if row.log_prob is not None:
        numbers += (
            f'<span title="natural log-probability of the caption">log p '
            f"<b>{_number(row.log_prob, 2)}</b></span>"
        )
    caption = escape(row.caption.strip()) or '<span class="none">empty caption</span>'
    caption += _badge(row.verdict)
    return (
        f'<li>{_picture(row)}<div class="text"><p class="caption">{caption}</p>'
        + (f'<p class="numbers">{numbers}</p>' if numbers else "")
        + _references(row, [item for item in row.scores.items() if item[0] not in headline])
        + f'<p class="id">{escape(row.image_id)}</p></div></li>'
    )


def _badge(verdict: bool | None) -> str:
    if verdict is None:
        return ""
    mark, kind, words = ("✓", "yes", "right") if verdict else ("✗", "no", "wrong")
    return f' <span class="badge {kind}"><span aria-hidden="true">{mark}</span> {words}</span>'


def _references(row: ReportRow, other_scores: Sequence[tuple[str, float]]) -> str:
    if not row.references and not other_scores:
        return ""
    count = len(row.references)
    label = f"{count} reference{'' if count == 1 else 's'}" if count else "More scores"
    items = "".join(f"<li>{escape(reference)}</li>" for reference in row.references)
    return (
        f"<details><summary>{label}</summary>"
        + (f"<ul>{items}</ul>" if items else "")
        + (f'<p class="numbers">{_scores(other_scores)}</p>' if other_scores else "")
        + "</details>"
    )


def _picture(row: ReportRow) -> str:
    try:
        data, width, height = _thumbnail(row.image)
    except (OSError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises on bad files
        return '<div class="picture none">picture could not be read</div>'
    uri = base64.b64encode(data).decode("ascii")
    # The text beside it is the picture's description; to read it twice helps nobody.
    return (
        f'<div class="picture"><img src="data:image/webp;base64,{uri}" width="{width}" '
        f'height="{height}" alt="" loading="lazy" decoding="async"></div>'
    )


def _thumbnail(image: bytes | Image.Image | np.ndarray) -> tuple[bytes, int, int]:
    """A WebP at most THUMBNAIL_SIDE on a side, upright, on white; and its width and height."""
    if isinstance(image, np.ndarray):
        colour = image.ndim == 3 and image.shape[2] == 3
        if image.dtype != np.uint8 or not (colour or image.ndim == 2):
            raise InputError(
                f"A report's image is an array of {image.dtype}, shape {image.shape}; expected "
                "uint8 [H, W, 3]. Convert it, or pass the file's bytes."
            )
        picture = Image.fromarray(image)
    elif isinstance(image, bytes):
        picture = Image.open(io.BytesIO(image))
        picture.draft("RGB", (2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))  # large JPEGs decode faster
    else:
        picture = image
    picture = ImageOps.exif_transpose(picture).convert("RGBA")
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    flat = Image.new("RGB", picture.size, "white")
    flat.paste(picture, mask=picture)
    buffer = io.BytesIO()
    flat.save(buffer, "WEBP", quality=80)
    return buffer.getvalue(), flat.width, flat.height


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><p class="kicker">jaxcap report</p><h1>{title}</h1>{summary}</header>
<main>
{curves}
<section><h2>Captions</h2>{captions}</section>
<section><details><summary>Configuration</summary><pre>{config}</pre></details></section>
</main>
</body>
</html>
"""

_STYLE = """
:root { --paper: #fbfaf7; --raised: #fff; --ink: #1f1d1a; --muted: #69645b; --line: #e3dfd6;
  --yes: #1a6b45; --no: #a8321f; --s0: #22577a; --s1: #b4501e; --s2: #35794b; --s3: #7a4a94;
  --s4: #8a6d00; --s5: #a83265; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161513; --raised: #1e1d1a; --ink: #ebe7df; --muted: #a59f94; --line: #35322d;
    --yes: #76c99b; --no: #f0917f; --s0: #7db8de; --s1: #eda173; --s2: #83c797; --s3: #c9a2e0;
    --s4: #d9bd52; --s5: #ec8fb6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 3rem clamp(1rem, 4vw, 3rem) 4rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  -webkit-text-size-adjust: 100%; }
h1, .caption, .figures dd { font-family: "Iowan Old Style", Charter, "Palatino Linotype", Palatino,
  Georgia, "DejaVu Serif", serif; }
h1 { font-size: clamp(1.7rem, 4vw, 2.5rem); font-weight: 500; line-height: 1.15; margin: 0 0 2rem;
  letter-spacing: -.01em; text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: .95rem; font-weight: 600; margin: 3.5rem 0 1.25rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
dl, dd, p, ul, ol, figure { margin: 0; padding: 0; }
.kicker, dt, .id, .numbers, summary, .none, .legend { color: var(--muted); font-size: .8125rem; }
.kicker { margin-bottom: .35rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr));
  gap: 1.5rem 1.25rem; margin-bottom: 2rem; }
.figures div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.figures dd { font-size: 2.1rem; line-height: 1.1; font-variant-numeric: lining-nums tabular-nums; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: .75rem 1.25rem; }
.facts dd { overflow-wrap: anywhere; } .facts div:has(code) { grid-column: 1 / -1; }
code, pre, .id { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code, pre { font-size: .8125rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 2rem 2.5rem; }
figure { min-width: 0; max-width: 40rem; } figcaption { margin-bottom: .75rem; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; list-style: none; }
.legend b, .numbers b { color: var(--ink); font-weight: 500; font-variant-numeric: tabular-nums; }
.key { width: 22px; height: 8px; margin-right: .4rem; }
.chart { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { fill: var(--muted); font-size: 12px; font-variant-numeric: tabular-nums; }
.grid { stroke: var(--line); }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); stroke-dasharray: 7 4; }
.s2 { stroke: var(--s2); stroke-dasharray: 2 4; } .s4 { stroke: var(--s4); stroke-dasharray: 4 3; }
.s3 { stroke: var(--s3); stroke-dasharray: 9 3 2 3; } .s5 { stroke: var(--s5); }
circle { fill: var(--paper); stroke-width: 2; stroke-dasharray: none !important; }
.rows { list-style: none; display: grid; gap: 2rem 2.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.rows > li { display: flex; gap: 1rem; align-items: flex-start; min-width: 0; }
.picture { flex: 0 0 8rem; }
.picture img { display: block; width: 100%; height: auto; border-radius: 3px; }
.picture.none { padding: 1.5rem .5rem; text-align: center; border: 1px dashed var(--line); }
.text { min-width: 0; flex: 1; }
.caption { font-size: 1.125rem; line-height: 1.35; overflow-wrap: anywhere; text-wrap: pretty;
  margin-top: -.2rem; }
.numbers { display: flex; flex-wrap: wrap; gap: 0 .9rem; margin-top: .35rem; }
.id { font-size: .6875rem; overflow-wrap: anywhere; margin-top: .35rem; }
.badge { font: .8125rem/1 system-ui, sans-serif; white-space: nowrap; margin-left: .25rem; }
.badge.yes { color: var(--yes); } .badge.no { color: var(--no); } .none { font-style: italic; }
details { margin-top: .35rem; } summary { cursor: pointer; width: fit-content; }
summary:focus-visible { outline: 2px solid var(--s0); outline-offset: 3px; }
details ul { padding-left: 1.1rem; margin: .35rem 0; font-size: .9rem; overflow-wrap: anywhere; }
main > section:last-child { margin-top: 3.5rem; border-top: 1px solid var(--line); }
pre { overflow-x: auto; padding: 1rem; background: var(--raised); border: 1px solid var(--line);
  border-radius: 3px; line-height: 1.5; }
@media (max-width: 30rem) { body { padding-top: 1.75rem; } .picture { flex-basis: 7rem; }
  .figures { grid-template-columns: repeat(3, 1fr); } .figures dd { font-size: 1.7rem; }
  .chart text { font-size: 16px; } }
@media print { .rows > li { break-inside: avoid; } }
"""
