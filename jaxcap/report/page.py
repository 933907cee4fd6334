"""Assemble the report and write it."""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Literal

from jaxcap.files import write_text
from jaxcap.report.assets import asset, policy, prose
from jaxcap.report.charts import number, signed, training_charts
from jaxcap.report.pictures import (
    Embedded,
    Linked,
    Unreadable,
    link,
    shown_by_browsers,
    thumbnail,
    thumbnail_side,
)
from jaxcap.report.rows import OtherScores, ReportRow, packed_row

_TOGETHER = 100
"""Number of rows with images in memory at once, and of images in one block of the page."""


def write_report(
    path: Path,
    *,
    title: str,
    rows: Iterable[ReportRow],
    count: int | None = None,
    scores: Mapping[str, float] | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    against: OtherScores | None = None,
    signature: str | None = None,
    facts: Mapping[str, object] | None = None,
    curves: Sequence[Mapping[str, Any]] = (),
    step: int | None = None,
    config: Mapping[str, Any] | None = None,
    images: Literal["embed", "link"] = "embed",
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the page to a temporary file and rename it to `path`.

    Args:
      path: the file to write; its directory is created if necessary.
      title: the page's heading.
      rows: the captioned images, in their original order. They are read once, a few at a time,
        so a generator that opens images lazily keeps memory low. The page shows a note in place
        of an unreadable image.
      count: number of rows, if `rows` has no length. It determines the size of the embedded
        images.
      scores: scores of the whole set, by name, as shown (×100 by convention).
      intervals: 95 % intervals of some of these scores, (low, high).
      against: scores of another model, shown beside `scores` in place of `intervals`.
      signature: the signature of the scores.
      facts: further short facts, by name. The value of "command" is shown as code.
      curves: the lines of `metrics.jsonl`, each with a "step". "loss" and every "SPLIT/METRIC"
        are drawn, with one chart per metric; other keys are ignored.
      step: the step of the evaluated checkpoint, at which the legends give the values; None: the
        last one.
      config: the run's configuration, shown as JSON.
      images: "embed" stores thumbnails in the page, about 10 kB each if there are thousands.
        "link" points to image files in formats that browsers show, and embeds the others.
      progress: called with the number of finished rows.
    """
    known = count if count is not None else len(rows) if isinstance(rows, Sequence) else 1
    packed: list[dict[str, Any]] = []
    blocks: list[str] = []
    for some, pictures in _with_pictures(rows, path, images, thumbnail_side(known)):
        packed += [packed_row(row, p) for row, p in zip(some, pictures, strict=True)]
        blocks.append(_picture_block(pictures))
        if progress is not None:
            progress(len(packed))
    style, script = asset("page.css"), _script()
    linked = any("link" in row for row in packed)
    allowed = policy(
        style=style, script=script, img_src="data: file: 'self'" if linked else "data:"
    )
    page = _fill(
        "page.html",
        policy=escape(allowed),
        title=escape(title),
        style=style,
        script=script,
        summary=(
            _figures(scores or {}, intervals or {})
            if against is None
            else _versus(scores or {}, against)
        )
        + _facts(signature, facts or {}),
        training=training_charts(curves, step),
        gallery=asset("gallery.html") if packed else '<p class="none">There are no captions.</p>',
        config=_configuration(config),
        rows=_json(packed),
        pictures="".join(blocks),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def _script() -> str:
    return "".join(map(asset, ("attention.js", "search.js", "cards.js", "page.js")))


def _fill(name: str, **parts: str) -> str:
    return Template(asset(name)).substitute(parts)


# Rows and pictures


def _with_pictures(
    rows: Iterable[ReportRow], page: Path, images: str, side: int
) -> Iterator[tuple[list[ReportRow], list[Embedded | Linked | Unreadable | None]]]:
    def picture(row: ReportRow) -> Embedded | Linked | Unreadable | None:
        image = row.image
        if image is None:
            return None
        if isinstance(image, Path) and images == "link" and shown_by_browsers(image):
            return link(image, page=page)
        return thumbnail(image, name=row.image_id, side=side)

    remaining = iter(rows)
    # Pillow releases Python's lock while it decodes and encodes.
    with ThreadPoolExecutor() as pool:
        while some := list(itertools.islice(remaining, _TOGETHER)):
            yield some, list(pool.map(picture, some))


def _picture_block(pictures: Sequence[Embedded | Linked | Unreadable | None]) -> str:
    """Return one line of base64 per row, empty if nothing is embedded. No browser runs it."""
    lines = "\n".join(
        base64.b64encode(p.data).decode("ascii") if isinstance(p, Embedded) else ""
        for p in pictures
    )
    return f'<script type="text/plain" class="pictures">{lines}</script>\n'


def _json(value: Any) -> str:
    """Return JSON that cannot close its HTML element or open another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


# Summary


def _figures(scores: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> str:
    parts = []
    if scores:
        parts.append('<dl class="figures">')
        for name, value in scores.items():
            parts.append(f"<div><dt>{escape(name)}</dt><dd>{number(value)}</dd>")
            if name in intervals:
                low, high = intervals[name]
                parts.append(
                    '<dd class="interval"><span class="unseen">95 % interval: </span>'
                    f"{number(low)} to {number(high)}</dd>"
                )
            parts.append("</div>")
        parts.append("</dl>")
    if any(name in intervals for name in scores):
        parts.append('<p class="quiet note">Below a score: its 95 % interval.</p>')
    return "".join(parts)


def _versus(scores: Mapping[str, float], against: OtherScores) -> str:
    def row(name: str) -> str:
        difference, low, high = against.differences.get(name, [math.nan] * 3)
        cells = (
            escape(name),
            number(scores[name]),
            number(against.scores.get(name, math.nan)),
            f'{signed(difference)} <span class="quiet">{signed(low)} to {signed(high)}</span>',
        )
        return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"

    names = ("metric", "predictions", "against", "difference and 95 % interval")
    return (
        f'<table class="others versus"><thead><tr>{"".join(f"<th>{n}</th>" for n in names)}</tr>'
        f"</thead><tbody>{''.join(map(row, scores))}</tbody></table>"
    )


def _facts(signature: str | None, facts: Mapping[str, object]) -> str:
    parts = []
    if signature:
        # Lines break between the parts, not within names such as CIDEr-D.
        spans = re.sub(r"[^|]+\|?", r"<span>\g<0></span>", escape(signature))
        parts.append(f'<p class="signature"><code>{spans}</code></p>')
    if facts:
        parts.append('<dl class="facts">')
        for name, fact in facts.items():
            text = prose(str(fact))
            shown = f"<code>{text}</code>" if name.lower() == "command" else text
            parts.append(f"<div><dt>{escape(name)}</dt><dd>{shown}</dd></div>")
        parts.append("</dl>")
    return "".join(parts)


def _configuration(config: Mapping[str, Any] | None) -> str:
    if not config:
        return ""
    text = escape(json.dumps(config, indent=2, ensure_ascii=False, default=str))
    return (
        f"<section><details><summary>Configuration</summary><pre>{text}</pre></details></section>"
    )
