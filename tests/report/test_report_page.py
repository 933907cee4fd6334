"""The written page: escaped text, atomic writing, no requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxcap.report import OtherScores, ReportCaption, ReportRow, write_report


def row(image: Any = None, text: str = "a dog", name: str = "1", **rest: Any) -> ReportRow:
    return ReportRow(name, image, [ReportCaption(text)], **rest)


def test_a_report_without_captions_is_a_page(html: Callable, tmp_path: Path) -> None:
    page = html(name="new/report.html")
    assert "There are no captions" in page.text
    assert page.named("svg") == []
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]  # none beside it


def test_text_is_escaped_and_nothing_is_fetched(html: Callable, jpeg: Callable) -> None:
    evil = '</script><script>alert("1")</script><!-- & <img src=http://x.com/y>'
    page = html(
        title=evil,
        scores={evil: 1.0},
        intervals={evil: (0.5, 1.5)},
        signature=evil,
        facts={evil: evil, "command": evil},
        rows=[row(jpeg(), evil, evil, references=[evil], scores={evil: 1.0})],
        curves=[{"step": 1, f"{evil}/{evil}": 2.0}],
        config={evil: evil},
    )
    kinds = [attributes.get("type", "program") for attributes in page.named("script")]
    assert kinds == ["application/json", "program", "text/plain"]
    assert page.named("img") == []
    assert page.text.count(evil) >= 8
    (shown,) = page.rows
    assert (shown["id"], shown["captions"], shown["references"]) == (evil, [[evil, None]], [evil])
    assert [a["href"] for a in page.named("link")] == ["data:,"]
    for _, attributes in page.tags:
        assert not {"src", "onclick", "onload", "style"} & attributes.keys()
    assert "url(" not in page.source
    assert "@import" not in page.source


def test_the_policy_allows_no_request(html: Callable, jpeg: Callable, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())

    def policy(**changes: Any) -> dict[str, str]:
        rows = [row(tmp_path / "a.jpg")]
        (found,) = [
            a["content"]
            for a in html(rows=rows, **changes).named("meta")
            if a.get("http-equiv") == "Content-Security-Policy"
        ]
        return dict(each.split(" ", 1) for each in found.split("; "))

    alone = policy()
    assert alone["default-src"] == alone["base-uri"] == alone["form-action"] == "'none'"
    assert alone["img-src"] == "data:"
    for kind in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", alone[kind])
    assert policy(images="link")["img-src"] == "data: file: 'self'"


def test_scores_intervals_and_facts_are_shown(html: Callable) -> None:
    page = html(
        scores={"CIDEr-D": 52.04, "BLEU-4": float("nan"), "gain": -1.26},
        intervals={"CIDEr-D": (50.11, 54.26), "unknown": (0.0, 1.0)},
        signature="BLEU|tok:ptb|images:1000",
        facts={"seed": 0, "split": "dev"},
    )
    for expected in (
        *("CIDEr-D52.0", "50.1 to 54.3", "BLEU-4–", "gain−1.3", "seed0", "splitdev"),
        *("BLEU|tok:ptb|images:1000", "95 % interval"),
    ):
        assert expected in page.text
    assert "unknown" not in page.text
    assert "interval" not in html(scores={"CIDEr-D": 52.0}).text
    assert "Configuration" not in page.text
    assert '"seed": 0' in html(config={"train": {"seed": 0}}).text


def test_scores_of_two_models_stand_side_by_side(html: Callable) -> None:
    against = OtherScores({"CIDEr-D": 50.0}, {"CIDEr-D": (2.0, -0.5, 4.0)})
    page = html(scores={"CIDEr-D": 52.0, "SPICE": 9.0}, against=against)
    assert "CIDEr-D52.050.0+2.0 −0.5 to +4.0" in page.text
    assert "SPICE9.0––" in page.text


def test_options_stay_on_one_line(html: Callable) -> None:
    page = html(facts={"command": "jaxcap evaluate runs/mine --split <dev>"})
    assert 'runs/<wbr>mine <span class="option">--split</span> &lt;dev&gt;' in page.source


def test_rows_are_read_once_and_a_few_at_a_time(tmp_path: Path, jpeg: Callable) -> None:
    data = jpeg(8, 8)
    taken, done = [], []

    def rows() -> Iterator[ReportRow]:
        for i in range(250):
            taken.append(i)
            yield row(data, name=str(i))

    def progress(number: int) -> None:
        done.append(number)
        assert len(taken) <= number + 1

    write_report(tmp_path / "r.html", title="Run", rows=rows(), count=250, progress=progress)
    assert taken == list(range(250))
    assert done == [100, 200, 250]


@pytest.mark.parametrize("images", ["embed", "link"])
def test_an_error_keeps_the_old_page(tmp_path: Path, images: Any) -> None:
    (tmp_path / "r.html").write_text("old")

    def rows() -> Iterator[ReportRow]:
        yield row()
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        write_report(tmp_path / "r.html", title="Run", rows=rows(), images=images)
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    assert (tmp_path / "r.html").read_text() == "old"


def test_odd_text_is_written(html: Callable) -> None:
    texts = ["un chien \U0001f436 日本", "كلب يجري", "a\u2028b\u0000c", "  ", "", "\x85"]
    page = html(rows=[row(text=text) for text in [*texts, "lone \ud800"]])
    shown = [each["captions"][0][0] for each in page.rows]
    assert shown == [text.strip() for text in texts] + ["lone \ud800"]
