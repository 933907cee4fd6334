"""Present scores as tables for a terminal, as lines for other programs, or as a JSON object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from jaxcap.messages.errors import one_line
from jaxcap.scoring.bootstrap import Comparison, Interval
from jaxcap.scoring.diversity import Diversity


@dataclass
class Result:
    """The result of `jaxcap score`. Parts that were not requested are None or empty.

    Attributes:
      predictions: the file of the predictions.
      references: the file of the references.
      signature: the protocol, in one line.
      matched: the rule by which images were matched.
      scores: name to score, ×100.
      diversity: name of a set of captions to its diversity.
      warnings: reasons why the scores may not be comparable.
      unavailable: metrics that could not be computed, and how to enable them.
      other: the file of the other predictions.
      against: the scores of the other predictions on the same images, ×100.
      intervals: the intervals of the scores.
      comparison: the comparison of the predictions with the others.
      baselines: baseline (people, a constant caption, …) to name to score, ×100.
      constants: metric to the constant caption that is best by it.
      protocol: how intervals, comparison and baselines were computed.
    """

    predictions: str
    references: str
    signature: str
    matched: str
    scores: dict[str, float]
    diversity: dict[str, Diversity]
    warnings: list[str]
    unavailable: dict[str, str] = field(default_factory=dict)
    other: str | None = None
    against: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    comparison: dict[str, Comparison] = field(default_factory=dict)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)


def as_object(result: Result) -> dict[str, Any]:
    """Return the result as a JSON object, without the parts that were not requested."""
    return {n: _finite(v) for n, v in asdict(result).items() if v not in (None, {})}


def _finite(value: Any) -> Any:
    """Replace nan by None for JSON. SPICE is nan for captions without propositions."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_lines(result: Result) -> list[str]:
    """Return lines of a kind and its columns, separated by tabs:

    score NAME SCORE · interval NAME LOW HIGH · against NAME SCORE · difference NAME DIFFERENCE LOW
    HIGH P AHEAD WINS TIES LOSSES · baseline WHO NAME SCORE · constant NAME CAPTION · diversity
    WHO NAME VALUE · unavailable NAME REASON · signature LINE
    """
    rows: list[tuple[object, ...]] = [("score", n, v) for n, v in result.scores.items()]
    rows += [("interval", n, v.low, v.high) for n, v in result.intervals.items()]
    rows += [("against", n, v) for n, v in result.against.items()]
    for name, c in result.comparison.items():
        interval = (c.interval.low, c.interval.high)
        rows.append(
            ("difference", name, c.difference, *interval, c.p, c.ahead, c.wins, c.ties, c.losses)
        )
    for who, scores in result.baselines.items():
        rows += [("baseline", who, n, v) for n, v in scores.items()]
    rows += [("constant", n, caption) for n, caption in result.constants.items()]
    for who, found in result.diversity.items():
        rows += [("diversity", who, n, v) for n, v in _diversity(found).items()]
    rows += [("unavailable", n, reason) for n, reason in result.unavailable.items()]
    rows.append(("signature", result.signature))
    return ["\t".join(map(_cell, row)) for row in rows]


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else one_line(str(value))


def _diversity(found: Diversity) -> dict[str, float]:
    values: dict[str, float | None] = {
        "distinct-1": found.distinct[0],
        "distinct-2": found.distinct[1],
        "vocabulary": found.vocabulary,
        "unique": found.unique,
        "novel": found.novel,
        "length": found.length,
        "length sd": found.length_sd,
    }
    return {name: value for name, value in values.items() if value is not None}


def as_tables(result: Result) -> list[Table]:
    """Return tables to print in a terminal."""
    tables = [_scores_table(result)]
    if result.comparison:
        tables.append(_comparison_table(result))
    if result.baselines:
        tables.append(_baselines_table(result.scores, result.baselines))
    tables.append(_diversity_table(result.diversity))
    return tables


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number > 0)
    return table


def _between(interval: Interval, form: str = ".1f") -> str:
    return f"{interval.low:{form}} … {interval.high:{form}}"


def _scores_table(result: Result) -> Table:
    columns = ["", "score"]
    if result.intervals:
        columns.append("95 %")
    table = _table("Scores", *columns)
    for name, value in result.scores.items():
        cells = [name, f"{value:.2f}"]
        if result.intervals:
            cells.append(_between(result.intervals[name]) if name in result.intervals else "")
        table.add_row(*cells)
    for name in result.unavailable:
        table.add_row(name, "–")
    return table


def _comparison_table(result: Result) -> Table:
    """Return a table that fits 80 columns, with the numbers of images better, same, and worse."""
    columns = ("", "others", "difference", "95 %", "p", "better/same/worse")
    table = _table(f"Against {result.other}", *columns)
    for name, other in result.against.items():
        cells = [name, f"{other:.2f}", f"{result.scores[name] - other:+.2f}"]
        if name in result.comparison:
            c = result.comparison[name]
            cells += [_between(c.interval, "+.2f"), f"{c.p:.3f}", f"{c.wins}/{c.ties}/{c.losses}"]
        table.add_row(*cells)
    return table


def _baselines_table(
    scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]
) -> Table:
    names = [name for name in scores if any(name in each for each in baselines.values())]
    table = _table("Beside them", "", *names)
    for who, found in baselines.items():
        table.add_row(who, *(f"{found[name]:.1f}" if name in found else "" for name in names))
    return table


def _diversity_table(diversity: Mapping[str, Diversity]) -> Table:
    novel = any(found.novel is not None for found in diversity.values())
    columns = ["", "distinct-1", "distinct-2", "words", "unique", "length"]
    table = _table("Diversity", *columns[:5], *(["novel"] if novel else []), columns[5])
    for who, d in diversity.items():
        cells = [who, f"{d.distinct[0]:.4f}", f"{d.distinct[1]:.4f}", str(d.vocabulary)]
        cells.append(f"{100 * d.unique:.1f} %")
        if novel:
            cells.append("" if d.novel is None else f"{100 * d.novel:.1f} %")
        table.add_row(*cells, f"{d.length:.1f} ± {d.length_sd:.1f}")
    return table
