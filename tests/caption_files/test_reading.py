"""Every format a user may have, told apart by content, and what is said of a broken one."""

from __future__ import annotations

import csv
import json
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxcap.caption_files import text_files
from jaxcap.caption_files.reading import CaptionFile, read_captions
from jaxcap.caption_files.text_files import Problems, harmless, list_in_cell
from jaxcap.messages.errors import InputError


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def held(file: CaptionFile) -> dict[str, list[str]]:
    return {next(iter(image.ids.values())): image.captions for image in file.images}


COCO = {
    "info": {},
    "images": [
        {"id": 42, "file_name": "COCO_val2014_000000000042.jpg"},
        {"id": 7, "file_name": "COCO_val2014_000000000007.jpg"},
        {"id": 8, "file_name": "COCO_val2014_000000000008.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": "A dog."},
        {"id": 2, "image_id": 42, "caption": "A cat."},
        {"id": 3, "image_id": 7, "caption": "A puppy."},
    ],
}
KARPATHY = {
    "dataset": "coco",
    "images": [
        {
            "filename": "a.jpg", "imgid": 0, "cocoid": 42, "split": "test",
            "sentences": [{"raw": "A cat.", "tokens": ["a", "cat"]}, {"tokens": ["one", "cat"]}],
        },
        {"filename": "b.jpg", "imgid": 1, "split": "train", "sentences": [{"raw": "A dog."}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "format", "expected"),
    [
        (
            [{"image_id": 42, "caption": "a cat"}, {"image_id": "7", "caption": "a dog"}],
            "COCO results",
            {"42": ["a cat"], "7": ["a dog"]},
        ),
        (COCO, "COCO annotations", {"42": ["A cat."], "7": ["A dog.", "A puppy."]}),
        (KARPATHY, "Karpathy's dataset file", {"42": ["A cat.", "one cat"], "b.jpg": ["A dog."]}),
        ({"a.jpg": "a cat"}, "JSON object of images", {"a.jpg": ["a cat"]}),
        ({"a.jpg": ["x", "y"]}, "JSON object of images", {"a.jpg": ["x", "y"]}),
        ({"1": [{"caption": "x"}]}, "JSON object of images", {"1": ["x"]}),
        (
            '{"file_name": "a.jpg", "caption": "x"}\n\n'
            '{"file_name": "b.jpg", "captions": ["y", "z"]}\n',
            "JSON lines",
            {"a.jpg": ["x"], "b.jpg": ["y", "z"]},
        ),
        ('{"image": "a.jpg", "caption": "x"}', "JSON lines", {"a.jpg": ["x"]}),
        (
            # An id beside an image_id is the caption's, and quotes hold commas and line breaks.
            'id,image_id,caption\r\n1,42,"a cat, asleep"\r\n2,42,"two\r\nlines"\r\n3,7,\r\n',
            "table",
            {"42": ["a cat, asleep", "two\r\nlines"], "7": [""]},
        ),
        ("Image Name\tText\na.jpg\ta \"big\" dog\n", "table", {"a.jpg": ['a "big" dog']}),
        ("ImagePath,Caption\na.jpg,x\n", "table", {"a.jpg": ["x"]}),
        ('{"fileName": "a.jpg", "Caption": "x"}', "JSON lines", {"a.jpg": ["x"]}),
        (
            "image_name| comment_number| comment\na.jpg| 0| a dog\na.jpg| 1| a puppy\n",
            "table",
            {"a.jpg": ["a dog", "a puppy"]},
        ),
        (
            "file_name,caption_1,caption_2\na.wav,one,two\nb.wav,three,\n",
            "table",
            {"a.wav": ["one", "two"], "b.wav": ["three"]},
        ),
        (
            "image,caption,Caption 2,caption.3,reference\na.jpg,one,two,three,other\n",
            "table",
            {"a.jpg": ["one", "two", "three"]},
        ),
        (
            '{"image": "a.jpg", "captions": ["one"], "caption_2": "two"}',
            "JSON lines",
            {"a.jpg": ["one", "two"]},
        ),
        (
            "a.jpg#0\tA cat , asleep .\na.jpg#1\tA cat\nodd.jpg.1#0\tA dog\n",
            "Flickr token file",
            {"a.jpg": ["A cat , asleep .", "A cat"], "odd.jpg.1": ["A dog"]},
        ),
    ],
)  # fmt: skip
def test_formats_are_told_apart_by_their_content(
    content: object, format: str, expected: dict[str, list[str]], tmp_path: Path
) -> None:
    found = read_captions(write(tmp_path / "file.data", content))
    assert found.format == format
    assert held(found) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,image,caption\na.jpg,b.jpg,x\n", "2 columns 'image'; expected different names"),
        (
            [
                {"image_id": 1, "file_name": "a.jpg", "caption": "x"},
                {"image_id": 1, "file_name": "b.jpg", "caption": "y"},
            ],
            "image 1 has the file_name b.jpg here and a.jpg before",
        ),
    ],
)
def test_images_that_cannot_be_told_apart_are_refused(
    content: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read_captions(write(tmp_path / "file.data", content))


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfimage,caption\na.jpg,caf\xc3\xa9\n")
    assert held(read_captions(path)) == {"a.jpg": ["café"]}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_utf16_is_read_with_and_without_its_mark(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("image,caption\r\na.jpg,犬が走る\r\n".encode(encoding))
    assert held(read_captions(path)) == {"a.jpg": ["犬が走る"]}


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "sep=;;"])
def test_excels_first_line_names_the_delimiter_and_is_no_row(first: str, tmp_path: Path) -> None:
    text = f"\ufeff{first}\r\nimage;caption\r\na.jpg;A girl, playing.\r\nb.jpg\r\n"
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(InputError, match="line 4: found 1 cell where the first line has 2"):
        read_captions(path)
    assert held(read_captions(write(path, text.removesuffix("b.jpg\r\n")))) == {
        "a.jpg": ["A girl, playing."]
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("p/1.jpg\tA girl, playing, alone.\n2.HEIC\tx\n", ["A girl, playing, alone.", "x"]),
        ('1.png,"A girl, playing."\n2.png,x\n', ["A girl, playing.", "x"]),
        ("1.jpg\ta |b|\n", ["a |b|"]),
    ],
)
def test_names_and_captions_need_no_header(
    content: str, expected: list[str], tmp_path: Path
) -> None:
    found = read_captions(write(tmp_path / "captions.txt", content))
    assert [text for image in found.images for text in image.captions] == expected
    assert found.images[0].place == "line 1"


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("['a dog', \"it's\"]", ["a dog", "it's"]),
        ("['a dog' 'a cat'\n 'x']", ["a dog", "a cat", "x"]),  # NumPy prints no commas
        ('["caf\\u00e9 \\ud83d\\ude00", "b"]', ["café 😀", "b"]),
        ("['a, b',]", ["a, b"]),
        ("[1]", ["[1]"]),
        ("['a', 1]", ["['a', 1]"]),
        ("[man] runs", ["[man] runs"]),
        ("['a'] and ['b']", ["['a'] and ['b']"]),
        ("['a", ["['a"]),
    ],
)
def test_a_list_in_one_cell_is_several_captions(
    cell: str, expected: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["filename", "raw", "split"], ["a.jpg", cell, "train"]])
    assert held(read_captions(path)) == {"a.jpg": expected}


