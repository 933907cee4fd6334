"""`jaxcap prepare`: from files in a folder to records, by the command's own options."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import tyro
from PIL import Image
from rich.console import Console

from jaxcap.commands.prepare import PrepareArguments, run
from jaxcap.datasets.prepare import find_dataset, load_source
from jaxcap.messages.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five photographs, one of them damaged, and a table of captions."""
    folder = tmp_path / "holiday"
    folder.mkdir()
    for i in range(5):
        Image.new("RGB", (40, 30), (50 * i, 0, 0)).save(folder / f"{i}.jpg")
    (folder / "4.jpg").write_bytes((folder / "4.jpg").read_bytes()[:-10])
    rows = [f"{i}.jpg,A picture of number {i},{'dev' if i == 3 else 'train'}" for i in range(5)]
    (folder / "captions.csv").write_text("\n".join(["image,caption,split", *rows]))
    return folder


def prepare(*arguments: object) -> str:
    """Run the command and return its messages."""
    console = Console(file=io.StringIO(), width=200)
    parsed = tyro.cli(PrepareArguments, args=[str(a) for a in arguments])
    assert run(parsed, console) == 0
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.slow
def test_a_folder_of_images_and_a_table(folder: Path, tmp_path: Path) -> None:
    options = ["folder", "--source", folder, "--name", "holiday", "--data-dir", tmp_path / "data"]
    options += ["--split-column", "split", "--max-side", 20]
    with pytest.raises(InputError, match=r"1 image cannot be read .*\n.*4\.jpg: cannot decode"):
        prepare(*options)
    printed = prepare(*options, "--skip-bad", "--workers", 2)
    assert "holiday: left out 1 image:\n" in printed
    assert "4.jpg: cannot decode this image" in printed
    assert printed.endswith(
        f"holiday: prepared train 3, dev 1 in {tmp_path / 'data'}/holiday/1.0.0\n"
    )
    assert find_dataset("holiday", tmp_path / "data").flippable
    (record,) = load_source("holiday", "dev", tmp_path / "data")
    assert record["captions"] == ["A picture of number 3"]
    with Image.open(io.BytesIO(record["image"])) as image:
        assert image.size == (20, 15)


def test_options_reach_the_reader(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("0.jpg\n1.jpg\n2.jpg\n")
    (tmp_path / "b.txt").write_text("3.jpg\n")
    with pytest.raises(InputError, match="flickr8k: takes no --image-key"):
        prepare("flickr8k", "--source", folder, "--image-key", "x", "--data-dir", tmp_path / "d")
    prepare(
        *("folder", "--source", folder, "--name", "listed", "--data-dir", tmp_path / "data"),
        *("--captions", folder / "captions.csv", "--caption-columns", "caption"),
        *("--image-column", "image"),
        *("--split-files", "train", tmp_path / "a.txt", "test", tmp_path / "b.txt"),
    )
    assert find_dataset("listed", tmp_path / "data").splits == {"train": 3, "test": 1}


def test_a_tfds_data_set_is_converted(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare("folder", "--source", folder, "--name", "first", "--data-dir", data, "--skip-bad")
    first = find_dataset("first", data)
    prepare("tfds", "--dataset", "first", "--name", "second", "--data-dir", data, "--workers", 2)
    assert find_dataset("second", data).splits == first.splits
    for split in first.splits:
        ours, theirs = (list(load_source(name, split, data)) for name in ("second", "first"))
        assert [(r["image"], r["captions"]) for r in ours] == [
            (r["image"], r["captions"]) for r in theirs
        ]


def test_parts_and_their_join(folder: Path, tmp_path: Path) -> None:
    options = ["folder", "--source", folder, "--name", "holiday", "--data-dir", tmp_path / "data"]
    options += ["--split-column", "split", "--skip-bad", "--workers", 1]
    for part in ("1/2", "2/2"):
        printed = prepare(*options, "--part", part)
        assert "holiday: a part is prepared in" in printed
        assert "run this command with --join in place of --part" in printed
    with pytest.raises(InputError, match="--join joins prepared parts; leave --part out"):
        prepare(*options, "--part", "1/2", "--join")
    with pytest.raises(InputError, match="--part is '3/2'"):
        prepare(*options, "--part", "3/2")
    assert "holiday: prepared train 3, dev 1" in prepare(*options, "--join")
    assert "is prepared already" in prepare(*options, "--part", "1/2")
