"""`jaxcap caption` on tar and Parquet files: images are read in place, captions go to the like."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tyro
from PIL import Image
from rich.console import Console

from jaxcap.caption_files.reading import read_captions
from jaxcap.caption_files.shard_writing import ShardWriter
from jaxcap.captioning import loaded_model
from jaxcap.captioning.image_reading import read_image
from jaxcap.captioning.results import Caption, Captioned
from jaxcap.commands import caption
from jaxcap.messages.errors import InputError


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


class Model(SimpleNamespace):
    """Says how red an image is."""

    note = ""
    members = ()

    def caption(self, images: Iterable[Any], **options: object) -> Iterator[Captioned]:
        for number, image in enumerate(images):
            read = read_image(image, number, sizes=(4,))
            if read.error is None:
                red = Caption(f"red {read.pixels[0][0, 0, 0]}", -1.25, (-1.0, -0.25))
                yield Captioned(read.name, (red,), image=read.source)
            else:
                yield Captioned(read.name, (), read.error)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command in a folder with shards; return status, output and messages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loaded_model, "load", lambda *paths, **options: Model())
    members = {"a/0.png": png(7), "a/0.json": b"{}", "1.x.png": png(9), "2.png": b"no image"}
    tar(tmp_path / "in.tar", members)
    rows = {"image": [{"bytes": png(n), "path": f"{n}.png"} for n in (3, 4)], "label": [0, 1]}
    pq.write_table(pa.table(rows), tmp_path / "in.parquet")

    def call(*arguments: str) -> tuple[int, str, str]:
        console = Console(file=io.StringIO(), width=10_000, markup=False, highlight=False)
        given = tyro.cli(caption.CaptionArguments, args=caption.paths_last(arguments))
        status = caption.run(given, console)
        return status, capsys.readouterr().out, console.file.getvalue()  # type: ignore[attr-defined]

    return call


def test_images_are_read_in_place(command: Callable[..., tuple[int, str, str]]) -> None:
    status, out, messages = command("in.tar", "in.parquet")
    assert status == 1
    assert out.splitlines() == [
        "in.tar/a/0.png\tred 7",
        "in.tar/1.x.png\tred 9",
        "in.parquet/3.png\tred 3",
        "in.parquet/4.png\tred 4",
    ]
    assert "skipped: in.tar/2.png: not an image" in messages


def test_captions_of_a_tar_file_go_to_a_tar_file(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, _, messages = command("in.tar", "--output", "out.tar")
    assert status == 1
    assert "2 images captioned: out.tar" in messages
    with tarfile.open(tmp_path / "out.tar") as file:
        held = {m.name: file.extractfile(m).read().decode() for m in file}  # type: ignore[union-attr]
    assert held.pop("a/0.txt") == "red 7\n"
    assert held.pop("1.x.txt") == "red 9\n"
    # exp(-1.25 / 2), the mean over a word and the end
    numbers = {"log_prob": -1.25, "confidence": 0.5353}
    assert {name: json.loads(text) for name, text in held.items()} == {
        "a/0.json": {"caption": "red 7", **numbers},
        "1.x.json": {"caption": "red 9", **numbers},
    }
    with pytest.raises(InputError, match=r"out\.tar: the file exists.*--restart"):
        command("in.tar", "--output", "out.tar")
    assert command("in.tar", "--output", "out.tar", "--restart")[0] == 1


def test_captions_of_a_parquet_file_go_to_a_parquet_file(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    assert command("in.parquet", "--output", "out.parquet")[0] == 0
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [
        {"image": f"{n}.png", "caption": f"red {n}", "log_prob": -1.25, "confidence": 0.5353}
        for n in (3, 4)
    ]


@pytest.mark.parametrize("name", ["in.tar", "in.parquet"])
def test_a_restart_replaces_captions_but_no_images(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, name: str
) -> None:
    before = (tmp_path / name).read_bytes()
    with pytest.raises(InputError, match=f"{name}: it holds more than captions"):
        command(name, "--output", name, "--restart")
    assert (tmp_path / name).read_bytes() == before
    other = f"out{Path(name).suffix}"
    for _ in range(2):
        assert command(name, "--output", other, "--restart")[0] in (0, 1)


@pytest.mark.parametrize("member", [".notes.rst", "a/.b.py", "link.txt", "folder.json"])
def test_a_restart_replaces_no_tar_of_hidden_files_links_or_folders(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, member: str
) -> None:
    with tarfile.open(tmp_path / "out.tar", "w") as file:
        info = tarfile.TarInfo(member)
        info.type = {"link": tarfile.SYMTYPE, "folder": tarfile.DIRTYPE}.get(
            Path(member).stem, tarfile.REGTYPE
        )
        file.addfile(info)
    before = (tmp_path / "out.tar").read_bytes()
    with pytest.raises(InputError, match=r"out\.tar: it holds more than captions"):
        command("in.tar", "--output", "out.tar", "--restart")
    assert (tmp_path / "out.tar").read_bytes() == before


def test_a_restart_replaces_the_captions_of_hidden_and_of_no_images(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / ".b.png").write_bytes(png(3))
    (tmp_path / "c.png").write_bytes(b"no image")
    for name in (".b.png", "c.png", ".b.png"):
        assert command(name, "--output", "out.tar", "--restart")[0] == (name == "c.png")
    with tarfile.open(tmp_path / "out.tar") as file:
        assert file.getnames() == [".b.txt", ".b.json"]


def test_other_images_of_one_name_in_a_shard_are_named(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    rows = {"image": [png(3), png(3), png(4)], "id": ["a"] * 3}
    pq.write_table(pa.table(rows), tmp_path / "same.parquet")
    status, out, messages = command("same.parquet", "same.parquet")
    assert (status, out) == (1, "same.parquet/a\tred 3\n")
    assert messages.count("skipped: same.parquet/a: another image of this name") == 2


def test_no_member_leaves_the_folder_where_the_captions_are_unpacked(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    tar(tmp_path / "up.tar", {"../../a.png": png(3), "../b.png": png(4), "b.png": png(5)})
    status, _, messages = command("up.tar", "--output", "out.tar")
    with tarfile.open(tmp_path / "out.tar") as file:
        assert file.getnames() == ["a.txt", "a.json", "b.txt", "b.json"]
    assert status == 1
    assert "skipped: up.tar/b.png: it has the name b in the file of captions" in messages


def test_parquet_names_an_image_whose_name_is_not_text(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    tar(tmp_path / "latin.tar", {os.fsdecode(b"caf\xe9.png"): png(3)})
    assert command("latin.tar", "--output", "out.parquet")[0] == 0
    assert pq.read_table(tmp_path / "out.parquet")["image"].to_pylist() == [r"caf\udce9.png"]


def test_other_files_of_captions_name_the_image_in_its_shard(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = command("in.parquet", "--json")[1]
    (tmp_path / "out.jsonl").write_text(out)
    held = {i.ids["image"]: i.captions for i in read_captions(tmp_path / "out.jsonl").images}
    assert held == {f"in.parquet/{n}.png": [f"red {n}"] for n in (3, 4)}


def test_a_page_shows_the_images_of_shards(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    assert command("in.parquet", "in.tar", "--output", "page.html")[0] == 1
    (rows,) = re.findall(r'id="rows">(.*?)</script>', (tmp_path / "page.html").read_text())
    assert [(row["id"], row.get("size")) for row in json.loads(rows)] == [
        *(("in.parquet/3.png", [4, 4]), ("in.parquet/4.png", [4, 4])),
        *(("in.tar/a/0.png", [4, 4]), ("in.tar/1.x.png", [4, 4]), ("in.tar/2.png", None)),
    ]


def test_a_page_replaces_only_a_page_of_jaxcap(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><title>My holiday</title>")
    with pytest.raises(InputError, match=r"--output page\.html: .* not replaced.*--restart"):
        command("in.parquet", "--output", "page.html")
    assert "holiday" in page.read_text()
    assert command("in.parquet", "--output", "page.html", "--restart")[0] == 0
    page.write_text(page.read_text() + "a note")
    assert command("in.parquet", "--output", "page.html")[0] == 0
    assert "a note" not in page.read_text()
    page.write_text("")
    assert command("in.parquet", "--output", "page.html")[0] == 0


def test_shards_that_cannot_be_read_are_named(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no tar file" * 99)
    (tmp_path / "bad.parquet").write_bytes(b"no Parquet file")
    status, out, messages = command("bad.tar", "bad.parquet", "in.parquet")
    assert status == 1
    assert len(out.splitlines()) == 2
    assert "skipped: bad.tar: not a tar file that can be read in place" in messages
    assert "skipped: bad.parquet: cannot read this Parquet file" in messages
    with pytest.raises(InputError, match=r"no files beside them; give --output in-captions\.tar"):
        command("in.tar", "--beside", "txt")
    with pytest.raises(InputError, match=r"--output none/x\.tar: there is no folder none"):
        command("in.tar", "--output", "none/x.tar")


@pytest.mark.parametrize("name", ["out.tar", "out.parquet"])
def test_two_processes_never_write_one_file(
    name: str, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    with ShardWriter(Path(name)):
        with pytest.raises(InputError, match=rf"{name}: another process is writing this file"):
            command("in.parquet", "--output", name)
        with ShardWriter(Path(f"other-{name}")):  # of the same folder
            pass
    with pytest.raises(InputError, match=rf"{name}: the file exists"):
        command("in.parquet", "--output", name)
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_is_noticed_before_captioning(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    with pytest.raises(InputError, match=r"out\.tar: needs about 16\.8 MB in .*only 1\.0 MB are"):
        command("in.tar", "--output", "out.tar")
    assert not (tmp_path / "out.tar").exists()