def test_an_open_quote_in_a_cell_ends_the_search_for_a_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell = "['" + r"\'" * 1000 + "]"
    tokens = tokenize.generate_tokens
    steps: list[object] = []

    def counted(line: Callable[[], str]) -> Iterator[tokenize.TokenInfo]:
        for token in tokens(line):
            steps.append(token)
            yield token

    monkeypatch.setattr(tokenize, "generate_tokens", counted)
    assert list_in_cell(cell) == cell
    assert len(steps) < 10  # each scans the rest of the cell


def test_the_mark_before_a_formula_is_not_part_of_the_cell(tmp_path: Path) -> None:
    captions = ["=1+1", "-5 degrees", "@home", "+1", "'quoted'", "a=b", "'tis"]
    lines = [f"{n}.jpg,{harmless(caption)}\n" for n, caption in enumerate(captions)]
    assert lines[:2] == ["0.jpg,'=1+1\n", "1.jpg,'-5 degrees\n"]
    assert lines[4:] == ["4.jpg,'quoted'\n", "5.jpg,a=b\n", "6.jpg,'tis\n"]
    found = read_captions(write(tmp_path / "a.csv", "image,caption\n" + "".join(lines)))
    assert [image.captions for image in found.images] == [[caption] for caption in captions]


def test_of_a_models_n_best_the_first_counts(tmp_path: Path) -> None:
    best = [{"caption": "a dog", "log_prob": -1.5}, {"caption": "a cat", "log_prob": -2}]
    lines = [{"image": "a.jpg", "captions": best}, {"image": "b.jpg", "captions": best[:1]}]
    found = read_captions(write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, lines))))
    assert held(found) == {"a.jpg": ["a dog"], "b.jpg": ["a dog"]}
    assert found.images[0].n_best == [("a dog", -1.5), ("a cat", -2.0)]


