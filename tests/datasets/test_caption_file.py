"""A split of a prepared data set as references."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxcap.datasets.caption_file import read_references
from jaxcap.datasets.prepare import load_source
from jaxcap.messages.errors import InputError


def test_a_split_is_read_by_its_name(tiny_data: Path) -> None:
    file = read_references(Path("shapes:test"), tiny_data)
    records = load_source("shapes", "test", tiny_data)
    assert len(file.images) == 5
    assert [image.ids["image_id"] for image in file.images] == [
        records[i]["image_id"] for i in range(5)
    ]
    assert file.images[0].captions == records[0]["captions"]


def test_a_file_of_that_name_comes_first(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shapes:test").write_text("a.jpg#0\tA dog .\n")
    assert read_references(Path("shapes:test"), tiny_data).images[0].captions == ["A dog ."]


def test_a_missing_split_is_named(tiny_data: Path) -> None:
    with pytest.raises(InputError, match=r"no split 'tets'; expected one of train"):
        read_references(Path("shapes:tets"), tiny_data)
    with pytest.raises(InputError, match="shape"):
        read_references(Path("shape:test"), tiny_data)


def test_a_data_set_without_a_split_names_its_splits(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()  # the folder that it was prepared from
    with pytest.raises(InputError, match=r"shapes: a prepared data set.*shapes:dev, shapes:test"):
        read_references(Path("shapes"), tiny_data)
    (tmp_path / "shapes").rmdir()
    (tmp_path / "shapes").write_text("a.jpg#0\tA dog .\n")
    assert read_references(Path("shapes"), tiny_data).images[0].captions == ["A dog ."]
