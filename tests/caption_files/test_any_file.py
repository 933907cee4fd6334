"""Whatever a file holds, it is read or refused with a message; nothing else happens."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcap.caption_files.reading import CaptionFile, read_captions
from jaxcap.messages.errors import InputError

NAMES = st.sampled_from(
    ["images", "annotations", "image_id", "image", "id", "caption", "captions", "sentences", "raw",
     "tokens", "split", "filename", "cocoid", "imgid", "log_prob", "error", "a.jpg", ""]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)
TEXTS = st.text(st.sampled_from('[]{}",:|;#\t\r\n\\ .a1ä\ufeff'), max_size=60).map(
    lambda text: "image,caption\n" + text if len(text) % 2 else text
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "file"


def read(path: Path, data: bytes) -> CaptionFile | None:
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        found = read_captions(path)
        assert found.images
        for image in found.images:
            assert image.captions
            assert all(isinstance(text, str) for text in image.captions)
            assert image.ids
            assert all(isinstance(text, str) for text in image.ids.values())
        return found
    return None


@pytest.mark.slow
@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_any_json(path: Path, value: Any) -> None:
    read(path, json.dumps(value).encode())


@pytest.mark.slow
@given(st.lists(VALUES, min_size=2, max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_json_lines(path: Path, values: list[Any]) -> None:
    read(path, "\n".join(map(json.dumps, values)).encode())


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5_000])
def test_json_that_python_cannot_read(path: Path, value: str) -> None:
    for text in (f'{{"a": {value}', f'{{"image": "a", "captions": {value}}}\n' * 2):
        path.write_text(text)
        with pytest.raises(InputError, match=r"malformed JSON: (nested too|a number has too)"):
            read_captions(path)


@given(TEXTS.map(str.encode) | st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text(path: Path, data: bytes) -> None:
    read(path, data)


@given(st.dictionaries(st.text(min_size=1), st.lists(st.text(), min_size=1), min_size=1))
@settings(max_examples=100, deadline=None)
def test_what_was_written_is_read(path: Path, captions: dict[str, list[str]]) -> None:
    lines = [json.dumps({"image": k, "captions": v}) for k, v in captions.items() if k.strip()]
    found = read(path, "\n".join(lines).encode())
    expected: dict[str, list[str]] = {}
    for name, texts in captions.items():
        if name.strip():
            expected[name.strip()] = expected.get(name.strip(), []) + texts
    assert ({i.ids["image"]: i.captions for i in found.images} if found else {}) == expected
