"""Training curves."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest

from jaxcap.report.charts import COLOURS, DASHES, training_charts


def lines_of(source: str) -> list[tuple[str, list[list[float]]]]:
    """Return class and points of each line, without the keys of the legends."""
    found = re.findall(r'<polyline class="([^"]*)" points="([^"]*)"', source)
    return [
        (stroke, [[float(v) for v in pair.split(",")] for pair in points.split()])
        for stroke, points in found
        if points != "0,4 22,4"
    ]


def test_each_metric_has_one_chart_for_all_splits(html: Callable) -> None:
    curves: list[dict[str, float]] = [
        {"step": s, "loss": 10.0 / s, "learning_rate": 1e-3} for s in range(1, 2001)
    ]
    curves += [{"step": s, "dev/BLEU-4": s / 100, "dev/loss": 3.0} for s in (1000, 2000)]
    curves += [{"step": s, "dev/CIDEr-D": s / 4, "test/BLEU-4": 20.0} for s in (1000, 2000)]
    curves += [{"step": 1500, "loss": float("nan")}, {"step": 2000, "dev/BLEU-4": 24.0}]
    page = html(curves=curves)
    titles = re.findall(r"<title>(\S+) over training steps</title>", page.source)
    assert titles == ["loss", "BLEU-4", "CIDEr-D"]
    assert "learning_rate" not in page.text
    # The last line for a step counts, as when a run was resumed.
    assert "dev: 2 points, from 10 at step 1000 to 24 at step 2000." in page.text
    assert "test 20.0" in page.text
    lines = lines_of(page.source)
    assert len(lines) == 5
    for _, points in lines:
        assert len(points) <= 300
        assert all(0 <= x <= 300 and 0 <= y <= 170 for x, y in points)


def test_points_are_drawn_at_their_values() -> None:
    curves = [{"step": s, "dev/BLEU-4": v} for s, v in ((0, 10.0), (100, 20.0), (200, 40.0))]
    ((_, points),) = lines_of(training_charts(curves))
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert 2 * (y0 - y1) == pytest.approx(y1 - y2, abs=0.4)  # up is less, in SVG


@pytest.mark.parametrize(
    "values", [(0.0, 5e-324), (5e-324, 5e-324), (-1e-305, 1e-300), (0, 2e-300)]
)
def test_the_smallest_numbers_are_drawn(values: tuple[float, float]) -> None:
    curves = [{"step": step, "dev/BLEU-4": value} for step, value in enumerate(values)]
    ((_, points),) = lines_of(training_charts(curves))
    assert all(0 <= y <= 170 for _, y in points)


def test_all_lines_look_different() -> None:
    number = COLOURS * DASHES
    charts = training_charts([{"step": 1} | {f"split{i}/BLEU-4": float(i) for i in range(number)}])
    strokes = [stroke for stroke, _ in lines_of(charts)]
    assert len(set(strokes)) == number
    for a, b in itertools.pairwise(strokes):
        assert not set(a.split()) & set(b.split())


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-9, 1e12])
def test_one_point_makes_a_chart(html: Callable, value: float) -> None:
    page = html(curves=[{"step": 0, "loss": value}])
    assert len(page.named("circle")) == 1


def test_a_constant_score_is_a_line(html: Callable) -> None:
    """Its averages differ in the last bit."""
    page = html(curves=[{"step": step, "loss": 12.3} for step in range(700)])
    assert len(page.named("polyline")) == 2  # one is the key


def test_nothing_to_draw() -> None:
    for curves in ([], [{"step": 1}], [{"loss": 1.0}], [{"step": 1, "loss": "none"}]):
        assert training_charts(curves) == ""


def test_legends_give_the_values_of_the_evaluated_checkpoint() -> None:
    curves = [{"step": step, "dev/BLEU-4": float(step)} for step in (10, 20, 30)]
    for step, value in ((None, "30.0"), (20, "20.0"), (29, "20.0"), (5, "10.0")):
        charts = training_charts(curves, step)
        assert f"dev <b>{value}</b>" in charts
        assert ("values at step 20, the evaluated checkpoint" in charts) == (step == 20)
