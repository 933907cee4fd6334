"""Build the page about a data set: warnings, histograms, duplicates side by side, samples.

Like a report, the page is self-contained and its policy forbids every request. It has no script.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from jaxcap.config import DataConfig
from jaxcap.data.pipeline import Source
from jaxcap.datasets.inspection import data_tables
from jaxcap.datasets.inspection.caption_statistics import coverage
from jaxcap.datasets.inspection.data_statistics import DataStatistics, Group, Place
from jaxcap.datasets.inspection.hazards import DataWarning
from jaxcap.files import write_text
from jaxcap.messages.errors import counted
from jaxcap.report.assets import asset, policy, prose
from jaxcap.report.charts import number
from jaxcap.report.histograms import histogram
from jaxcap.report.pictures import Embedded, thumbnail, thumbnail_side

_SIDE_BY_SIDE = 4
"""Number of copies shown of a duplicated image."""

_PAGE = 900
"""Width of all histograms together."""

_LONG = 40
"""Largest number of captions shown of a sample."""


def write_data_page(
    path: Path,
    statistics: DataStatistics,
    found: Sequence[DataWarning],
    splits: Mapping[str, Source],
    *,
    config: DataConfig,
    samples: int,
    seed: int,
) -> None:
    """Write the page to a temporary file and rename it to `path`.

    Args:
      path: the file to write.
      statistics: the statistics of the data set.
      found: warnings about it.
      splits: the records of each split, with the images.
      config: the options that the warnings and histograms refer to.
      samples: number of images shown of each split.
      seed: selects the samples.
    """
    style = asset("page.css") + asset("data_page.css")
    with ThreadPoolExecutor() as pool:
        pictures = _Pictures(splits, pool, side=thumbnail_side(samples * len(splits)))
        first, *others = (
            _samples(split, pictures, samples, np.random.default_rng((seed, place)))
            for place, split in enumerate(statistics.captions)
        )
        sections = [
            _warnings(found),
            first,
            _charts(statistics, config),
            _tables(statistics, config.min_count),
            _copies(statistics, pictures),
            _captions(statistics),
            *others,
        ]
    page = Template(asset("data_page.html")).substitute(
        policy=escape(policy(style=style, img_src="data:")),
        title=escape(statistics.name),
        style=style,
        summary=_summary(statistics, config),
        sections="".join(sections),
    )
    write_text(path, page)


def _section(title: str, content: str, *, note: str = "") -> str:
    if not content:
        return ""
    said = f'<p class="quiet">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{content}{said}</section>"


# Numbers


def _summary(statistics: DataStatistics, config: DataConfig) -> str:
    captions = statistics.captions
    figures = {
        "images": f"{sum(c.images for c in captions.values()):,}",
        "captions": f"{sum(c.captions for c in captions.values()):,}",
    }
    split = statistics.vocabulary_split
    if split is not None:
        known = coverage(captions[split], statistics.known, min_count=config.min_count)
        figures[f"{statistics.units} seen {config.min_count} times"] = f"{known.vocabulary:,}"
        figures[f"share of unknown {statistics.units}"] = f"{number(100 * known.unknown)} %"
        figures[f"{statistics.units} per caption"] = number(captions[split].mean_length)
    shown = "".join(f"<div><dt>{escape(k)}</dt><dd>{v}</dd></div>" for k, v in figures.items())
    return f'<dl class="figures">{shown}</dl>'


def _warnings(found: Sequence[DataWarning]) -> str:
    items = "".join(f'<li class="{w.level}"><b>{w.level}</b>{prose(w.text)}</li>' for w in found)
    return _section("Before training", f'<ul class="found">{items}</ul>' if items else "")


def _charts(statistics: DataStatistics, config: DataConfig) -> str:
    captions, images = statistics.captions, statistics.images
    # A bucket also holds <bos> and <eos>. The mark follows the longest caption that fits.
    limits = [bucket - 1 for bucket in config.length_buckets]
    lengths = {split: each.lengths for split, each in captions.items()}
    per_image = {split: each.per_image for split, each in captions.items()}
    charts: list[tuple[str, Mapping[str, Mapping[int, int]], list[int]]] = [
        (f"Captions by length in {statistics.units}", lengths, limits),
        ("Images by number of captions", per_image, []),
    ]
    for longer, name in ((False, "shorter"), (True, "longer")):
        sides = {split: each.sides(longer=longer) for split, each in images.items()}
        charts.append((f"Images by {name} side in pixels", sides, [config.image_size]))
    charts = charts[:1] + [chart for chart in charts[1:] if _varies(chart[1])]
    width = _PAGE // len(charts)
    drawn = (histogram(title, series, marks, width=width) for title, series, marks in charts)
    note = (
        f"Dashed lines: the longest captions that fit data.length_buckets {config.length_buckets}, "
        f"and data.image_size {config.image_size}. Bars: the first split; outlines: the others."
    )
    return _section("Histograms", f'<div class="charts">{"".join(drawn)}</div>', note=note)


def _varies(series: Mapping[str, Mapping[int, int]]) -> bool:
    return len({value for counts in series.values() for value in counts}) > 1


def _table(
    caption: str, columns: Iterable[str], rows: Iterable[Sequence[str]], here: str = ""
) -> str:
    names = [escape(column) for column in columns]
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(
        f"<tr{' class=here' if row[0] == here else ''}>"
        # On phones, where a table is too wide, the style shows each cell behind its name.
        + "".join(
            f'<td data-name="{name}">{escape(cell)}</td>'
            for name, cell in zip(names, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div><table class="others"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _tables(statistics: DataStatistics, min_count: int) -> str:
    captions = statistics.captions
    tables = [
        _table(
            "Splits",
            ("split", "images", "captions", "per image", "mean length", "99 %", "longest"),
            (
                (
                    split,
                    f"{c.images:,}",
                    f"{c.captions:,}",
                    data_tables.between(c.per_image),
                    f"{c.mean_length:.1f}",
                    str(c.percentile(99)),
                    str(c.percentile(100)),
                )
                for split, c in captions.items()
            ),
        )
    ]
    rows: dict[int, list[str]] = {}
    for _, c in data_tables.coverages(statistics, min_count):
        row = rows.setdefault(c.min_count, [str(c.min_count), f"{c.vocabulary:,}"])
        row += [f"{100 * c.unknown:.1f} %", f"{100 * c.whole:.1f} %"]
    columns = ["min_count", statistics.units]
    for split in captions:
        columns += [f"{split}: <unk>", "whole captions"]
    about = f"Coverage of the vocabulary of {statistics.vocabulary_split}"
    tables.append(_table(about, columns, rows.values(), here=str(min_count)))
    if statistics.images:
        tables.append(
            _table(
                "Images",
                ("split", "shorter side", "longer side", "formats", "unreadable"),
                (
                    (
                        split,
                        data_tables.spread(images.sides(longer=False)),
                        data_tables.spread(images.sides(longer=True)),
                        ", ".join(f"{kind} {count:,}" for kind, count in images.kinds.items()),
                        f"{images.unreadable:,}",
                    )
                    for split, images in statistics.images.items()
                ),
            )
        )
    return _section("Tables", f'<div class="tables">{"".join(tables)}</div>')


# Pictures


class _Pictures:
    """Thumbnails of the records' images, as HTML."""

    def __init__(self, splits: Mapping[str, Source], pool: ThreadPoolExecutor, *, side: int):
        self._splits, self._pool, self._side = splits, pool, side

    def of(self, places: Sequence[tuple[str, int]]) -> Iterator[tuple[dict[str, Any], str]]:
        """Return the records at `places`, with the HTML of their images."""
        return self._pool.map(self._load, places)

    def size_of(self, split: str) -> int:
        """Return the number of records of a split."""
        return len(self._splits[split])

    def _load(self, place: tuple[str, int]) -> tuple[dict[str, Any], str]:
        record = self._splits[place[0]][place[1]]
        if "image" not in record:  # text alone
            return record, ""
        made = thumbnail(record["image"], name=record["image_id"], side=self._side)
        if not isinstance(made, Embedded):
            reason = escape(f"cannot read this image: {made.reason}")
            return record, f'<div class="picture none">{reason}</div>'
        data = base64.b64encode(made.data).decode("ascii")
        image = f'<img alt="" width="{made.width}" height="{made.height}" '
        return record, f'<div class="picture">{image}src="data:image/jpeg;base64,{data}"></div>'


