"""A manifest is data from somebody else: it names files in its own directory, or is refused."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest

from jaxcap.storage.manifest import NAME, Content, checksum, damage, read_content, write_manifest


def sign(directory: Path, body: Any) -> None:
    """Write a manifest of any content, with the right checksum of its own."""
    if isinstance(body, dict):
        body = {**body, "crc": zlib.crc32(json.dumps(body, sort_keys=True).encode())}
    (directory / NAME).write_text(json.dumps(body))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "step"
    (directory / "variables").mkdir(parents=True)
    (directory / "variables" / "a").write_text("array")
    (directory / "config.json").write_text("{}")
    (tmp_path / "outside").write_text("secret")
    write_manifest(directory, Content(1, {"CIDEr-D": 0.5}, {"loss": 2.0}))
    return directory


def test_a_sound_directory(directory: Path) -> None:
    assert damage(directory) is None
    assert read_content(directory) == Content(1, {"CIDEr-D": 0.5}, {"loss": 2.0})
    link = directory.with_name("link")
    link.symlink_to(directory)  # a run may lie behind a link
    assert damage(link) is None


@pytest.mark.parametrize(
    "name",
    ["../outside", "variables/../../outside", "{tmp}/outside", "", ".", "a\0b", "\udcff\ud800"],
)
@pytest.mark.parametrize("parts", [None, ("variables",)])
def test_names_outside_of_the_directory_are_refused(
    directory: Path, name: str, parts: tuple[str, ...] | None
) -> None:
    outside = directory.parent / "outside"
    name = name.format(tmp=directory.parent)
    sign(directory, {"files": {name: [6, checksum(outside)]}, "content": {"step": 1}})
    found = damage(directory, parts)
    assert found == f"{NAME} names {name!r}, which is not a file in this directory"


@pytest.mark.parametrize("name", ["variables/a", "variables"])
def test_links_to_the_outside_are_refused(directory: Path, name: str) -> None:
    outside = directory.parent / "elsewhere"
    (directory / name).rename(outside)  # the content is the right one
    (directory / name).symlink_to(outside)
    assert damage(directory) == f"{NAME} names 'variables/a', which is not a file in this directory"


@pytest.mark.parametrize("name", ["pipe", "variables/pipe"])
def test_a_pipe_that_the_manifest_does_not_name_is_damage(directory: Path, name: str) -> None:
    os.mkfifo(directory / name)
    assert damage(directory) == f"{name} is not a regular file"
    assert damage(directory, ("training",)) == f"{name} is not a regular file"


def test_a_file_of_many_names_is_read_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "again").symlink_to(directory / "variables")
    os.link(directory / "variables" / "a", directory / "b")
    names = ["variables/a", "./variables//a", "again/a", "b"]
    entry = [5, checksum(directory / "b")]
    read: list[Path] = []
    monkeypatch.setattr(
        "jaxcap.storage.manifest.checksum", lambda path: (read.append(path), checksum(path))[1]
    )
    sign(directory, {"files": dict.fromkeys(names, entry), "content": {"step": 1}})
    assert damage(directory) is None
    assert len(read) == 1
    sign(directory, {"files": {names[0]: entry, "b": [5, 0]}, "content": {"step": 1}})
    assert damage(directory) == "b is not what was written (its checksum differs)"


def test_files_that_fit_into_no_memory_are_not_read(directory: Path) -> None:
    with (directory / "a").open("wb") as file:
        file.truncate(10**13)  # without a block on the disk
    sign(directory, {"files": {"a": [10**13, 0]}, "content": {"step": 1}})
    assert damage(directory) == "a and the files before it exceed this machine's memory"


def test_a_manifest_of_very_many_files_is_damage(directory: Path) -> None:
    files = {f"{number:050}": [0, 0] for number in range(50_000)}
    sign(directory, {"files": files, "content": {"step": 1}})
    assert damage(directory) == f"{NAME} is not what was written"


def test_a_link_to_itself_and_a_fifo_end(directory: Path) -> None:
    path = directory / "config.json"
    path.unlink()
    path.symlink_to(path)
    assert damage(directory) is not None
    path.unlink()
    os.mkfifo(path)
    sign(directory, {"files": {"config.json": [0, 0]}, "content": {"step": 1}})
    assert damage(directory) == "config.json is not a regular file"


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"files": [], "content": {"step": 1}},
        {"files": {}, "content": []},
        {"files": {}, "content": {}},
        {"files": {}, "content": {"step": "1"}},
        {"files": {}, "content": {"step": 1, "metrics": {"CIDEr-D": None}}},
        {"files": {}, "content": {"step": 1, "metrics": [0.5]}},
        {"files": {}, "content": {"step": 1, "note": []}},
        {"files": {"a": 1}, "content": {"step": 1}},
        {"files": {"a": [1]}, "content": {"step": 1}},
        {"files": {"a": [1, 2, 3]}, "content": {"step": 1}},
        {"files": {"a": ["1", 2]}, "content": {"step": 1}},
        {"files": {"a": None}, "content": {"step": 1}},
    ],
)
def test_other_shapes_of_manifests_are_damage(directory: Path, body: Any) -> None:
    sign(directory, body)
    assert damage(directory) == f"{NAME} is not what was written"
    assert read_content(directory) is None


def test_deeply_nested_manifests_are_damage(directory: Path) -> None:
    (directory / NAME).write_text("[" * 100_000)
    assert damage(directory) == f"{NAME} is not what was written"
    assert read_content(directory) is None
