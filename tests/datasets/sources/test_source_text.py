"""Captions without photographs, in all kinds of files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from jaxcap.datasets.sources import SourceOptions
from jaxcap.datasets.sources.registry import read
from jaxcap.messages.errors import InputError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "captions.txt"


def groups(file: Path, **options: object) -> dict[str, tuple[str, ...]]:
    listing = read("text", SourceOptions(source=file, **options))  # type: ignore[arg-type]
    (split,) = listing.splits
    assert split == "train"
    assert all(example.image is None for example in listing.splits["train"])
    return {example.image_id: example.captions for example in listing.splits["train"]}


TOKENS = "1.jpg#0\tA dog.\n2.jpg#0\tA cat.\n1.jpg#1\tTwo dogs.\n"


def test_token_files_keep_the_captions_of_a_photograph_together(file: Path) -> None:
    file.write_text(TOKENS)
    expected = {"1.jpg": ("A dog.", "Two dogs."), "2.jpg": ("A cat.",)}
    assert groups(file) == expected
    compressed = file.with_name("captions.token.gz")
    compressed.write_bytes(gzip.compress(TOKENS.encode()))
    assert groups(compressed) == expected


def test_in_plain_text_each_line_is_a_record_unless_empty_lines_make_groups(file: Path) -> None:
    file.write_text("A dog, asleep.\nA cat.\n")
    assert groups(file) == {"line 1": ("A dog, asleep.",), "line 2": ("A cat.",)}
    assert "each is a record of its own" in read("text", SourceOptions(source=file)).notes[0]
    file.write_text("\nA dog, asleep.\nTwo dogs.\r\n\n\nA cat.\n\n")
    assert groups(file) == {"line 2": ("A dog, asleep.", "Two dogs."), "line 6": ("A cat.",)}
    assert read("text", SourceOptions(source=file)).notes == ()


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ('caption\n"A dog, asleep."\nA cat.\n', {}, [["A dog, asleep."], ["A cat."]]),
        ("id;caption\n7;A dog.\n8;A cat.\n7;Two.\n", {}, [["A dog.", "Two."], ["A cat."]]),
        ("caption_1\tcaption_2\nA dog.\tTwo.\nA cat.\t\n", {}, [["A dog.", "Two."], ["A cat."]]),
        ("long|short\nA brown dog.|A dog.\n", {"caption_columns": ("short",)}, [["A dog."]]),
    ],
)
def test_tables(
    file: Path, text: str, options: dict[str, object], expected: list[list[str]]
) -> None:
    file.write_text(text)
    assert [list(captions) for captions in groups(file, **options).values()] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,caption\n1.jpg,A dog.\n", "column of images, 'image', but text .* rename the col"),
        ("1.jpg\tA dog.\n", "a column of images, 'image'"),
        ('[{"image_id": 1, "caption": "A dog."}]\n', "found JSON; expected a Flickr token file"),
        ("place\tweather\nhome\tfine\n", "no column of captions .*in the first line"),
        ("1.jpg#0\tA dog.\n1.jpg#1\t\n", r"line 2: empty caption; .*--skip-bad leaves"),
        ("1.jpg#0\tA dog.\n1.jpg#0\tA cat.\n", r"line 2: 1\.jpg#0 is also in line 1"),
        ("id,caption\n1,A dog, asleep.\n", "line 2: found 3 cells where the first line has 2"),
        ("", "the file is empty"),
    ],
)
def test_faults_are_named(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read("text", SourceOptions(source=file))


def test_options_and_files_that_do_not_fit(file: Path) -> None:
    with pytest.raises(InputError, match="no source given; expected --source FILE"):
        read("text", SourceOptions())
    with pytest.raises(InputError, match="no such file"):
        read("text", SourceOptions(source=file))
    with pytest.raises(InputError, match="takes no --image-column"):
        read("text", SourceOptions(source=file, image_column="photo"))
    file.write_text("caption\nA dog.\n")
    with pytest.raises(InputError, match="no column 'text'; expected one of caption"):
        read("text", SourceOptions(source=file, caption_columns=("text",)))
    damaged = file.with_name("a.gz")
    damaged.write_bytes(gzip.compress(TOKENS.encode())[:-9])
    with pytest.raises(InputError, match="cannot read it: Compressed file ended"):
        read("text", SourceOptions(source=damaged))


def test_empty_captions_can_be_left_out(file: Path) -> None:
    file.write_text("1.jpg#0\tA dog.\n1.jpg#1\t\n2.jpg#0\t \n")
    assert groups(file, skip_bad=True) == {"1.jpg": ("A dog.",)}
