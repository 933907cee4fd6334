"""WebDataset's tar files and Parquet files: read in place, with right captions and bytes."""

from __future__ import annotations

import io
import json
import os
import random
import re
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from jaxcap.data.image_parquet import parquet_images
from jaxcap.data.image_paths import named_left_out
from jaxcap.data.image_tar import tar_images
from jaxcap.datasets.prepare import load_source, prepare
from jaxcap.datasets.sources import Listing, SourceOptions
from jaxcap.datasets.sources.registry import read
from jaxcap.messages.errors import InputError


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (shade, 40, 200)).save(file, "JPEG")
    return file.getvalue()


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def table(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def held(listing: Listing) -> dict[str, dict[str, tuple[bytes, tuple[str, ...]]]]:
    return {
        split: {e.image_id: (e.image.read(), e.captions) for e in examples}  # type: ignore[union-attr]
        for split, examples in listing.splits.items()
    }


def test_members_of_one_name_belong_together(tmp_path: Path) -> None:
    first = {
        "000.jpg": jpeg(0),
        "000.txt": b"A dog.\nTwo words\n",
        "000.json": json.dumps({"caption": "not read", "url": "x"}).encode(),
        "a/001.JPG": jpeg(1),
        "a/001.json": json.dumps({"url": "x", "caption": "A café.", "status": "success"}).encode(),
        "002.seg.png": jpeg(2),
        "002.caption": b"A cat.",
    }
    tar(tmp_path / "train-00.tar", first)
    tar(tmp_path / "val" / "00.tar", {"./._3.jpg": b"x", "3.jpg": jpeg(3), "3.txt": b"A hen."})
    assert held(read("webdataset", SourceOptions(source=tmp_path))) == {
        "train": {
            "000": (jpeg(0), ("A dog.", "Two words")),
            "a/001": (jpeg(1), ("A café.",)),
            "002": (jpeg(2), ("A cat.",)),
        },
        "dev": {"3": (jpeg(3), ("A hen.",))},
    }


def test_odd_tar_files_lose_no_image(tmp_path: Path) -> None:
    """Dots in names, any order, `./`, hard links, macOS's metadata, a member that comes again."""
    path = tmp_path / "train.tar"
    images = ["IMG.2020.1.jpg", "IMG.2020.2.JPG", "./a/b.jpg", "/c.jpg"]
    hidden = {"__MACOSX/c.jpg": b"x", "a/._b.jpg": b"x", "@eaDir/c.jpg/THUMB.jpg": b"x"}
    old = {"IMG.2020.1.jpg": b"replaced", "IMG.2020.1.txt": b"replaced"}
    tar(path, hidden | old)
    tar(path, {name: jpeg(n) for n, name in enumerate(images)}, "a")
    tar(path, {f"{name[:-3]}txt": f"{n}".encode() for n, name in enumerate(images)}, "a")
    with tarfile.open(path, "a") as file:
        link = tarfile.TarInfo("copy.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "IMG.2020.2.JPG"
        file.addfile(link)
    tar(path, {"copy.caption": b"link", "notes.md": b"", "IMG_3.CR2": b""}, "a")
    listing = read("webdataset", SourceOptions(source=path))
    assert held(listing)["train"] == {
        "IMG.2020.1": (jpeg(0), ("0",)),
        "IMG.2020.2": (jpeg(1), ("1",)),
        "a/b": (jpeg(2), ("2",)),
        "c": (jpeg(3), ("3",)),
        "copy": (jpeg(1), ("link",)),
    }
    left_out = [path / name for name in sorted(hidden)]
    assert listing.notes == (named_left_out(left_out),)
    reported: list[Path] = []
    assert [image.member for image in tar_images(path, reported.append)] == [
        *("IMG.2020.1.jpg", "IMG.2020.2.JPG", "a/b.jpg", "c.jpg", "copy.jpg"),
    ]
    assert reported == [*left_out, path / "IMG_3.CR2"]
    with tarfile.open(path, "a") as file:
        link.type = tarfile.SYMTYPE
        file.addfile(link)
    with pytest.raises(InputError, match=r"'copy\.jpg' is a link; write it with tar --dereference"):
        read("webdataset", SourceOptions(source=path))
    link.type = tarfile.LNKTYPE
    path.write_bytes(link.tobuf() + bytes(1024))
    with pytest.raises(InputError, match=r"'copy\.jpg' links to 'IMG\.2020\.2\.JPG', not here"):
        read("webdataset", SourceOptions(source=path))


def test_several_images_of_one_name_need_captions_of_their_own(tmp_path: Path) -> None:
    pair = {"0.jpg": jpeg(0), "0.seg.png": jpeg(1), "0.txt": b"x"}
    tar(tmp_path / "train.tar", pair)
    with pytest.raises(InputError, match=r"train\.tar, 0\.seg\.png: no 0\.seg\.txt beside it"):
        read("webdataset", SourceOptions(source=tmp_path))
    listing = read("webdataset", SourceOptions(source=tmp_path, skip_bad=True))
    assert held(listing) == {"train": {"0": (jpeg(0), ("x",))}}


def test_names_that_occur_in_two_shards_get_the_name_of_the_shard(tmp_path: Path) -> None:
    for name in ("x", "y"):
        tar(tmp_path / f"{name}.tar", {"0.jpg": jpeg(0), "0.txt": name.encode()})
    listing = read("webdataset", SourceOptions(source=tmp_path, split_fractions={"train": 1.0}))
    assert {i: c for i, (_, c) in held(listing)["train"].items()} == {
        "x/0": ("x",),
        "y/0": ("y",),
    }


def test_shards_in_linked_folders_are_found_and_hidden_ones_are_not(tmp_path: Path) -> None:
    tar(tmp_path / "disk" / "train.tar", {"0.jpg": jpeg(0), "0.txt": b"x"})
    tar(tmp_path / "source" / ".cache" / "train.tar", {"1.jpg": jpeg(1), "1.txt": b"y"})
    (tmp_path / "source" / "link").symlink_to(tmp_path / "disk")
    listing = read("webdataset", SourceOptions(source=tmp_path / "source"))
    assert held(listing) == {"train": {"0": (jpeg(0), ("x",))}}
    assert listing.notes[0].endswith(f"not named like images: {tmp_path / 'source' / '.cache'}")


def test_problems_of_shards_are_named_together(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"0.jpg": jpeg(0), "1.jpg": jpeg(1), "1.txt": b" \n"})
    lone = {"4.txt": b"x", "5.cls": b"1"}
    tar(tmp_path / "b.tar", {"2.jpg": jpeg(2), "2.json": b'{"url": "x"}'} | lone)
    tar(tmp_path / "c.tar", {"3.jpg": jpeg(3), "3.txt": b"x"}, "w:gz")
    with pytest.raises(InputError) as caught:
        read("webdataset", SourceOptions(source=tmp_path))
    message = str(caught.value)
    assert "5 problems" in message
    assert f"{tmp_path / 'b.tar'}, 4.txt: no image of this name beside it" in message
    assert f"{tmp_path / 'a.tar'}, 0.jpg: no 0.txt beside it" in message
    assert f"{tmp_path / 'a.tar'}, 1.txt: no caption" in message
    assert f"{tmp_path / 'b.tar' / '2.json'}: no caption; expected an object with" in message
    assert f"{tmp_path / 'c.tar'}: not a tar file that can be read in place" in message
    for path in (tmp_path / "b.tar", tmp_path / "c.tar"):
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(InputError) as caught:
        read("webdataset", SourceOptions(source=tmp_path))
    for path in (tmp_path / "b.tar", tmp_path / "c.tar"):
        assert f"{path}: a Git LFS pointer, not the file itself" in str(caught.value)
    with pytest.raises(InputError, match=r"no \.parquet file in this folder"):
        read("parquet", SourceOptions(source=tmp_path))


def test_parquet_of_hugging_face(tmp_path: Path) -> None:
    images = [{"bytes": jpeg(n), "path": f"{n}.jpg"} for n in range(5)]
    texts = [["A dog.", "A pup."], ["x"], ["y"], ["z"], ["w"]]
    table(
        tmp_path / "data" / "train-00000-of-00001.parquet",
        {"image": images[:4], "sentences": texts[:4]},
        row_group_size=3,
    )
    table(tmp_path / "data" / "test.parquet", {"image": images[4:], "sentences": texts[4:]})
    assert held(read("parquet", SourceOptions(source=tmp_path))) == {
        "train": {f"{n}.jpg": (jpeg(n), tuple(texts[n])) for n in range(4)},
        "test": {"4.jpg": (jpeg(4), ("w",))},
    }


def test_parquet_with_columns_of_other_names(tmp_path: Path) -> None:
    path = table(
        tmp_path / "x.parquet",
        {
            "thumbnail": [b"no"],
            "scan": [jpeg(1)],
            "German": ["Ein Hund."],
            "caption": ["no"],
            "key": ["k"],
        },
    )
    options = SourceOptions(
        source=path,
        image_column="scan",
        caption_columns=("German",),
        split_fractions={"train": 1.0},
    )
    assert held(read("parquet", options)) == {"train": {"k": (jpeg(1), ("Ein Hund.",))}}


def test_problems_of_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "x.parquet", {"url": ["http://x"], "caption": ["x"]})
    with pytest.raises(InputError, match=r"no column of images.*url \(string\).*img2dataset"):
        read("parquet", SourceOptions(source=path))
    table(path, {"image": [jpeg(0)], "label": [1]})
    with pytest.raises(InputError, match=r"no column of captions.*image, label.*--caption-columns"):
        read("parquet", SourceOptions(source=path))
    table(path, {"image": [jpeg(0), None, jpeg(2)], "text": ["x", "y", None]})
    with pytest.raises(InputError, match=r"row 3: no caption under text"):
        read("parquet", SourceOptions(source=path))
    options = SourceOptions(source=path, skip_bad=True, split_fractions={"train": 1.0})
    examples = read("parquet", options).splits["train"]
    with pytest.raises(InputError, match=r"x\.parquet/group 0 row 1: no image under 'image'"):
        examples[1].image.read()  # type: ignore[union-attr]
    for columns in (
        {"image.bytes": [jpeg(0)], "text": ["x"]},
        {"image": [{"bytes": {"bytes": jpeg(0)}}], "text": ["x"]},
    ):
        table(path, columns)
        with pytest.raises(InputError, match="no column of images"):
            read("parquet", SourceOptions(source=path))
    twice = pa.table([[jpeg(0)], ["x"], ["y"]], ["image", "text", "text"])
    pq.write_table(twice, path)
    with pytest.raises(InputError, match="several columns are called 'text'"):
        read("parquet", SourceOptions(source=path))
    monkeypatch.setattr("jaxcap.data.image_files._SMALL_BYTES", 0)
    table(path, {"image": [jpeg(0)], "text": ["x" * 10**6]}, compression="zstd")
    with pytest.raises(InputError, match=r"row group 0 takes 4,00\d,\d\d\d bytes; expected at"):
        read("parquet", SourceOptions(source=path))
    path.write_bytes(b"PAR1 damaged")
    with pytest.raises(InputError, match="cannot read this Parquet file"):
        read("parquet", SourceOptions(source=path))


