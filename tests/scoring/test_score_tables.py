"""Scores as tables for a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from jaxcap.scoring.bootstrap import Comparison, Interval
from jaxcap.scoring.diversity import Diversity
from jaxcap.scoring.score_tables import Result, as_lines, as_tables


def test_a_comparison_fits_80_columns_whole() -> None:
    names = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D")
    compared = Comparison(-10.25, Interval(-12.5, -8.75), 0.0, 0.002, 1234, 2345, 1421)
    diverse = Diversity(
        distinct=(0.1234, 0.2345),
        vocabulary=4567,
        unique=0.5,
        novel=None,
        length=10.5,
        length_sd=2.5,
    )
    result = Result(
        predictions="ours.json",
        references="refs.json",
        signature="",
        matched="",
        scores=dict.fromkeys(names, 59.25),
        diversity={"these captions": diverse, "the other captions": diverse},
        warnings=[],
        other="theirs.json",
        against=dict.fromkeys(names, 69.5),
        intervals=dict.fromkeys(names, Interval(57.25, 61.5)),
        comparison=dict.fromkeys(names, compared),
    )
    file = io.StringIO()
    console = Console(file=file, width=80)
    for table in as_tables(result):
        assert console.measure(table).maximum <= 80
        console.print(table)
    for part in ("Against theirs.json", "69.50", "-10.25", "-12.50 … -8.75", "1234/2345/1421"):
        assert part in file.getvalue()


def test_captions_cannot_forge_lines() -> None:
    result = Result(
        predictions="ours.json",
        references="refs.json",
        signature="",
        matched="",
        scores={"CIDEr-D": 1.5},
        diversity={},
        warnings=[],
        constants={"most frequent": "a\tb\nscore\tCIDEr-D\t999"},
    )
    score, constant, signature = as_lines(result)
    assert score == "score\tCIDEr-D\t1.5000"
    assert constant == "constant\tmost frequent\ta\\tb\\nscore\\tCIDEr-D\\t999"
    assert signature == "signature\t"
