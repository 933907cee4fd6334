"""The fit of exponents, and what the short benchmarks read from tables."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import growth
import short

pytestmark = pytest.mark.slow


def test_exponents_are_those_of_the_larger_half() -> None:
    sizes = [10, 100, 1000, 10_000]
    assert growth.exponent(sizes, [7.0, 7.0, 3.0, 30.0]) == pytest.approx(1)
    assert growth.exponent(sizes[:2], [1.0, 100.0]) == pytest.approx(2)
    assert growth.exponent(sizes, [5.0] * 4) == pytest.approx(0)


@pytest.mark.parametrize("row", growth.ROWS, ids=lambda row: f"{row.what} {row.of}")
def test_each_row_can_be_measured(row: growth.Row) -> None:
    seconds, megabytes = growth.measure(row.make(2), turns=1)
    assert seconds >= 0
    assert megabytes > 0
    assert 2 <= row.short <= len(row.sizes)
    assert list(row.sizes) == sorted(row.sizes)


def test_figures_are_read_from_tables() -> None:
    table = "words\n| a | b | ratio | ratio |\n|---|---|---|---|\n| x | 3 | 1.5 | 7 |\nmore\n"
    assert short.figures(table, 2, "ratio") == {"x 3": 1.5}
    assert short.figures("nothing", 2, "ratio") == {}
    assert short.figures(table + "| y | 4 | 2.", 1, "ratio") == {"x": 1.5}


def test_the_second_run_is_compared_with_the_first(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(short, "HERE", tmp_path)
    monkeypatch.setattr(short, "BENCHMARKS", (("table.py --x", 1, "ratio", False),))
    for ratio in ("2.0", "3.0"):
        (tmp_path / "table.py").write_text(f"print('| a | ratio |\\n|---|---|\\n| x | {ratio} |')")
        assert short.main() == 0
    first, second = (line for line in capsys.readouterr().out.splitlines() if "table.py" in line)
    assert first == "| table.py x | ratio | 2.00 | | |"
    assert second == "| table.py x | ratio | 3.00 | 2.00 | 1.50 |"
    (tmp_path / "table.py").write_text("raise SystemExit(1)")
    assert short.main() == 1
