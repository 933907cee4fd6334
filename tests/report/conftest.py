"""Reports for tests, as text or in a browser."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

VOID = {"meta", "img", "br", "link", "input", "wbr"}


class Html(HTMLParser):
    """The content of a page; parsing fails if an element is not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []
        found = re.search(r'<script type="application/json" id="rows">(.*?)</script>', self.source)
        assert found is not None
        self.rows = json.loads(found[1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture
def jpeg() -> Callable[..., bytes]:
    def encoded(width: int = 400, height: int = 200, colour: str = "teal") -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), colour).save(buffer, "JPEG")
        return buffer.getvalue()

    return encoded


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a report and returns its path."""
    from jaxcap.report import write_report

    def written(name: str = "report.html", **changes: Any) -> Path:
        path = tmp_path / name
        write_report(path, **({"title": "Run", "rows": []} | changes))
        return path

    return written


@pytest.fixture
def html(write: Callable[..., Path]) -> Callable[..., Html]:
    return lambda **changes: Html(write(**changes))