def test_all_ids_and_splits_are_kept_and_images_without_captions_counted(tmp_path: Path) -> None:
    found = read_captions(write(tmp_path / "k.json", KARPATHY))
    assert found.images[0].ids == {"cocoid": "42", "filename": "a.jpg", "imgid": "0"}
    assert [image.split for image in found.images] == ["test", "train"]
    assert found.tokenised
    found = read_captions(write(tmp_path / "c.json", COCO))
    assert found.bare == 1
    assert found.images[0].ids["file_name"] == "COCO_val2014_000000000042.jpg"
    assert not found.tokenised


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("[]", "COCO results without a caption; expected one image or more"),
        ('[{"image_id": 1, "caption": "a"},\n {"image_id": 2 "caption": "b"}]',
         r"line 2, column 17: malformed JSON: Expecting ',' delimiter; found '.*2 \"caption\""),
        ('[{"image_id": 1, "caption": "a"}', "line 1, column 33: .* found the end of the file"),
        ("12", "found no image column"),
        ('{"image": "a", "caption": "x"}\n{"image": "b", "caption": "y"\n'
         '{"image": "c", "caption": "z"}', "line 2: malformed JSON"),
        ('{"image": "a", "caption": "x"}\n{"image": "b"}', "line 2: no caption; expected one of"),
        ('{"image": "a", "caption": "x"}\n{"photo": "b", "caption": "x"}',
         "line 2: no image id; expected one of image_id, .* found photo, caption"),
        ("image,caption\na.jpg,a dog, asleep\n",
         "line 2: found 3 cells where the first line has 2"),
        ('image,caption\na.jpg,x\nb.jpg,"never closed\n', "line 3: malformed CSV"),
        ("photo,words\na.jpg,x\n", r"no image column \(of image_id.* 'photo,words'"),
        ("image,words\na.jpg,x\n", r"no caption column \(of caption"),
        ("a.jpg#0\tA dog\nA cat\n", "line 2: expected NAME.jpg#NUMBER<TAB>CAPTION, found 'A cat'"),
        ([{"image_id": 1, "caption": None}], r"entry 1 \(image 1\): the caption is null"),
        ([{"image_id": 1, "caption": 5}], "the caption is a number: 5"),
        ([{"image_id": 1, "caption": ["a", 5]}], "a list with a number: 5 in it"),
        ([{"image_id": 1, "caption": []}], "an empty list"),
        ([{"image_id": True, "caption": "a"}], "entry 1: no image id"),
        ([5], "entry 1: expected an object {…}, found 5"),
        ({"scores": {"BLEU": 1}}, "a JSON object with scores"),
        ({"images": [{"id": 1}]}, "a list of images without captions"),
        (COCO | {"images": {"filename": None}},
         'expected a list of images, found {"filename": null}'),
        (COCO | {"annotations": [{"image_id": 9, "caption": "x"}]},
         "annotation 1: image_id 9 is not"),
        ('{"image": "a.jpg", "captions": [], "error": "no image"}', "has no caption: no image"),
        ({"images": [{"imgid": 1, "sentences": [{"raw": None}]}]},
         r"image 1 \(image 1\), sentence 1"),
        ("nothing known\nhere\n", "expected COCO results or annotations, Karpathy"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(
    content: object, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "wrong.txt", content)
    with pytest.raises(InputError, match=message) as caught:
        read_captions(path)
    assert str(caught.value).startswith(str(path))


def test_all_problems_come_together_the_first_ten_in_full(tmp_path: Path) -> None:
    entries: list[Any] = [{"image_id": n, "caption": None} for n in range(13)]
    entries.append({"image_id": 13, "caption": "fine"})
    with pytest.raises(InputError) as caught:
        read_captions(write(tmp_path / "x.json", entries))
    lines = str(caught.value).split("\n")
    assert lines[0].endswith("x.json: 13 problems:")
    assert len(lines) == 12
    assert lines[-1] == "  … and 3 more"


@pytest.mark.parametrize(
    "text",
    [
        "image,caption\na.jpg,A dog.\nb.jpg,Two dogs.\n",
        "a.jpg\tA dog.\nb.jpg\tTwo dogs.\n",
        '{"image": "a.jpg", "caption": "A dog."}\n{"image": "b.jpg", "caption": "Two dogs."}\n',
        "a.jpg#0\tA dog.\nb.jpg#0\tTwo dogs.\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_lines_may_end_with_carriage_returns_alone(
    text: str, encoding: str, tmp_path: Path
) -> None:
    (tmp_path / "x.txt").write_bytes(text.replace("\n", "\r").encode(encoding))
    assert held(read_captions(tmp_path / "x.txt")) == {"a.jpg": ["A dog."], "b.jpg": ["Two dogs."]}


def test_captions_in_a_parquet_file(tmp_path: Path) -> None:
    columns = {
        "image": [{"bytes": b"not read", "path": "x"}, None],
        "file_name": ["a.jpg", "b.jpg"],
        "captions": [["A dog.", "A pup."], ["Two dogs."]],
        "split": ["train", "val"],
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=1)
    file = read_captions(tmp_path / "x.parquet")
    assert held(file) == {"a.jpg": ["A dog.", "A pup."], "b.jpg": ["Two dogs."]}
    assert [image.split for image in file.images] == ["train", "val"]
    columns = {"image": ["a.jpg", "b.jpg"], "caption": ["x", None], "error": [None, "too large"]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet, row 2: b\.jpg has no caption: too large"):
        read_captions(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"image,caption\na.jpg,a caf\xe9\n", "line 2: the byte 0xE9 is not UTF-8"),
        (b"\xff\xfei\x00m\x00\x61", "damaged UTF-16 text: truncated data"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"PK\x03\x04\x00\x00", "a workbook, or a ZIP archive; save it as CSV in UTF-8"),
        (bytes(range(256)), "this is not a text file"),
    ],
)
def test_another_encoding_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_captions(path)


def test_many_columns_take_linear_time(tmp_path: Path) -> None:
    head = ",".join(["image", *(f"caption_{n}" for n in range(20_000))])
    found = read_captions(write(tmp_path / "a.csv", f"{head}\na.jpg{',x' * 20_000}\n"))
    assert held(found) == {"a.jpg": ["x"] * 20_000}


def test_a_file_of_more_text_than_memory_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("wb") as file:
        file.truncate(2**37)
    with pytest.raises(InputError, match=r"a\.csv: the file has 137,438,953,472 bytes; expected"):
        read_captions(tmp_path / "a.csv")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}/none.json: cannot read it")):
        read_captions(tmp_path / "none.json")


def test_repeated_names_in_an_object_are_not_lost(tmp_path: Path) -> None:
    # json.loads keeps the last silently.
    found = read_captions(write(tmp_path / "x.json", '{"a.jpg": "one", "a.jpg": "two"}'))
    assert held(found) == {"a.jpg": ["one", "two"]}


def test_a_file_of_nothing_but_problems_is_read_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "MAX_PROBLEMS", 20)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([7] * 1000))
    problems = Problems(path)
    with pytest.raises(InputError, match=r"a\.json: 20 problems:\n  entry 1: expected an object"):
        read_captions(path, problems=problems)
