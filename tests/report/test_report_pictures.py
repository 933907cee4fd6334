"""Images in reports: thumbnails or links."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxcap.report import ReportCaption, ReportRow
from jaxcap.report.pictures import Embedded, Linked, Unreadable, link, thumbnail


def rows(*images: Any) -> list[ReportRow]:
    return [ReportRow(str(i), image, [ReportCaption("a dog")]) for i, image in enumerate(images)]


def embedded(source: str) -> list[bytes]:
    """Return the bytes of each row's image, b"" for none."""
    blocks = re.findall(r'<script type="text/plain" class="pictures">(.*?)</script>', source, re.S)
    return [base64.b64decode(line) for block in blocks for line in block.split("\n")]


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (800, 400)),
        Image.new("RGBA", (800, 400)),
        Image.new("L", (800, 400)),
        np.zeros((400, 800, 3), np.uint8),
        np.zeros((400, 800), np.uint16),
    ],
)
def test_thumbnails_keep_the_aspect_ratio(html: Callable, image: Any) -> None:
    page = html(rows=rows(image))
    assert page.rows[0]["size"] == [320, 160]
    (data,) = embedded(page.source)
    assert Image.open(io.BytesIO(data)).size == (320, 160)


def test_many_thumbnails_are_smaller_and_none_is_enlarged(html: Callable, jpeg: Callable) -> None:
    some = rows(jpeg(400, 200), jpeg(40, 30))
    assert [row["size"] for row in html(rows=some).rows] == [[320, 160], [40, 30]]
    sizes = [row["size"] for row in html(rows=iter(some), count=5000).rows]
    assert sizes == [[184, 92], [40, 30]]


def test_thumbnails_match_their_rows(html: Callable, jpeg: Callable) -> None:
    # 100 rows share a block; every third has no picture.
    colours = [None if i % 3 == 0 else (i % 256, 255 - i % 256, 128) for i in range(205)]
    images = [c and Image.new("RGB", (16, 16), c) for c in colours]
    found = embedded(html(rows=rows(*images)).source)
    assert len(found) == 205
    for colour, data in zip(colours, found, strict=True):
        assert bool(colour) == bool(data)
        if colour:
            shown = np.asarray(Image.open(io.BytesIO(data)))[8, 8].astype(int)
            assert np.abs(shown - colour).max() < 8


def test_exif_rotation_is_applied(jpeg: Callable) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (400, 200)).save(file, "JPEG", exif=exif)
    picture = thumbnail(file.getvalue(), name="x", side=100)
    assert isinstance(picture, Embedded)
    assert (picture.width, picture.height) == (50, 100)


def test_a_bad_image_leaves_a_note(html: Callable, jpeg: Callable, tmp_path: Path) -> None:
    images = [b"", b"text", jpeg()[:300], np.zeros((2, 2, 3)), tmp_path / "gone.jpg", jpeg()]
    page = html(rows=rows(*images))
    notes = [row.get("note") for row in page.rows]
    assert notes[0] == "the file is empty"
    assert "not an image" in notes[1]
    assert "float64" in notes[3]
    assert "No such file" in notes[4]
    assert [bool(note) for note in notes] == [True] * 5 + [False]
    assert [bool(data) for data in embedded(page.source)] == [False] * 5 + [True]


def test_links_are_relative_to_the_page(html: Callable, jpeg: Callable, tmp_path: Path):
    folder = tmp_path / "my photos"
    folder.mkdir()
    names = ["a b#1?.jpg", "Föto 東京.png", "c%20d.webp", "scan.tif"]
    for name in names:
        (folder / name).write_bytes(jpeg())
    images = [*(folder / name for name in names), folder / "gone.jpg", jpeg()]
    page = html(name="out/report.html", rows=rows(*images), images="link")
    assert [row.get("link") for row in page.rows] == [
        "./../my%20photos/a%20b%231%3F.jpg",
        "./../my%20photos/F%C3%B6to%20%E6%9D%B1%E4%BA%AC.png",
        "./../my%20photos/c%2520d.webp",
        *(None, None, None),
    ]
    assert page.rows[4]["note"] == "no such file"
    # Browsers show no TIFF, and bytes have no address.
    assert [bool(data) for data in embedded(page.source)] == [False] * 3 + [True, False, True]


def test_a_file_name_like_a_url_is_linked_as_a_file(tmp_path: Path, jpeg: Callable) -> None:
    (tmp_path / "http:x.jpg").write_bytes(jpeg())
    assert link(tmp_path / "http:x.jpg", page=tmp_path / "r.html") == Linked("./http%3Ax.jpg")
    assert isinstance(link(tmp_path, page=tmp_path / "r.html"), Unreadable)


def test_a_file_name_that_is_not_utf8_is_linked(tmp_path: Path, jpeg: Callable) -> None:
    image = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    image.write_bytes(jpeg())
    assert link(image, page=tmp_path / "r.html") == Linked("./caf%E9.jpg")
