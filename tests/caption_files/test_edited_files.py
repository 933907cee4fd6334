"""Caption files that somebody edited: continued if every row is whole, refused unchanged if not."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

from jaxcap.caption_files.output_formats import FORMATS, Csv, JsonLines
from jaxcap.caption_files.writing import CaptionWriter, read_entries
from jaxcap.captioning.results import Caption, Captioned
from jaxcap.messages.errors import InputError

CSV_HEAD = b"image,caption,log_prob,confidence\n"
FIVE = [("pipe.jpg", "a pipe"), ("b/é.jpg", "two dogs, one cat"), ("c.jpg", 'a "quoted" word'),
        ("000000000042.jpg", "a red bus"), ("e.jpg", "grass")]  # fmt: skip


def written(path: Path, name: str) -> bytes:
    with CaptionWriter(path, FORMATS[name]()) as file:
        for image, text in FIVE:
            file.add(Captioned(image, (Caption(text, -2.5, (-1.0, -1.0, -0.5)),)))
    return path.read_bytes()


def refusal(path: Path, name: str) -> str:
    """The message that refuses a file, which must stay as it was, byte for byte."""
    before = path.read_bytes()
    with pytest.raises(InputError) as refused:
        CaptionWriter(path, FORMATS[name]())
    assert path.read_bytes() == before
    with pytest.raises(InputError):
        list(read_entries(path, FORMATS[name]()))
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("csv", b"pipe.jpg,a pipe", b'pipe.jpg,a 5" pipe', 2),
        ("csv", b"pipe.jpg,a pipe", b'pipe.jpg,"a pipe', 2),
        ("csv", b"pipe.jpg,a pipe", b'"pipe.jpg,a pipe', 2),
        ("csv", b"pipe.jpg,a pipe", b'pipe.jpg,"a 5" pipe"', 2),
        ("csv", b"pipe.jpg,a pipe", b"pipe.jpg,a pipe, old", 2),
        ("csv", b"pipe.jpg,a pipe,", b"pipe.jpg,", 2),
        ("csv", b"000042.jpg,a red", b'000042.jpg,"a red', 5),
        ("csv", b"e.jpg,grass", b'e.jpg,"grass', 6),
        ("csv", b"e.jpg,grass", b'"e.jpg,grass', 6),
        ("csv", b"e.jpg,grass", b'e.jpg,6" of grass', 6),
        ("csv", b"grass,-2.5000", b"grass,likely", 6),
        ("csv", b"image,caption", b"image;caption", 1),
        ("text", b"pipe.jpg\ta pipe", b"pipe.jpg a pipe", 1),
        ("text", b"pipe.jpg\ta pipe", b"pipe.jpg\ta\tpipe", 1),
        ("text", b"e.jpg\tgrass", b"e.jpg grass", 5),
        ("jsonl", b"a pipe", b'a 5" pipe', 1),
        ("jsonl", b"grass", b'6" of grass', 5),
        ("jsonl", b'"grass"', b'"grass', 5),
        ("jsonl", b'"e.jpg"', b"5", 5),
        ("coco", b"a pipe", b'a 5" pipe', 2),
        ("coco", b'pipe"},', b'pipe"}', 3),
        ("coco", b'bus"},', b'bus"}', 6),
        ("coco", b'"a red bus"', b"null", 5),
        ("coco", b'"grass"', b'"grass', 6),
        ("coco", b"\n]\n", b'\n]\n{"image_id": 1, "caption": "a"}\n', 8),
        ("coco", b'bus"},\n', b'bus"}, ', 5),
        ("coco", b'bus"},', b'bus"},]', 6),
        ("coco", b'pipe"},', b'pipe"},\x1c', 2),
        ("coco", b'pipe"},\n', b'pipe"},\n\x0c\n', 3),
        ("coco", b"\n]\n", b",]\n]\n{}\n", 8),
    ],
)
def test_a_damaged_row_is_named_and_nothing_is_lost(
    tmp_path: Path, name: str, old: bytes, new: bytes, line: int
) -> None:
    path = tmp_path / "all"
    content = written(path, name)
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    message = refusal(path, name)
    assert message.startswith(f"{path}, line {line}: found ")
    assert "; expected " in message
    assert "not changed" in message
    assert "another --output" in message


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("csv", b"f.jpg,a cat,-1.0,0.5"),
        ("csv", b'f.jpg,a 5" cat'),
        ("csv", b"f.jpg,a cat,-1.0000,0.50001"),
        ("csv", b'"f.jpg,a cat,-1.0000,0.5000'),
        ("csv", b'f.jpg,"a\xff'),
        ("csv", b'f.jpg,"a 5 pipe,-2,1\ng.jpg,a red bus,-3,1\nh.jpg,a blue bus,-3,0.5\n'),
        ("csv", b'f.jpg,"a 5 pipe,-1e-05,1\n'),
        ("csv", b'f.jpg,"a 5 pipe\ng.jpg,a red bus\n'),
        ("csv", b'f.jpg,a "red" bus,"\ng.jpg,a red bus\n'),
        ("csv", b'f.jpg,"a 5 pipe\r\ng.jpg,a bus",-3.0000,'),
        ("csv", b'"f.jpg,a pipe\ng.jpg,a red bus\n'),
        ("csv", b'"f.jpg,a pipe\ng.jpg",a red bus,-3.0000,'),
        ("text", b"f.jpg\ta\tcat"),
        ("text", b"f.jpg\t\0\0"),
        ("text", b"f.jpg\ta \xff\xfe cat"),
        ("jsonl", b"f.jpg\ta cat"),
        ("jsonl", b'{"image": "f.jpg", "caption": "a'),
        ("jsonl", b'{"image": "f.jpg", "captions": ["a'),
        ("jsonl", b'{"image": "f.jpg", "captions": [{"caption": "a 5" pipe", "log'),
        ("jsonl", b'{"image": "f.jpg", "captions": [{"caption": "a"}]'),
        ("coco", b',\n{"image": "f.jpg"'),
        ("coco", b',\n{"image_id": 7, "caption": "a 5" pi'),
        ("coco", b',\n{"image_id": 7, "caption": "a"'),
    ],
)
def test_a_last_row_is_removed_only_if_it_is_an_unfinished_write(
    tmp_path: Path, name: str, tail: bytes
) -> None:
    path = tmp_path / "all"
    content = written(path, name).removesuffix(FORMATS[name].tail.encode())
    path.write_bytes(content + tail)
    if tail.endswith((b'"a"}]', b'"a"')):  # these two are unfinished, indeed
        with CaptionWriter(path, FORMATS[name]()) as file:
            assert file.removed == tail.decode().lstrip(",\n")
        assert path.read_bytes() == written(tmp_path / "again", name)
    else:
        assert "found" in refusal(path, name)


@pytest.mark.parametrize("name", ["csv", "jsonl"])
def test_a_last_row_without_its_line_end_is_kept(tmp_path: Path, name: str) -> None:
    """Some editors remove the last line end of a file."""
    path = tmp_path / "all"
    content = written(path, name).replace(b"grass", b"tall grass")
    path.write_bytes(content.removesuffix(b"\n"))
    with CaptionWriter(path, FORMATS[name]()) as file:
        assert "e.jpg" in file.keys
        assert file.removed == ""
    assert path.read_bytes() == content


def test_an_edited_caption_is_kept(tmp_path: Path) -> None:
    for name in FORMATS:
        path = tmp_path / name
        content = written(path, name).replace(b"a pipe", b"a blue pipe")
        path.write_bytes(content)
        with CaptionWriter(path, FORMATS[name]()) as file:
            assert len(file.keys) == len(FIVE)
        assert path.read_bytes() == content


def test_words_and_attention_cut_off_anywhere(tmp_path: Path) -> None:
    """An unfinished entry of nested values is recognised at each of its bytes."""
    format, path = JsonLines(words=True), tmp_path / "all"
    grids = np.full((2, 4), 0.25, np.float32)
    tokens = ('say "é\\', "b")
    caption = Caption('say "é\\ b\u2028', -2.5, (-1.0, -1.5), grids, tokens, satisfied=False)
    first, second = Captioned("a", (caption,)), Captioned('é"\\\udcff\t', (caption, caption))
    with CaptionWriter(path, format) as file:
        file.add(first)
        begin = path.stat().st_size
        file.add(second)
    whole = path.read_bytes()
    assert json.loads(whole[begin:])["captions"][1]["words"][0]["attention"] == [[0.25, 0.25]] * 2
    for length in range(begin, len(whole) - 1):
        path.write_bytes(whole[:length])
        with CaptionWriter(path, format) as file:
            assert file.keys == {"a"}
            assert file.removed == whole[begin:length].decode(errors="replace")
            file.add(second)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("name", FORMATS)
def test_no_slip_of_a_finger_removes_a_row(tmp_path: Path, name: str) -> None:
    """A key pressed or deleted anywhere: each of the lines stays, or the file is refused."""
    rng, path = random.Random(0), tmp_path / "all"
    content = written(path, name)
    tail = FORMATS[name].tail.encode()
    outcomes = {"refused": 0, "continued": 0}
    for _ in range(400):
        place = rng.randrange(len(content))
        key = rng.choice([b'"', b"'", b",", b"\n", b"\t", b"x", b"\\", b"]", b"}", b"7", b""])
        edited = content[:place] + key + content[place + rng.randint(0, 1) :]
        path.write_bytes(edited)
        try:
            with CaptionWriter(path, FORMATS[name]()):
                pass
        except InputError:
            assert path.read_bytes() == edited
            outcomes["refused"] += 1
        else:
            outcomes["continued"] += 1
            found = [each.rstrip(b",] ") for each in path.read_bytes().split(b"\n")]
            last = 3 if tail else 2  # the row at the end, and what follows its line end
            for line in edited.split(b"\n")[:-last]:
                assert line.rstrip(b",] ") in found
    assert min(outcomes.values()) > 40


def test_stray_quotes_cost_no_more_than_one_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts the bytes that are parsed, which must not grow with the square of the file."""
    parsed = 0
    read = Csv.read

    def counted(self: Csv, row: bytes) -> tuple[str | int, int]:
        nonlocal parsed
        parsed += len(row)
        return read(self, row)

    monkeypatch.setattr(Csv, "read", counted)
    path = tmp_path / "all.csv"
    for row in (b'"a note\n', b'"a "" note\n', b'x","y\n', b'a.jpg,"b\n'):
        parsed = 0
        path.write_bytes(CSV_HEAD + row * 20_000)
        assert re.search(r"line \d+: found", refusal(path, "csv"))
        assert parsed <= 2 * path.stat().st_size  # once by each of two readers
