"""Every chapter of the tour runs, and the solutions of its exercises pass its checks."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import jupytext
import pytest
from chapters import CHAPTERS, SOLUTIONS, TOUR, checks, code, run, solutions
from PIL import Image


def test_every_chapter_is_listed_in_order() -> None:
    listed = re.findall(r"\((\d\d_\w+\.md)\)", (TOUR / "README.md").read_text("utf-8"))
    assert listed == [path.name for path in CHAPTERS]
    assert sorted(path.name for path in SOLUTIONS.iterdir()) == listed


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_checks_its_claims_and_its_exercises(chapter: Path) -> None:
    cells = "\n".join(cell.source for cell in code(jupytext.read(chapter)))
    assert cells.count("assert") >= 3
    assert "plt." in cells
    assert len(solutions(chapter)) == len(checks(chapter)) >= 2
    assert all("assert" in check for check in checks(chapter))


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_runs(chapter: Path) -> None:
    outputs = [output for cell in code(run(chapter)) for output in cell.outputs]
    assert not [o.text for o in outputs if o.get("name") == "stderr"], "a cell warns"
    figures = [png for o in outputs if (png := o.get("data", {}).get("image/png"))]
    assert figures, "no figure"
    for png in figures:
        opacity = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA").getchannel("A")
        assert opacity.getpixel((0, 0)) == 0, "a figure would glare on a dark page"