def _copies(statistics: DataStatistics, pictures: _Pictures) -> str:
    repeats = statistics.alike_images or statistics.same_images
    if repeats is None or not repeats.examples:
        return ""
    same = () if statistics.same_images is None else statistics.same_images.examples
    items = "".join(
        f"<li>{_side_by_side(group, pictures)}"
        f'<p class="quiet">{group.count} times, '
        f"{'the same file' if group in same else 'the same image'}</p></li>"
        for group in repeats.examples
    )
    note = data_tables.SURENESS.format(units=statistics.units)
    return _section("Duplicates", f'<ul class="copies">{items}</ul>', note=note)


def _side_by_side(group: Group, pictures: _Pictures) -> str:
    places = group.places[:_SIDE_BY_SIDE]
    loaded = pictures.of([(place.split, place.index) for place in places])
    return "".join(
        f'<div>{picture}<p class="id">{escape(_named(place))}</p></div>'
        for place, (_, picture) in zip(places, loaded, strict=True)
    )


def _named(place: Place) -> str:
    return f"{place.split}: {place.image_id}"


def _captions(statistics: DataStatistics) -> str:
    repeats = statistics.same_captions
    if repeats is None or not repeats.examples:
        return ""
    items = "".join(
        f'<li dir="auto">{escape(group.places[0].text)} '
        f'<span class="quiet">{group.count} times</span></li>'
        for group in repeats.examples
    )
    return _section("Most frequent captions", f'<ul class="sentences">{items}</ul>')


def _samples(split: str, pictures: _Pictures, count: int, rng: np.random.Generator) -> str:
    total = pictures.size_of(split)
    chosen = np.sort(rng.choice(total, min(count, total), replace=False))
    cards = []
    for record, picture in pictures.of([(split, int(index)) for index in chosen]):
        texts = record["captions"][:_LONG]
        first = escape(texts[0]) if texts else '<span class="none">no caption</span>'
        others = "".join(f'<li dir="auto">{escape(text)}</li>' for text in texts[1:])
        cards.append(
            f'<li>{picture}<div class="text"><p class="caption" dir="auto">{first}</p>'
            f'<ul class="references">{others}</ul>'
            f'<p class="id">{escape(record["image_id"])}</p></div></li>'
        )
    shown = f'<ul class="cards">{"".join(cards)}</ul>' if cards else ""
    return _section(f"{split}: {len(cards)} of {counted(total, 'image')} at random", shown)
