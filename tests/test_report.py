"""The report: everything that is given is on the page, escaped, and nothing is fetched."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxcap.errors import InputError
from jaxcap.report import ReportRow, write_report

VOID = {"meta", "img", "br", "line", "circle", "polyline"}


class Page(HTMLParser):
    """Checks that tags nest, and collects them and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def jpeg(width: int = 400, height: int = 200) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "JPEG")
    return buffer.getvalue()


def report(path: Path, **changes: Any) -> Page:
    given: dict[str, Any] = {"title": "Run", "summary": {}, "rows": [], "curves": [], "config": {}}
    write_report(path, **(given | changes))
    return Page(path)


def test_nothing_to_show_is_still_a_page(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    page = report(path)
    assert "No captions" in page.text
    assert page.named("svg") == []
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]  # no file left beside it


def test_text_is_escaped_and_nothing_is_fetched(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script> & <img src=http://x.com/y>'
    row = ReportRow(evil, jpeg(), evil, [evil], {evil: 1.0})
    page = report(
        tmp_path / "r.html",
        title=evil,
        summary={evil: evil, "command": evil},
        rows=[row],
        curves=[{"step": 1, f"dev/{evil}": 2.0}],
        config={evil: evil},
    )
    assert page.named("script") == []
    assert page.text.count(evil) >= 10
    assert len(page.named("img")) == 1
    for _, attributes in page.tags:
        assert not {"href", "onclick"} & attributes.keys()
        assert (attributes.get("src") or "data:").startswith("data:")
    assert "url(" not in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    "image",
    [
        jpeg(),
        Image.new("RGBA", (400, 200)),
        Image.new("L", (400, 200)),
        np.zeros((200, 400, 3), np.uint8),
        np.zeros((200, 400), np.uint8),
    ],
)
def test_images_become_small_and_keep_their_shape(tmp_path: Path, image: Any) -> None:
    page = report(tmp_path / "r.html", rows=[ReportRow("1", image, "a dog")])
    (shown,) = page.named("img")
    assert (shown["width"], shown["height"], shown["loading"]) == ("160", "80", "lazy")
    data = base64.b64decode((shown["src"] or "").split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (160, 80)


def test_a_bad_file_leaves_a_note_and_a_bad_array_an_error(tmp_path: Path) -> None:
    rows = [ReportRow(str(i), b, "a dog") for i, b in enumerate([b"", b"text", jpeg()[:300]])]
    assert report(tmp_path / "r.html", rows=rows).text.count("could not be read") == 3
    with pytest.raises(InputError, match=r"float64, shape \(2, 2, 3\)"):
        report(tmp_path / "s.html", rows=[ReportRow("1", np.zeros((2, 2, 3)), "a dog")])
    assert not (tmp_path / "s.html").exists()


def test_rows_show_scores_confidence_and_verdict(tmp_path: Path) -> None:
    scores = {"BLEU-1": 71.0, "BLEU-4": 31.25, "CIDEr-D": 88.0}
    rows = [
        ReportRow("1", jpeg(), "un chien \U0001f436 日本", ["one", "two"], scores, -8.5, True),
        ReportRow("2", jpeg(), " ", [], {"CIDEr-D": float("nan")}, None, False),
        ReportRow("3", jpeg(), "a \ud800 lone surrogate", verdict=True),
    ]
    text = report(tmp_path / "r.html", summary={"CIDEr-D": 52.04, "seed": 0}, rows=rows).text
    for expected in (
        *("un chien \U0001f436 日本", "2 references", "CIDEr-D 88.0", "BLEU-1 71.0", "log p −8.50"),
        *("empty caption", "CIDEr-D –", "true and complete, 2 of 3", "66.7", "52.0", "seed0"),
    ):
        assert expected in text
    assert (text.count("✓"), text.count("✗")) == (2, 1)


def test_the_share_of_the_whole_split_is_not_contradicted(tmp_path: Path) -> None:
    rows = [ReportRow("1", jpeg(), "a", verdict=True)]
    text = report(tmp_path / "r.html", summary={"true and complete": 91.3}, rows=rows).text
    assert "91.3" in text
    assert "1 of 1" not in text


def test_curves_are_drawn_in_two_charts(tmp_path: Path) -> None:
    curves: list[dict[str, float]] = [
        {"step": s, "loss": 10.0 / s, "learning_rate": 1e-3} for s in range(1, 2001)
    ]
    curves += [{"step": s, "dev/BLEU-4": s / 100, "dev/loss": 3.0} for s in (1000, 2000)]
    curves += [{"step": 1500, "loss": float("nan")}, {"step": 2000, "dev/BLEU-4": 24.0}]
    path = tmp_path / "r.html"
    page = report(path, curves=curves)
    charts = [svg for svg in page.named("svg") if svg.get("role") == "img"]
    assert len(charts) == 2
    assert "learning_rate" not in page.text
    # The last line for a step counts, as when a run was resumed.
    assert "dev/BLEU-4: 2 points, from 10 at step 1000 to 24 at step 2000." in page.text
    lines = re.findall(r'<polyline class="s0" points="([^"]*)"', path.read_text())
    for x, y in (pair.split(",") for line in lines for pair in line.split()):
        assert 0 <= float(x) <= 480
        assert 0 <= float(y) <= 260
    assert max(len(line.split()) for line in lines) <= 300


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-9, 1e12])
def test_one_point_is_a_chart(tmp_path: Path, value: float) -> None:
    page = report(tmp_path / "r.html", curves=[{"step": 0, "loss": value}])
    assert len([c for c in page.named("circle") if c["class"] == "s0"]) == 1
