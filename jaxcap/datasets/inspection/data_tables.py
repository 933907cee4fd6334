"""Format the statistics of a data set: tables for a terminal, lines for programs, or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from jaxcap.datasets.inspection.caption_statistics import Coverage, coverage, percentile
from jaxcap.datasets.inspection.data_statistics import DataStatistics, Group, Place, Repeats
from jaxcap.datasets.inspection.hazards import DataWarning
from jaxcap.messages.errors import one_line

PERCENTILES = (1, 50, 90, 99, 100)
_MIN_COUNTS = (1, 2, 3, 5, 10, 20)
_COMMON = 4

REPEATS = {
    "same_images": "same file",
    "alike_images": "same picture",
    "same_names": "same image_id",
    "same_captions": "same caption",
}
"""Attributes of `DataStatistics`, and what the items of a group have in common."""

SURENESS = (
    "same file: identical bytes. same picture: also copies of another size, compression or "
    "brightness; nearly all are found among photographs, but not cropped, rotated or mirrored "
    "ones, and simple drawings may be confused. same caption: the same {units}."
)


def min_counts(min_count: int) -> list[int]:
    """Return the minimum counts to show: the usual ones, and that of the configuration."""
    return sorted({*_MIN_COUNTS, min_count})


def coverages(statistics: DataStatistics, min_count: int) -> Iterator[tuple[str, Coverage]]:
    """Yield the split and the coverage of the training words, for each minimum count and split."""
    for least in min_counts(min_count):
        for split, captions in statistics.captions.items():
            yield split, coverage(captions, statistics.known, min_count=least)


def repeats_of(statistics: DataStatistics) -> dict[str, Repeats]:
    """Return the repeats that were searched for, by what their items have in common."""
    found = {what: getattr(statistics, name) for name, what in REPEATS.items()}
    return {what: repeats for what, repeats in found.items() if repeats is not None}


# JSON


def as_object(
    statistics: DataStatistics, found: Sequence[DataWarning], min_count: int
) -> dict[str, Any]:
    """Return JSON values, with complete histograms and the size of the vocabulary."""
    splits = {}
    for split, captions in statistics.captions.items():
        of_split: dict[str, Any] = {
            "images": captions.images,
            "captions": captions.captions,
            "captions_per_image": dict(captions.per_image),
            "caption_lengths": dict(captions.lengths),
            "captions_without_words": captions.wordless,
            "captions_repeated_within_image": captions.repeated,
            "different_words": len(captions.words),
        }
        if split in statistics.images:
            images = statistics.images[split]
            of_split |= {
                "sizes": {f"{w}x{h}": count for (w, h), count in images.sizes.items()},
                "formats": dict(images.kinds),
                "unreadable": images.unreadable,
                "problems": [list(problem) for problem in images.problems],
            }
        splits[split] = of_split
    return {
        "name": statistics.name,
        "units": statistics.units,
        "splits": splits,
        "coverage": [
            {
                "split": split,
                "min_count": c.min_count,
                "vocabulary": c.vocabulary,
                "unknown": c.unknown,
                "whole": c.whole,
            }
            for split, c in coverages(statistics, min_count)
        ],
        "repeats": {
            name: _repeats_object(repeats)
            for name in REPEATS
            if (repeats := getattr(statistics, name)) is not None
        },
        "warnings": [{"kind": w.kind, "level": w.level, "text": w.text} for w in found],
    }


def _repeats_object(repeats: Repeats) -> dict[str, Any]:
    return {
        "shared": [{"splits": list(s.splits), "items": s.items} for s in repeats.shared],
        "examples": [
            {
                "count": group.count,
                "places": [
                    {"split": p.split, "index": p.index, "image_id": p.image_id}
                    | ({"text": p.text} if p.text else {})
                    for p in group.places
                ],
            }
            for group in repeats.examples
        ],
        "complete": repeats.complete,
    }


# Lines


def as_lines(statistics: DataStatistics, found: Sequence[DataWarning], min_count: int) -> list[str]:
    """Return tab-separated lines that begin with their kind; each kind has its own columns.

    images SPLIT COUNT · captions SPLIT COUNT · per-image SPLIT CAPTIONS IMAGES · length SPLIT WORDS
    CAPTIONS · coverage SPLIT MIN_COUNT VOCABULARY UNKNOWN WHOLE · format SPLIT FORMAT IMAGES · size
    SPLIT WIDTH HEIGHT IMAGES · unreadable SPLIT COUNT · repeat WHAT SPLIT SPLIT COUNT · warning
    LEVEL KIND TEXT
    """
    rows: list[tuple[object, ...]] = []
    for split, captions in statistics.captions.items():
        rows += [("images", split, captions.images), ("captions", split, captions.captions)]
        rows += [("per-image", split, n, count) for n, count in captions.per_image.items()]
        rows += [("length", split, n, count) for n, count in captions.lengths.items()]
    for split, c in coverages(statistics, min_count):
        rows.append(("coverage", split, c.min_count, c.vocabulary, c.unknown, c.whole))
    for split, images in statistics.images.items():
        rows += [("format", split, kind, count) for kind, count in images.kinds.items()]
        rows += [("size", split, *size, count) for size, count in images.sizes.items()]
        rows.append(("unreadable", split, images.unreadable))
    for what, repeats in repeats_of(statistics).items():
        rows += [("repeat", what, *shared.splits, shared.items) for shared in repeats.shared]
    rows += [("warning", w.level, w.kind, w.text) for w in found]
    return ["\t".join(map(_cell, row)) for row in rows]


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else one_line(str(value))


# Tables


def as_tables(statistics: DataStatistics, min_count: int) -> list[Table]:
    """Return tables for a terminal."""
    tables = [
        _splits_table(statistics),
        _lengths_table(statistics),
        _coverage_table(statistics, min_count),
    ]
    if statistics.images:
        tables.append(_images_table(statistics))
    repeats = repeats_of(statistics)
    if any(each.shared for each in repeats.values()):
        tables.append(_repeats_table(statistics, repeats))
    return tables


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def between(counts: Mapping[int, int]) -> str:
    """Format a range of counts: "5", or "1 … 7, mean 4.9"."""
    if len(counts) < 2:
        return "".join(map(str, counts))
    total = sum(counts.values())
    mean = sum(n * count for n, count in counts.items()) / max(1, total)
    return f"{min(counts)} … {max(counts)}, mean {mean:.2f}"


def _splits_table(statistics: DataStatistics) -> Table:
    table = _table("Captions", "split", "images", "captions", "captions per image")
    for split, captions in statistics.captions.items():
        counts = f"{captions.images:,}", f"{captions.captions:,}", between(captions.per_image)
        table.add_row(split, *counts)
    return table


def _lengths_table(statistics: DataStatistics) -> Table:
    shares = [f"{p} %" if p < 100 else "longest" for p in PERCENTILES]
    table = _table(f"Length of captions in {statistics.units}", "split", "mean", *shares)
    for split, captions in statistics.captions.items():
        percentiles = (str(captions.percentile(p)) for p in PERCENTILES)
        table.add_row(split, f"{captions.mean_length:.1f}", *percentiles)
    return table


def _coverage_table(statistics: DataStatistics, min_count: int) -> Table:
    splits = list(statistics.captions)
    table = _table(
        f"Vocabulary of {statistics.vocabulary_split}: {statistics.units} that become <unk>, "
        "captions without any",
        *("min_count", statistics.units, *splits),
    )
    found: dict[int, list[Coverage]] = {}
    for _, c in coverages(statistics, min_count):
        found.setdefault(c.min_count, []).append(c)
    for least, row in found.items():
        table.add_row(
            f"{least}{' ←' if least == min_count else ''}",
            f"{row[0].vocabulary:,}",
            *(f"{100 * c.unknown:.1f} %, {100 * c.whole:.1f} %" for c in row),
        )
    return table


def _images_table(statistics: DataStatistics) -> Table:
    table = _table("Images", "split", "shorter side", "longer side", "formats", "unreadable")
    for split, images in statistics.images.items():
        sides = (images.sides(longer=longer) for longer in (False, True))
        total = max(1, images.readable)
        table.add_row(
            split,
            *map(spread, sides),
            ", ".join(
                f"{k} {100 * n / total:.3g} %" for k, n in list(images.kinds.items())[:_COMMON]
            ),
            f"{images.unreadable:,}" if images.unreadable else "–",
        )
    return table


def spread(counts: Mapping[int, int]) -> str:
    """Format minimum, median and maximum: "112 … 333 … 500", or a single "224"."""
    if len(counts) < 2:
        return "".join(map(str, counts)) or "–"
    return " … ".join(str(percentile(counts, p)) for p in (0, 50, 100))


def _repeats_table(statistics: DataStatistics, repeats: Mapping[str, Repeats]) -> Table:
    table = _table("More than once", "", *repeats)
    pairs = dict.fromkeys(s.splits for each in repeats.values() for s in each.shared)
    for first, second in sorted(pairs, key=lambda pair: pair[0] == pair[1]):
        where = f"within {first}" if first == second else f"of {second} in {first}"
        cells = []
        for each in repeats.values():
            sign = "" if each.complete else "≥ "
            count = each.between(first, second)
            cells.append(f"{sign}{count:,}" if count or sign else "–")
        table.add_row(where, *cells)
    return table


def example_lines(statistics: DataStatistics, most: int = 3) -> list[str]:
    """Return lines with some examples of each kind of repeat."""
    lines = []
    for what, repeats in repeats_of(statistics).items():
        seen = statistics.same_images
        groups = [g for g in repeats.examples if what != "same picture" or not _known(g, seen)]
        lines += [f"{what}, {group.count} times: {_named(group)}" for group in groups[:most]]
    return lines


def _known(group: Group, same: Repeats | None) -> bool:
    return same is not None and group in same.examples


def _named(group: Group) -> str:
    places: Sequence[Place] = group.places[:1] if group.places[0].text else group.places[:3]
    names = ", ".join(f"{p.split} {p.image_id}" for p in places)
    return f'"{places[0].text}" ({names}, …)' if places[0].text else names
