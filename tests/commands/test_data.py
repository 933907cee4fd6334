"""`jaxcap data`: what it prints, the page it writes, what it refuses."""

import io
import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from jaxcap.commands.data import DataArguments, run
from jaxcap.config import DataConfig
from jaxcap.datasets.inspection import inspect, warnings
from jaxcap.datasets.prepare import load_source, prepare
from jaxcap.datasets.sources import SourceOptions
from jaxcap.messages.errors import InputError
from jaxcap.report.data_page import write_data_page
from jaxcap.report.histograms import histogram


def _run(*arguments, **options):
    messages = io.StringIO()
    console = Console(file=messages, markup=False, highlight=False, width=200)
    return run(DataArguments(*arguments, **options), console), messages.getvalue()


def test_tab_separated_lines(tiny_data, capsys):
    status, messages = _run("shapes", data_dir=tiny_data)
    assert status == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    for expected in (
        ["images", "train", "50"],
        ["captions", "train", "250"],
        ["per-image", "dev", "5", "6"],
        ["size", "test", "80", "80", "5"],
        ["format", "train", "PNG RGB", "50"],
        ["unreadable", "dev", "0"],
    ):
        assert expected in lines
    lengths = [int(line[3]) for line in lines if line[:2] == ["length", "train"]]
    assert sum(lengths) == 250
    # 80 pixels, and 224 by default.
    assert "warning: train: 50 of 50 (100.0 %) images have a side below" in messages
    assert "--data.image-size 80" in messages
    assert "warning: dev: only 6 images, so scores are mostly chance" in messages


def test_text_alone_has_no_statistics_of_images(tmp_path, capsys):
    (tmp_path / "words.txt").write_text("a dog\n" * 3 + "two cats\n")
    options = SourceOptions(source=tmp_path / "words.txt")
    prepare("text", options, name="words", data_dir=tmp_path, console=Console(quiet=True))
    status, messages = _run("words", data_dir=tmp_path, page=tmp_path / "page.html")
    assert status == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert ["captions", "train", "4"] in lines
    assert ["repeat", "same caption", "train", "train", "2"] in lines
    assert not {line[0] for line in lines} & {"size", "format", "unreadable"}
    assert {line[1] for line in lines if line[0] == "repeat"} == {"same caption"}
    assert "side below" not in messages
    page = (tmp_path / "page.html").read_text()
    assert "two cats" in page
    assert "<img" not in page


def test_warnings_follow_the_configuration(tiny_data, tmp_path, capsys):
    (tmp_path / "small.py").write_text(
        "from jaxcap.config import *\n"
        f"CONFIG = Config(DataConfig(name='shapes', data_dir={str(tiny_data)!r}, image_size=80, "
        "min_count=7, length_buckets=(9,)))\n"
    )
    _, messages = _run(config=tmp_path / "small.py", json=True, images=False)
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "shapes"
    assert "sizes" not in found["splits"]["train"]
    assert {"min_count", "vocabulary", "unknown", "whole", "split"} == set(found["coverage"][0])
    assert 7 in {row["min_count"] for row in found["coverage"]}
    # 9 tokens hold 7 words.
    lengths = found["splits"]["train"]["caption_lengths"]
    cut = sum(count for words, count in lengths.items() if int(words) > 7)
    assert f"warning: train: {cut} of 250" in messages
    assert "enlarged" not in messages


def test_without_a_name_it_lists_the_data_sets(tiny_data, tmp_path, capsys):
    assert _run(data_dir=tiny_data) == (0, "")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split("\t")[:2] == ["shapes", "train 50, dev 6, test 5"]
    status, messages = _run(data_dir=tmp_path)
    assert (status, capsys.readouterr().out) == (0, "")
    assert f"no prepared data sets in {tmp_path}" in messages.replace("\n", " ")


