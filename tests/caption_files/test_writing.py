"""How captions are written down, and what is left when a file is cut off anywhere."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
from limits import files_up_to

from jaxcap.caption_files.output_formats import FORMATS, Format
from jaxcap.caption_files.reading import read_captions
from jaxcap.caption_files.writing import CaptionStream, CaptionWriter, read_entries
from jaxcap.captioning.results import Caption, Captioned
from jaxcap.messages.errors import InputError

every_format = pytest.mark.parametrize("name", FORMATS)
SUFFIX = {"text": ".txt", "jsonl": ".jsonl", "csv": ".csv", "coco": ".json"}
NASTY = ["plain.jpg", '東京, "quoted".png', "a\nb\tc.png", os.fsdecode(b"caf\xe9.png"), "x/-.jpg"]


def result(name: str, text: str = "a dog") -> Captioned:
    return Captioned(name, (Caption(text, -2.5, (-1.0, -1.0, -0.5)), Caption("a cat", -3.0)))


RESULTS = [result(name, f"a dog, no. {n}") for n, name in enumerate(NASTY)]


def written(path: Path, format: Format, results: list[Captioned] = RESULTS) -> bytes:
    with CaptionWriter(path, format) as file:
        for each in results:
            file.add(each)
    return path.read_bytes()


def test_the_formats(tmp_path):
    text, lines, table, coco = (
        written(tmp_path / name, FORMATS[name]()).decode() for name in FORMATS
    )
    assert text.splitlines()[:3] == [
        "plain.jpg\ta dog, no. 0",
        '東京, "quoted".png\ta dog, no. 1',
        r"a\nb\tc.png" + "\ta dog, no. 2",
    ]
    objects = [json.loads(line) for line in lines.splitlines()]
    assert [each["image"] for each in objects] == NASTY
    assert objects[0]["captions"] == [
        # exp(-2.5 / 3), the mean over two words and the end
        {"caption": "a dog, no. 0", "log_prob": -2.5, "confidence": 0.4346},
        {"caption": "a cat", "log_prob": -3.0, "confidence": 0.0498},
    ]
    rows = list(csv.reader(io.StringIO(table, newline="")))
    assert rows[0] == ["image", "caption", "log_prob", "confidence"]
    assert rows[1] == ["plain.jpg", "a dog, no. 0", "-2.5000", "0.4346"]
    assert [row[0] for row in rows[1:4]] == NASTY[:3]
    assert [each["image_id"] for each in json.loads(coco)] == NASTY
    assert json.loads(coco)[4]["caption"] == "a dog, no. 4"


def test_cells_are_no_formulas_for_a_spreadsheet(tmp_path):
    names = ["=cmd.jpg", "+1.jpg", "-a,b.jpg", "@x.jpg", "a=b.jpg"]
    results = [result(name, f"{name[0]}1 dog") for name in names]
    path, format = tmp_path / "x.csv", FORMATS["csv"]()
    rows = list(csv.reader(io.StringIO(written(path, format, results).decode())))[1:]
    assert [row[0] for row in rows] == [*("'" + name for name in names[:4]), names[4]]
    assert [row[1] for row in rows] == ["'=1 dog", "'+1 dog", "'-1 dog", "'@1 dog", "a1 dog"]
    assert rows[0][2:] == ["-2.5000", "0.4346"]  # numbers stay numbers
    with CaptionWriter(path, format) as file:
        assert all(file.has(file.key(name)) for name in names)
    held = {image.ids["image"]: image.captions for image in read_captions(path).images}
    assert held == {each.name: [each.captions[0].text] for each in results}


def test_coco_ids_are_the_numbers_in_cocos_names(tmp_path):
    names = ["v/COCO_val2014_000000391895.jpg", "000000000042.png", "1000268201_693b08cb0e.jpg"]
    data = json.loads(written(tmp_path / "x", FORMATS["coco"](), [result(n) for n in names]))
    assert [each["image_id"] for each in data] == [391895, 42, names[2]]


@every_format
def test_scoring_reads_every_format(tmp_path, name):
    """Another reader, written for the files of all the world."""
    path = tmp_path / f"captions{SUFFIX[name]}"
    written(path, FORMATS[name](), RESULTS[:2])
    images = read_captions(path).images
    assert [next(iter(image.ids.values())) for image in images] == NASTY[:2]
    assert [image.captions[0] for image in images] == ["a dog, no. 0", "a dog, no. 1"]


@pytest.mark.slow
@every_format
def test_a_file_cut_off_anywhere_is_gone_on_with(tmp_path, name):
    """Every length that a kill, or a crash of the machine, can leave."""
    format, path = FORMATS[name](), tmp_path / "captions"
    whole = written(tmp_path / "whole", format)
    ends = [0]  # of the file after each entry, without the tail
    for count in range(1, len(RESULTS) + 1):
        path.unlink(missing_ok=True)
        ends.append(len(written(path, format, RESULTS[:count])) - len(format.tail))
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        # These formats tell a whole row from a shortened one without its line end.
        missing = 1 if name in ("jsonl", "csv") else 0
        kept = max(n for n, end in enumerate(ends) if end - missing * (n > 0) <= length)
        if name == "text" and 0 < length < ends[1]:
            with pytest.raises(InputError, match="not changed"):  # it could be anything
                CaptionWriter(path, format)
            assert path.read_bytes() == whole[:length]
            continue
        with CaptionWriter(path, format) as file:
            assert file.keys == {format.key(each.name) for each in RESULTS[:kept]}
            if name == "coco":
                assert len(json.loads(path.read_bytes())) == kept
            for each in RESULTS:
                if format.key(each.name) not in file.keys:
                    file.add(each)
        assert path.read_bytes() == whole


def test_a_list_whose_end_was_being_overwritten_is_gone_on_with(tmp_path):
    format, path = FORMATS["coco"](), tmp_path / "captions"
    before, after = (written(tmp_path / str(n), format, RESULTS[:n]) for n in (1, 2))
    common = len(before) - len(format.tail)
    assert before[:common] == after[:common]
    for done in range(common, len(after) + 1):
        path.write_bytes(after[:done] + before[done:])
        with CaptionWriter(path, format) as file:
            if format.key(RESULTS[1].name) not in file.keys:
                file.add(RESULTS[1])
        assert path.read_bytes() == after


@every_format
def test_other_files_are_left_alone(tmp_path, name):
    format, path = FORMATS[name](), tmp_path / "notes"
    others = [written(tmp_path / f"{o}", FORMATS[o]()) for o in FORMATS if o != name]
    foreign = [
        b"my notes",
        b"my notes\nof today\n",
        b"\xff\xd8\xff\xe0\0\x10JFIF",
        b"[1, 2]",
        b'{"image": "1.png", "captions": ["A wren sings."]}\n',
        b'{"image": "1.png", "captions": ["A wren sings."]}',
        b'{"image": "1.png", "caption": "A wren sings."}',
        b'{"file_name": "1.png", "captions": []}\n',
        "\ufeff1.png\tA wren sings.\n".encode(),  # as an editor may save it
        *others,
    ]
    for content in foreign:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"notes, line \d+: found .* expected .* not changed"):
            CaptionWriter(path, format)
        assert path.read_bytes() == content


def test_where_nothing_can_be_written(tmp_path):
    format = FORMATS["text"]()
    for path, message in [
        (tmp_path / "no" / "file.txt", "cannot write there"),
        (tmp_path, "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
    ]:
        with pytest.raises(InputError, match=message):
            CaptionWriter(path, format)


def test_pipes_and_endless_lines_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: not a regular file"):
        list(read_entries(tmp_path / "pipe", FORMATS["text"]()))
    with (tmp_path / "long").open("wb") as file:
        file.truncate(2**37)
    for format in FORMATS.values():
        with pytest.raises(InputError, match=r"long(: a line of more than|, line 1: found)"):
            CaptionWriter(tmp_path / "long", format())
    assert (tmp_path / "long").stat().st_size == 2**37


def test_two_processes_do_not_write_one_file(tmp_path):
    pytest.importorskip("fcntl")
    with CaptionWriter(tmp_path / "x", FORMATS["text"]()):  # noqa: SIM117
        with pytest.raises(InputError, match=r"another process is writing.*--part"):
            CaptionWriter(tmp_path / "x", FORMATS["text"]())


@every_format
def test_a_full_disk(tmp_path, name):
    """A file may grow no further at any byte of the third entry: what was written stays valid."""
    format, path = FORMATS[name](), tmp_path / "captions"
    two, three = (len(written(tmp_path / str(n), format, RESULTS[:n])) for n in (2, 3))
    whole = written(tmp_path / "whole", format)
    for size in range(two, three, 7):
        path.unlink(missing_ok=True)
        full = pytest.raises(InputError, match=r"captions: cannot write: .*command continues")
        with files_up_to(size), full:
            written(path, format)
        assert path.read_bytes() == (tmp_path / "2").read_bytes()
        assert written(path, format, RESULTS[2:]) == whole


@pytest.mark.parametrize("name", ["csv", "coco"])
@pytest.mark.parametrize("record", [None, {"model": "m"}])
def test_a_disk_that_is_full_from_the_start_keeps_no_file(tmp_path, name, record):
    """Neither the record, nor a part of the head."""
    folder = tmp_path / "captions"
    folder.mkdir()
    for size in (0, 1):
        full = pytest.raises(InputError, match=r"x: cannot write: File too large\. Once the cause")
        with files_up_to(size), full:
            CaptionWriter(folder / "x", FORMATS[name](), made_with=record)
        assert list(folder.iterdir()) == []


@every_format
def test_standard_output_is_like_a_file(tmp_path, name):
    stream = io.StringIO()
    with CaptionStream(stream.write, FORMATS[name]()) as file:
        for each in RESULTS:
            file.add(each)
    assert stream.getvalue().encode() == written(tmp_path / "file", FORMATS[name]())
    empty = io.StringIO()
    with CaptionStream(empty.write, FORMATS[name]()):
        pass
    assert empty.getvalue().encode() == written(tmp_path / "empty", FORMATS[name](), [])