def test_a_folder_of_shards_names_the_format_to_use(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", {"0.jpg": jpeg(0)})
    with pytest.raises(InputError, match=f"jaxcap prepare webdataset --source {tmp_path}"):
        read("folder", SourceOptions(source=tmp_path))


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_the_prepared_images_are_those_of_the_shards(format: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    if format == "webdataset":
        members = {f"{n}.jpg": jpeg(n) for n in range(3)} | {f"{n}.txt": b"x" for n in range(3)}
        tar(source / "train.tar", dict(sorted(members.items())))
    else:
        rows = {"image": [jpeg(n) for n in range(3)], "text": ["x"] * 3, "key": list("012")}
        table(source / "train.parquet", rows, row_group_size=2)
    prepare(
        format,
        SourceOptions(source=source),
        name="x",
        data_dir=tmp_path / "data",
        console=Console(quiet=True),
    )
    records = load_source("x", "train", tmp_path / "data")
    assert [(r["image_id"], r["image"], r["captions"]) for r in records] == [
        (str(n), jpeg(n), ["x"]) for n in range(3)
    ]


def header(name: str, *, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return the header of a tar member that claims any size, negative ones too."""
    info = tarfile.TarInfo(name)
    info.type = kind
    written = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    written[124:136] = (size % 2**96).to_bytes(12, "big")
    written[124] |= 0x80
    written[148:156] = b"%06o\0 " % (sum(written[:148]) + 8 * 0x20 + sum(written[156:]))
    return bytes(written)


@pytest.mark.parametrize(
    "data",
    [
        # Back to itself, for ever: CVE-2025-8194, mended in some versions of Python.
        header("a.jpg", size=512) + bytes(512) + header("b.jpg", size=-512),
        header("b", size=-512, kind=tarfile.XHDTYPE),
        header("a.jpg", size=2**40),
        header("a.jpg", size=2**80),
        (header("././@LongLink", size=512, kind=tarfile.GNUTYPE_LONGNAME) + bytes(512)) * 2000,
        header("a.jpg", kind=tarfile.GNUTYPE_SPARSE),
    ],
    ids=["negative", "negative extension", "large", "larger", "deep", "sparse"],
)
def test_hostile_tar_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "train.tar"
    path.write_bytes(data + bytes(1024))
    with pytest.raises(InputError, match=r"train\.tar(: not a tar file that can be read in|, )"):
        read("webdataset", SourceOptions(source=path))


def test_members_are_bounded_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.tar"
    with path.open("wb") as file:  # sparse on the disk
        for name in ("a.jpg", "a.txt"):
            file.write(header(name, size=2**31))
            file.seek(2**31, os.SEEK_CUR)
        file.write(bytes(1024))
    (image,) = tar_images(path)
    with pytest.raises(InputError, match="2,147,483,648 bytes; expected at most 1,073,741,824"):
        image.read()
    with pytest.raises(InputError, match=r"a\.txt: 2,147,483,648 bytes; expected at most"):
        read("webdataset", SourceOptions(source=path))


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_large_headers_of_a_tar_file_are_not_read(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "train.tar"
    with path.open("wb") as file:
        file.write(header("a.jpg", size=2**33, kind=kind))
        file.truncate(2**34)
    with pytest.raises(InputError, match="a header has 8,589,934,592 bytes; expected at most"):
        tar_images(path)


def test_an_image_of_many_rows_is_read_once(tmp_path: Path) -> None:
    """Parquet stores equal values once: a small file may hold a million rows of one image."""
    image = jpeg(3) + bytes(2**20)
    for name, value in {"plain": image, "struct": {"bytes": image, "path": "a"}}.items():
        keys = [f"{i}.jpg" for i in range(100)]
        columns = {"image": pa.array([value] * 100), "text": ["A dog."] * 100, "key": keys}
        path = table(tmp_path / f"{name}.parquet", columns)
        listing = read("parquet", SourceOptions(source=path, split_fractions={"train": 1.0}))
        pool = pa.default_memory_pool()
        before = pool.bytes_allocated()
        assert listing.splits["train"][99].image.read() == image  # type: ignore[union-attr]
        assert pool.bytes_allocated() - before < 10 * 2**20


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_pipes_and_devices_are_refused(tmp_path: Path, suffix: str) -> None:
    name = "webdataset" if suffix == "tar" else suffix
    os.mkfifo(tmp_path / f"a.{suffix}")
    os.symlink("/dev/zero", tmp_path / f"b.{suffix}")
    for source in (tmp_path, tmp_path / f"b.{suffix}"):
        with pytest.raises(InputError, match=r"not a regular file|no .* file in this folder"):
            read(name, SourceOptions(source=source))


@pytest.mark.slow
def test_any_damaged_byte_of_a_parquet_file_ends_with_a_message(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", {"image": [b"xxx"], "text": ["A dog."]})
    data, said = path.read_bytes(), []
    for place in range(4, len(data)):
        path.write_bytes(data[:place] + b"\x7f" + data[place + 1 :])
        try:
            held(read("parquet", SourceOptions(source=path, split_fractions={"train": 1.0})))
        except InputError as error:
            said.append(str(error))
    assert any("out-of-bounds" in text for text in said)


def test_damaged_pages_and_impossible_counts_of_rows_are_named(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", {"image": [jpeg(0)], "text": ["A dog."]})
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    with pytest.raises(InputError, match=r"a\.parquet: cannot read this Parquet file"):
        held(read("parquet", SourceOptions(source=path, split_fractions={"train": 1.0})))
    table(path, {"image": [jpeg(0)], "text": pa.array([b"\xff"]).view(pa.string())})
    with pytest.raises(InputError, match=r"a\.parquet: cannot read this Parquet file: 'utf-8'"):
        read("parquet", SourceOptions(source=path))
    # pyarrow ends the process when it is asked for the size of this column.
    table(path, {"image": [b"x"] * 2, "text": ["A dog.", "A cat."]})
    data = re.sub(rb"\x19\x06\x19\x26(..)", b"\x19\x26\\1\x19\x06", path.read_bytes(), flags=re.S)
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot read this Parquet file: Repetition level"):
        read("parquet", SourceOptions(source=path))
    rows = 10**6
    empty = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), [b"x"])
    table(path, {"image": empty.dictionary_decode(), "text": empty.dictionary_decode()})
    assert path.stat().st_size < rows
    with pytest.raises(InputError, match=r"1,000,000 rows in [\d,]+ bytes"):
        read("parquet", SourceOptions(source=path))


@pytest.mark.parametrize("column", ["text", "id"])
def test_a_text_of_many_rows_takes_its_size_for_each(column: str, tmp_path: Path) -> None:
    rows = 5000
    texts = {"text": ["A dog."] * rows, "id": [str(row) for row in range(rows)]}
    long = random.Random(0).randbytes(15_000).hex()
    columns = {"image": [b"x"] * rows, **texts, column: [long] * rows}
    path = table(tmp_path / "a.parquet", columns)
    assert path.stat().st_size < 200_000
    with pytest.raises(InputError, match=r"row group 0 takes [\d,]+ bytes; expected at most"):
        read("parquet", SourceOptions(source=path))


def test_texts_that_pandas_stored_as_categories_are_read(tmp_path: Path) -> None:
    kinds, rows = [f"{number} {'dogs ' * 1000}" for number in range(500)] + ["A dog."], 3000
    texts = pa.DictionaryArray.from_arrays([500] * rows, kinds)
    path = table(tmp_path / "a.parquet", {"image": [b"x"] * rows, "text": texts})
    found = [record["text"] for _, record in parquet_images(path, values=["text"])]
    assert found == ["A dog."] * rows
    assert len(list(parquet_images(path))) == rows


@pytest.mark.parametrize("kind", [pa.duration("s"), pa.timestamp("us"), pa.date32()])
def test_dates_beyond_those_of_python_are_named(kind: pa.DataType, tmp_path: Path) -> None:
    far = pa.array([2 ** (kind.bit_width - 2)], pa.int32() if kind.bit_width == 32 else pa.int64())
    path = table(tmp_path / "a.parquet", {"image": [b"x"], "text": ["x"], "id": far.view(kind)})
    with pytest.raises(InputError, match=r"a\.parquet: cannot read this Parquet file: \w+"):
        read("parquet", SourceOptions(source=path))