def test_bad_input_is_refused_before_the_work(tiny_data, tmp_path):
    with pytest.raises(InputError, match=r"shape.*Did you mean 'shapes'"):
        _run("shape", data_dir=tiny_data)
    with pytest.raises(InputError, match=r"ends in \.html"):
        _run("shapes", data_dir=tiny_data, page=tmp_path / "page.txt")
    with pytest.raises(InputError, match="there is no folder"):
        _run("shapes", data_dir=tiny_data, page=tmp_path / "none" / "page.html")
    (tmp_path / "mine.html").write_text("my page")
    with pytest.raises(InputError, match=r"--page .*mine\.html: .* no page that jaxcap wrote"):
        _run("shapes", data_dir=tiny_data, page=tmp_path / "mine.html")
    with pytest.raises(InputError, match="--samples is -1"):
        _run("shapes", samples=-1)
    with pytest.raises(InputError, match="--seed is -1"):
        _run("shapes", seed=-1)


class _Html(HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_a_page_is_self_contained_and_deterministic(tiny_data, tmp_path, capsys):
    page, again, other = (tmp_path / f"{n}.html" for n in "abc")
    options = {"data_dir": tiny_data, "samples": 4}
    _, messages = _run("shapes", page=page, **options)
    assert f"wrote {page}" in messages
    for _ in range(2):
        _run("shapes", page=again, **options)
    _run("shapes", page=other, seed=1, **options)
    assert page.read_bytes() == again.read_bytes() != other.read_bytes()
    html = _Html(page.read_text())
    images = [attributes["src"] for tag, attributes in html.tags if tag == "img"]
    assert len(images) >= 4 + 4 + 4
    assert all(source.startswith("data:image/jpeg;base64,") for source in images)
    assert not {"script", "iframe", "object"} & {tag for tag, _ in html.tags}
    assert not [a for _, a in html.tags if {"style", "onclick"} & a.keys()]
    assert "train: 4 of 50 images at random" in html.text
    (policy,) = (a["content"] for t, a in html.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")


def test_captions_are_escaped(tmp_path):
    evil = "<script>alert('1')</script> & <b>"
    splits = {evil: [{"image": b"", "image_id": evil, "captions": [evil, evil]}] * 2}
    statistics = inspect(evil, splits, min_count=1)
    found = warnings(statistics, DataConfig())
    path = tmp_path / "page.html"
    write_data_page(path, statistics, found, splits, config=DataConfig(), samples=3, seed=0)
    html = _Html(path.read_text())
    assert "script" not in {tag for tag, _ in html.tags}
    assert html.text.count(evil) > 8
    assert "cannot read this image: the file is empty" in html.text
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_histogram_worked_by_hand():
    figure = histogram("lengths", {"train": {2: 1, 3: 3}, "dev": {3: 5}}, marks=[3, 99])
    titles = re.findall(r"<title>([^<]*)</title>", figure)
    assert titles == ["lengths", "2: 25.00 %", "3: 75.00 %"]
    heights = [
        float(h)
        for h in re.findall(
            r'class="bar" x="[^"]*" y="[^"]*" width="[^"]*" height="([^"]*)"', figure
        )
    ]
    assert heights[1] == pytest.approx(3 * heights[0], abs=0.2)
    assert figure.count("<polyline") == 2  # dev, and its key
    assert figure.count('class="mark"') == 1  # the other lies beyond
    assert "train: 2 to 3, most often 3. dev: 3 to 3, most often 3." in figure
    wide = histogram("sides", {"train": {100: 1, 700: 1}})
    assert "100 to 119: 50.00 %" in wide
    assert histogram("none", {"train": {}}) == ""


def test_the_images_of_a_split_are_listed(tiny_data, capsys):
    source = load_source("shapes", "test", tiny_data)
    assert _run("shapes", data_dir=tiny_data, list="test") == (0, "")
    names = capsys.readouterr().out.splitlines()
    assert names == [source[i]["image_id"] for i in range(5)]
    with pytest.raises(InputError, match="no data set is named"):
        _run(data_dir=tiny_data, list="test")
