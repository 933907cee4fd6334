"""A user's folder of images, with captions in every supported form."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jaxcap.datasets.sources import SourceOptions
from jaxcap.datasets.sources.registry import read
from jaxcap.messages.errors import InputError

EXPECTED = {
    "train": {"a.jpg": ("a dog, asleep", "a brown dog")},
    "dev": {"b.jpg": ("a cat",)},
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "captions.csv",
            'image,caption,split\r\na.jpg,"a dog, asleep",train\r\nb.jpg,a cat,val\r\n'
            "a.jpg,a brown dog,train\r\n",
        ),
        (
            "metadata.csv",
            'file_name,caption_1,caption_2,split\na.jpg,"a dog, asleep",a brown dog,train\n'
            "b.jpg,a cat,,validation\n",
        ),
        (
            "x.tsv",
            "Image Name\tText\tSplit\na.jpg\ta dog, asleep\ttrain\n"
            "a.jpg\ta brown dog\ttrain\nb.jpg\ta cat\tval\n",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "a.jpg", "captions": ["a dog, asleep", "a brown dog"], '
            '"split": "train"}\n{"file_name": "b.jpg", "text": "a cat", "split": "dev"}\n',
        ),
        (
            "coco.json",
            json.dumps({
                "images": [
                    {"id": 7, "file_name": "a.jpg", "split": "train"},
                    {"id": 5, "file_name": "b.jpg", "split": "val"},
                ],
                "annotations": [
                    {"image_id": 7, "caption": "a dog, asleep"},
                    {"image_id": 5, "caption": "a cat"},
                    {"image_id": 7, "caption": "a brown dog"},
                ],
            }),
        ),
        (
            "captions.json",
            json.dumps([
                {"image": "a", "captions": ["a dog, asleep", "a brown dog"], "split": "train"},
                {"image": "b", "caption": "a cat", "split": "val"},
            ]),
        ),
    ],
)  # fmt: skip
def test_every_format_reads_the_same(name, content, pictures, held):
    root = pictures("a.jpg", "b.jpg")
    (root / name).write_text(content)
    (root / "README.txt").write_text("Not a file of captions.")
    assert held(read("folder", SourceOptions(source=root))) == EXPECTED


def test_columns_that_are_given(pictures, held):
    root = pictures("a.jpg", "b.jpg")
    (root / "x.csv").write_text(
        "nr,Photo File,caption,English Text,german,fold\n"
        "1,a.jpg,no,a dog,ein Hund,one\n2,b.jpg,no,a cat,,two\n"
    )
    options = SourceOptions(
        source=root,
        image_column="Photo File",
        caption_columns=("German", "english-text"),
        split_column="fold",
    )
    assert held(read("folder", options)) == {
        "one": {"a.jpg": ("ein Hund", "a dog")},
        "two": {"b.jpg": ("a cat",)},
    }
    (root / "x.csv").unlink()
    (root / "x.json").write_text(
        json.dumps([{"p": "a.jpg", "x": ["1", "2"], "y": "3"}, {"p": "b.jpg", "x": "4", "y": None}])
    )
    options = SourceOptions(
        source=root, image_column="p", caption_columns=("x", "y"), split_fractions={"train": 1.0}
    )
    assert held(read("folder", options)) == {"train": {"a.jpg": ("1", "2", "3"), "b.jpg": ("4",)}}


def test_text_files_beside_the_images(pictures, held):
    root = pictures("one/a.jpg", "one/b.png", "c.jpeg")
    (root / "one" / "a.txt").write_text("\ufeffa dog\r\n\r\n  a brown dog  \r\n", "utf-8")
    (root / "one" / "b.txt").write_text("a cat")
    (root / "c.txt").write_text("chat\u2028noir\n")
    options = SourceOptions(source=root, split_fractions={"train": 1.0})
    listing = read("folder", options)
    assert held(listing) == {
        "train": {
            "c.jpeg": ("chat\u2028noir",),
            "one/a.jpg": ("a dog", "a brown dog"),
            "one/b.png": ("a cat",),
        }
    }


def test_splits_are_drawn_by_default_and_are_stable(pictures):
    names = [f"{n}.jpg" for n in range(300)]
    root = pictures(*names)
    table = root / "c.csv"

    def splits(some):
        table.write_text("image,caption\n" + "".join(f"{name},x\n" for name in some))
        for path in root.glob("*.jpg"):
            if path.name not in some:
                path.unlink()
        listing = read("folder", SourceOptions(source=root))
        assert any("assigned by a hash" in note and "80% train" in note for note in listing.notes)
        return {e.image_id: s for s, examples in listing.splits.items() for e in examples}

    every = splits(names)
    assert sorted(set(every.values())) == ["dev", "test", "train"]
    assert 210 <= sum(split == "train" for split in every.values()) <= 270
    fewer = splits(names[::-1][:200])
    assert fewer == {name: every[name] for name in names[100:]}


def test_folders_named_after_splits(pictures, held):
    root = pictures("Train/a.jpg", "val/b.jpg", "test/c.jpg")
    for path in list(root.rglob("*.jpg")):
        path.with_suffix(".txt").write_text(f"a picture of {path.stem}")
    listing = read("folder", SourceOptions(source=root))
    assert {split: list(images) for split, images in held(listing).items()} == {
        "train": ["Train/a.jpg"], "dev": ["val/b.jpg"], "test": ["test/c.jpg"],
    }  # fmt: skip
    assert listing.notes == ("split by folders: Train, test, val",)


def test_a_file_for_each_split(pictures, held, problems):
    root = pictures("a.jpg", "b.jpg", "c.jpg")
    (root / "train.csv").write_text("image,caption\na.jpg,x\nb.jpg,y\n")
    (root / "val.csv").write_text("image,caption\nc.jpg,z\n")
    listing = read("folder", SourceOptions(source=root))
    assert held(listing) == {"train": {"a.jpg": ("x",), "b.jpg": ("y",)}, "dev": {"c.jpg": ("z",)}}
    assert listing.notes == ()
    (root / "val.csv").write_text("image,caption\nb.jpg,z\n")
    message = problems("folder", source=root)
    assert "2 problems" in message
    assert (
        f"{root / 'val.csv'}, line 2: b.jpg repeats the image of {root / 'train.csv'}, line 3"
        in message
    )
    assert "in the split train, this one in dev" in message
    assert f"{root}: no captions for 1 image in {root}: c.jpg" in message
    (root / "dev.csv").write_text("image,caption\nc.jpg,z\n")
    assert "3 files may hold the captions (dev.csv, train.csv" in problems("folder", source=root)


def test_column_options_need_a_file_with_columns(pictures, problems):
    root = pictures("a.jpg")
    (root / "a.txt").write_text("a dog")
    message = problems("folder", source=root, split_column="part")
    assert message == (
        "the column 'part' was given, but a folder of text files has no columns; leave the option "
        "out"
    )
    (root / "x.token").write_text("a.jpg#0\tA dog .\n")
    message = problems("folder", source=root, caption_columns=("text",))
    assert message.endswith("x.token (Flickr token file) has no columns; leave the option out")


def test_lists_of_images(pictures, held, problems):
    root = pictures("x/a.jpg", "x/b.jpg", "x/c.jpg", "x/d.jpg")
    (root / "c.csv").write_text("image,caption\n" + "".join(f"x/{n}.jpg,see {n}\n" for n in "abc"))
    (root / "train.txt").write_text("b.jpg\na.jpg\n")
    (root / "heldout.txt").write_text("c.jpg\n")
    lists = {"train": root / "train.txt", "held_out": root / "heldout.txt"}
    listing = read("folder", SourceOptions(source=root, split_files=lists))
    assert held(listing) == {
        "train": {"x/b.jpg": ("see b",), "x/a.jpg": ("see a",)},
        "held_out": {"x/c.jpg": ("see c",)},
    }
    (root / "heldout.txt").write_text("x/c.jpg\nx/d.jpg\nx/e.jpg\nx/c.jpg\n")
    (root / "train.txt").write_text("x/a.jpg\n")
    message = problems("folder", source=root, split_files=lists)
    assert "3 problems" in message
    assert "heldout.txt, line 4: x/c.jpg is already listed in" in message
    assert "heldout.txt, line 2: no caption of x/d.jpg in c.csv" in message
    assert "heldout.txt, line 3: no image x/e.jpg" in message


def test_names_without_folders_or_extensions_and_decomposed_ones(pictures, held):
    decomposed = unicodedata.normalize("NFD", "café.jpg")
    root = pictures(f"images/{decomposed}", "images/b.jpg")
    (root / "c.csv").write_text("image,caption,split\ncafé.jpg,un café,train\nb.jpg,x,train\n")
    listing = read("folder", SourceOptions(source=root, images=root / "images"))
    assert set(held(listing)["train"]) == {decomposed, "b.jpg"}
    (root / "c.csv").write_text("id,caption,split\nb,x,train\n")
    (root / "images" / decomposed).unlink()
    assert held(read("folder", SourceOptions(source=root))) == {"train": {"images/b.jpg": ("x",)}}


def test_a_jpeg_of_any_suffix_is_found_by_its_full_name(pictures, held):
    root = pictures("a.jfif", "b")
    (root / "c.csv").write_text("image,caption,split\na.jfif,x,train\nb,y,train\n")
    assert held(read("folder", SourceOptions(source=root)))["train"] == {
        "a.jfif": ("x",),
        "b": ("y",),
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("image,caption\na.jpg,x\ngone.jpg,y\nb.jpg,z\n",
         ["{file}, line 3: no image 'gone.jpg'"]),
        ("image,caption\na.jpg,x\n", ["{file}: no captions for 1 image in", "b.jpg"]),
        ("image,caption\na.jpg,x\nb.jpg,\n", ["{file}, line 3: empty caption of b.jpg"]),
        ("image,caption\na.jpg,x\nb.jpg,y,z\n",
         ["{file}, line 3: found 3 cells where the first line has 2"]),
        ("photo,caption\na.jpg,x\n",
         ["{file}: found no image column (of image_id", "'photo,caption'", "--image-column"]),
        ("image,words\na.jpg,x\n", ["{file}: found no caption column", "--caption-columns"]),
        ('{"image": "a.jpg", "words": "x"}\n' * 2, ["line 2: no caption", "--caption-columns"]),
        ("image,caption,caption\na.jpg,x,y\n", ["2 columns 'caption'", "different names"]),
        ("image,caption,split\na.jpg,x,train\nb.jpg,y,\n",
         ["{file}, line 3: b.jpg has no split"]),
        ("image,caption,split\na.jpg,x,train\na.jpg,y,val\nb.jpg,z,val\n",
         ["{file}, line 3: image a.jpg is in the split val here and in train before"]),
        ("image,caption,split\na.jpg,x,all\nb.jpg,y,ü\n",
         ["line 2: a.jpg: the split is called 'all'; expected train",
          "line 3: b.jpg: the split is called 'ü'"]),
        ('[{"image": "a.jpg", "caption": "x"},\n{"image": "b.jpg" "caption": "y"}]',
         ["{file}, line 2, column 19: malformed JSON"]),
        ('[{"image": "a.jpg", "caption": "\\ud83d x"}, {"image": "b.jpg", "caption": "y"}]',
         ["{file}, entry 1: the caption '\\ud83d x' contains half a character"]),
        ('{"image": "a.jpg", "caption": "x"}\n{"image": "b.jpg", "caption": 5}\n',
         ["{file}, line 2 (image b.jpg): the caption is a number: 5; expected text"]),
        ("un café\n".encode("latin-1"), ["{file}, line 1: the byte 0xE9", "Windows-1252"]),
        ("image,caption\nb.jpg,собака бежит\n".encode("cp1251"),
         ["{file}, line 2", "Windows-1251 (Cyrillic)"]),
        ("image,caption\na.jpg,x\nc.jpg,x\n".encode("utf-16"),
         ["{file}, line 3: no image 'c.jpg'"]),
        (b"", ["{file}: the file is empty"]),
    ],
)  # fmt: skip
def test_problems_are_named_with_file_and_line(content, expected, pictures, problems):
    root = pictures("a.jpg", "b.jpg")
    file = root / "captions.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = problems("folder", source=root)
    for part in expected:
        assert part.format(file=file) in message


def test_a_file_that_was_taken_for_the_captions_is_named(pictures, problems):
    root = pictures("a.jpg", "b.jpg")
    (root / "notes.txt").write_text("Some notes")
    assert "notes.txt seemed to hold the captions" in problems("folder", source=root)
    chosen = problems("folder", source=root, captions=root / "notes.txt")
    assert "seemed" not in chosen


def test_images_without_captions_can_be_left_out(pictures, held):
    root = pictures(*(f"{n}.jpg" for n in range(9)))
    (root / "c.csv").write_text(
        "image,caption,split\n1.jpg,x,train\n1.jpg, ,train\n10.jpg,y,train\n"
    )
    with pytest.raises(InputError, match=r"(?s)3 problems.*Leave these images out.* --skip-bad"):
        read("folder", SourceOptions(source=root))
    listing = read("folder", SourceOptions(source=root, skip_bad=True))
    assert held(listing) == {"train": {"1.jpg": ("x",)}}
    assert "no captions for 8 images" in listing.notes[0]
    assert "0.jpg, 2.jpg, 3.jpg and 5 more" in listing.notes[0]


def test_problems_of_text_files_beside_images(pictures, problems):
    root = pictures("a.jpg", "b.jpg", "c.jpg", "c.png", "d.jpg")
    assert "images without captions; expected a caption file" in problems("folder", source=root)
    (root / "a.txt").write_text("a dog")
    (root / "b.txt").write_bytes("café".encode("latin-1"))
    (root / "c.txt").write_text(" \n")
    message = problems("folder", source=root)
    assert "4 problems" in message
    assert f"{root / 'b.txt'}, line 1: the byte 0xE9" in message
    assert f"{root / 'c.txt'}: belongs to both c.jpg and c.png; rename one" in message
    assert f"{root / 'c.txt'}: c.jpg has no caption" in message
    assert f"{root / 'd.jpg'}: no d.txt beside it" in message


def test_several_caption_files_need_a_choice(pictures, problems, held):
    root = pictures("a.jpg")
    (root / "a.txt").write_text("beside")
    (root / "one.csv").write_text("image,caption\na.jpg,one\n")
    (root / "two.csv").write_text("image,caption\na.jpg,two\n")
    message = problems("folder", source=root)
    assert (
        "2 files may hold the captions (one.csv, two.csv). Choose one with --captions FILE"
        in message
    )
    options = {"captions": root / "two.csv", "split_fractions": {"train": 1.0}}
    assert held(read("folder", SourceOptions(**options))) == {"train": {"a.jpg": ("two",)}}
    message = problems("folder", captions=root / "three.csv")
    assert message.endswith("three.csv: no such file")
    message = problems("folder", source=root, captions=root)
    assert message == f"{root}: a folder; expected a file"
    assert "no such folder" in problems("folder", captions=root / "one.csv", images=root / "none")


def test_conflicting_options_are_refused(pictures, problems):
    root = pictures("a.jpg")
    (root / "c.csv").write_text("image,caption\na.jpg,x\n")
    assert "Did you mean 'folder'?" in problems("folders", source=root)
    assert "coco: takes no --image-key; it takes --source" in problems("coco", image_key="x")
    message = problems("folder", source=root, split_column="x", split_fractions={"train": 1.0})
    assert "--split-column and --split-fractions both define the splits" in message
    message = problems("folder", source=root, split_fractions={"train": 0.5, "dev": 0.4})
    assert "(train 0.5, dev 0.4) add up to 0.9; expected 1" in message
    message = problems("folder", source=root, image_column="photo")
    assert "found no column 'photo' in the first line" in message


# ---- odd captions and names ------------------------------------------------------------------

ODD = [
    "a\ttab", 'a "quoted" word', '"all"', "two\nlines", "two\r\nlines", "comma, semicolon; bar|",
    "👩‍👩‍👧 at the beach 🏖️", "שלום עולם", "مرحبا\u200f بالعالم", "\u2028",
    "x" * 5000, "=1+1", "'", "\\n", "#0", "{", "[1]", "null", "\u0085next", "\ufeffmark",
]  # fmt: skip
# Surrogates are no text, and NUL is in no text file.
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1)
CAPTIONS = st.lists(st.one_of(st.sampled_from(ODD), TEXT), min_size=1, max_size=5)
_quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def captions_read(name, content, images=("a.jpg",)):
    """Return the captions of the first image, from a file with this content."""
    with tempfile.TemporaryDirectory() as folder:
        for image in images:
            (Path(folder) / image).touch()
        (Path(folder) / name).write_bytes(content.encode())
        options = SourceOptions(source=Path(folder), split_fractions={"train": 1.0})
        (example,) = read("folder", options).splits["train"]
        return example.captions


@_quick
@given(CAPTIONS)
@example(ODD)
def test_odd_captions_in_json_round_trip(captions):
    kept = tuple(c for c in captions if c.strip())
    if not kept or len(kept) < len(captions):
        return
    lines = [{"file_name": "a.jpg", "captions": captions[:1]}]
    lines += [{"file_name": "a.jpg", "caption": caption} for caption in captions[1:]]
    for ascii in True, False:
        text = "".join(json.dumps(line, ensure_ascii=ascii) + "\n" for line in lines)
        assert captions_read("c.jsonl", text) == kept
        coco = {
            "images": [{"id": 1, "file_name": "a.jpg"}],
            "annotations": [{"image_id": 1, "caption": caption} for caption in captions],
        }
        assert captions_read("c.json", json.dumps(coco, ensure_ascii=ascii)) == kept


@_quick
@given(CAPTIONS, st.sampled_from([",", ";"]))
@example(ODD, ",")
def test_odd_captions_in_csv_round_trip_except_outer_space(captions, delimiter):
    kept = tuple(c.strip() for c in captions)
    no_captions = {"nan", "NaN", "<NA>", "None", "#N/A", "#NAME?"}  # as pandas and Excel write
    if not all(kept) or no_captions & {*captions, *kept}:
        return
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(["image", "caption"])
    writer.writerows(["a.jpg", caption] for caption in captions)
    assert captions_read("c.csv", file.getvalue()) == kept


@_quick
@given(CAPTIONS)
@example([c for c in ODD if "\n" not in c])
def test_odd_captions_in_a_text_file_round_trip(captions):
    kept = tuple(c.strip() for c in captions)
    if not all(kept) or any("\n" in c for c in kept) or captions[0].startswith("\ufeff"):
        return
    assert captions_read("a.txt", "\n".join(captions)) == kept


NAMES = [
    "with space.jpg", "with,comma.jpg", 'with"quote.jpg', "with\ttab.jpg",
    "two\nlines.jpg", "👩‍👩‍👧.jpg",
    "שלום.jpg", "#1.jpg", "'.jpg", "-.jpg", "ü.jpg", "a.b.c.jpg", "..jpg", "x" * 251 + ".jpg",
    "é" * 125 + ".jpg", "COCO.JPG", "%20.jpg", "*.jpg", "[a].jpg", "~.jpg", "\\.jpg",
    "a\u2028b.jpg",
]  # fmt: skip


def test_odd_names_in_every_format(pictures, held):
    root = pictures(*NAMES)
    expected = {"train": {name: (f"caption {n}",) for n, name in enumerate(NAMES)}}
    options = SourceOptions(source=root, split_fractions={"train": 1.0})
    with (root / "c.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        writer.writerows([name, f"caption {n}"] for n, name in enumerate(NAMES))
    assert held(read("folder", options)) == expected
    (root / "c.csv").unlink()
    entries = [{"image": name, "caption": f"caption {n}"} for n, name in enumerate(NAMES)]
    (root / "c.json").write_text(json.dumps(entries))
    assert held(read("folder", options)) == expected
    (root / "c.json").unlink()
    for n, name in enumerate(NAMES):
        (root / name).with_suffix(".txt").write_text(f"caption {n}")
    del expected["train"]["..jpg"]  # hidden; only a list of captions can name it
    assert held(read("folder", options)) == expected


def test_invalid_file_names_count_as_missing(pictures, problems):
    root = pictures("a.jpg")
    names = ["a.jpg", "x" * 300 + ".jpg", "nul\0.jpg", "/etc/passwd", "../c.json", "."]
    (root / "c.json").write_text(json.dumps([{"image": n, "caption": "x"} for n in names]))
    message = problems("folder", source=root)
    assert "5 problems" in message
    for number in range(2, 7):
        assert f"entry {number}: no image" in message


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_a_name_that_is_not_utf8(pictures, problems):
    root = pictures()
    path = os.fsencode(root) + b"/\xff.jpg"
    try:
        root.mkdir(exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(b"an image")
    except OSError:
        pytest.skip("this file system refuses it")
    Path(os.fsdecode(path)).with_suffix(".txt").write_text("a dog")
    assert "is not UTF-8; rename the image" in problems("folder", source=root)


# ---- layouts of other tools, and paths in other spellings ------------------------------------


def test_sidecars_of_image_generators_and_of_img2dataset(pictures, held):
    root = pictures("00/1.jpg", "00/2.jpg", "00/3.png", "00/4.jpg")
    (root / "00" / "1.caption").write_text("a dog\na pup\n")
    (root / "00" / "1.json").write_text('{"caption": "not read"}')
    meta = {"url": "x", "caption": "a café", "key": "2", "status": "success"}
    (root / "00" / "2.json").write_text(json.dumps(meta))
    (root / "00" / "3.txt").write_bytes("a cat".encode("utf-16"))
    (root / "00" / "4.json").write_text(json.dumps({"captions": ["one", "two"]}))
    (root / "00000_stats.json").write_text('{"count": 3}')
    listing = read("folder", SourceOptions(source=root, split_fractions={"train": 1.0}))
    assert held(listing)["train"] == {
        "00/1.jpg": ("a dog", "a pup"),
        "00/2.jpg": ("a café",),
        "00/3.png": ("a cat",),
        "00/4.jpg": ("one", "two"),
    }
    assert listing.notes == (".json is not read for 1 image with another file",)


def test_problems_of_json_sidecars(pictures, problems):
    root = pictures("1.jpg", "2.jpg", "3.jpg", "4.jpg")
    (root / "1.json").write_text('{"url": "x"}')
    (root / "2.json").write_text('{"caption": 5}')
    (root / "3.json").write_text('{"caption": ')
    (root / "4.json").write_text('{"caption": null}')
    message = problems("folder", source=root)
    assert "1.json: no caption; expected an object with one of caption, captions" in message
    assert "2.json: the caption is 5; expected text" in message
    assert "3.json, line 1, column 13: malformed JSON" in message
    assert "4.json: 4.jpg has no caption" in message


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_image_folder_has_its_metadata_in_the_folder_of_each_split(name, pictures, held, problems):
    root = pictures("train/a.jpg", "train/x/b.jpg", "validation/a.jpg", "test/c.jpg")
    for split, names in {"train": ["a", "x/b"], "validation": ["a"], "test": ["c"]}.items():
        lines = (
            ["file_name,text", *(f"{n}.jpg,{split} {n}" for n in names)]
            if name.endswith("csv")
            else [json.dumps({"file_name": f"{n}.jpg", "text": f"{split} {n}"}) for n in names]
        )
        (root / split / name).write_text("\n".join(lines))
    listing = read("folder", SourceOptions(source=root))
    assert held(listing) == {
        "train": {"train/a.jpg": ("train a",), "train/x/b.jpg": ("train x/b",)},
        "dev": {"validation/a.jpg": ("validation a",)},
        "test": {"test/c.jpg": ("test c",)},
    }
    (root / "train" / "more.csv").write_text("image,caption\n")
    assert f"{root / 'train'}: 2 files may hold the captions" in problems("folder", source=root)


def test_metadata_may_be_a_level_deeper_and_in_parquet(pictures, held):
    root = pictures("data/train/a.jpg", "data/train/b.jpg", "data/test/a.jpg")
    for split, columns in {
        "train": {"file_name": ["a.jpg", "b.jpg"], "text": ["x", "y"]},
        "test": {"file_name": ["a.jpg"], "text": ["z"]},
    }.items():
        pq.write_table(pa.table(columns), root / "data" / split / "metadata.parquet")
    listing = read("folder", SourceOptions(source=root))
    assert held(listing) == {
        "train": {"data/train/a.jpg": ("x",), "data/train/b.jpg": ("y",)},
        "test": {"data/test/a.jpg": ("z",)},
    }
    assert listing.notes == ("split by folders: test, train",)


@pytest.mark.parametrize("name", ["{stem}.TXT", "{stem}.Jpg.txt", "{stem}.JSON", "{stem}.Jpg.json"])
def test_sidecars_in_any_spelling(name, pictures, held):
    root = pictures("train/a.Jpg", "train/b.Jpg", "val/c.Jpg")
    for path in sorted(root.glob("*/*.Jpg")):
        text = f"A {path.stem}."
        content = json.dumps({"caption": text}) if "json" in name.lower() else text
        path.with_name(name.format(stem=path.stem)).write_text(content)
    assert held(read("folder", SourceOptions(source=root))) == {
        "train": {"train/a.Jpg": ("A a.",), "train/b.Jpg": ("A b.",)},
        "dev": {"val/c.Jpg": ("A c.",)},
    }
    (root / "train" / "b.Jpg").unlink()
    with pytest.raises(InputError, match="no image of this name beside it"):
        read("folder", SourceOptions(source=root))


def test_captions_in_a_subfolder_are_named(pictures, problems):
    root = pictures("photos/a.jpg")
    (root / "lists").mkdir()
    (root / "lists" / "captions.csv").write_text("image,caption\na.jpg,x\n")
    message = problems("folder", source=root)
    assert message.endswith(f"--captions FILE, such as {root / 'lists' / 'captions.csv'}")
    (root / "lists" / "captions.csv").rename(root / "captions.xlsx")
    message = problems("folder", source=root)
    assert message.endswith(
        f"--captions FILE. {root / 'captions.xlsx'} is a workbook; save it as CSV in UTF-8"
    )


LAST_TWO = "by the last 2 parts of their paths"


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (["city\\1.jpg", "beach\\1.jpg"], "as paths in any spelling"),
        (["./city/1.JPG", "beach//1.jpg"], "as paths in any spelling"),
        (
            ["C:\\me\\d\\city\\1.jpg", "C:\\me\\d\\beach\\1.jpg"],
            "by the last 2 parts of their paths",
        ),
        (["/mnt/d/city/1.jpg", "/mnt/d/beach/1.jpg"], LAST_TWO),
        (["../d/city/1.jpg", "../d/beach/1.jpg"], LAST_TWO),
        (["../d/city/1", "../d/beach/1"], f"{LAST_TWO}, without extensions"),
    ],
)
def test_paths_in_any_spelling_find_their_images(names, rule, pictures, held):
    root = pictures("city/1.jpg", "beach/1.jpg")
    (root / "c.json").write_text(
        json.dumps(dict(zip(names, ["in town", "by the sea"], strict=True)))
    )
    listing = read("folder", SourceOptions(source=root, split_fractions={"train": 1.0}))
    assert held(listing)["train"] == {"city/1.jpg": ("in town",), "beach/1.jpg": ("by the sea",)}
    assert listing.notes == (
        f"{root / 'c.json'}: matched names with files by the rule image = file, {rule}",
    )


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (["my%20photo.jpg", "%C3%BC%2Fa+b.jpg"], "exactly"),
        (["my photo.jpg?w=3", "ü\\a b.JPG"], "as paths in any spelling"),
        (["https://example.org/x/my%20photo.jpg?w=3&h=4", "a%20b.jpg"], "without folders"),
    ],
)
def test_names_of_web_exports_find_their_images(names, rule, pictures, held):
    root = pictures("my photo.jpg", "ü/a b.jpg")
    (root / "c.json").write_text(json.dumps(dict.fromkeys(names, "x")))
    listing = read("folder", SourceOptions(source=root, split_fractions={"train": 1.0}))
    assert held(listing)["train"] == {"my photo.jpg": ("x",), "ü/a b.jpg": ("x",)}
    assert listing.notes == (
        f"{root / 'c.json'}: matched names with files by the rule image = file, {rule}, read as "
        "web addresses",
    )


def test_two_spellings_of_an_image_share_its_captions(pictures, held):
    root = pictures("city/é.jpg", "b.jpg", "c.jpg")
    names = ["city/é.jpg", ".\\city\\e\u0301.jpg", "./b.jpg", "b.jpg", "B.JPG", "C.jpg", "d.jpg"]
    rows = "".join(f"{name},{number}\n" for number, name in enumerate(names))
    (root / "c.csv").write_text(f"image,caption\n{rows}", "utf-8")
    options = SourceOptions(source=root, skip_bad=True, split_fractions={"train": 1.0})
    listing = read("folder", options)
    assert held(listing)["train"] == {
        "city/é.jpg": ("0", "1"), "b.jpg": ("2", "3", "4"), "c.jpg": ("5",),
    }  # fmt: skip
    joined = "joined the captions of names that are one image: './b.jpg' and 'B.JPG'"
    assert f"{root / 'c.csv'}: {joined}" in listing.notes
    assert "no image 'd.jpg'" in listing.notes[-1]


def test_names_that_differ_in_case_are_two_images_if_both_are_there(pictures, held):
    root = pictures("A.jpg", "a.jpg", "b.jpg")
    (root / "c.csv").write_text("image,caption\nA.jpg,one\na.jpg,two\nb.jpg,three\n")
    listing = read("folder", SourceOptions(source=root, split_fractions={"train": 1.0}))
    assert held(listing)["train"] == {"A.jpg": ("one",), "a.jpg": ("two",), "b.jpg": ("three",)}


def test_no_name_of_a_file_begins_a_line_of_the_message(pictures, problems):
    name = "a\nerror: all is lost\r.jpg"
    root = pictures(f"x/{name}", f".{name}", "b.jpg")
    (root / "c\nd.csv").write_text("image,caption\nb.jpg,A dog.\nb.jpg,\n")
    lines = problems("folder", source=root).split("\n")
    table, shown = f"{root}/c\\nd.csv", "a\\nerror: all is lost\\r.jpg"
    assert lines[1:3] == [
        f"  {table}: no captions for 1 image in {root}: x/{shown}",
        f"  {table}, line 3: empty caption of b.jpg; expected text",
    ]
    assert lines[-1].endswith(
        f"left out, because they are hidden or not named like images: {root}/.{shown}"
    )
    assert len(lines) == 5


@pytest.mark.parametrize("gap", [None, [], float("nan")])
def test_entries_without_a_caption_may_be_left_out(gap, pictures, held, problems):
    root = pictures("a.jpg", "b.jpg")
    lines = [{"image": "a.jpg", "text": "null"}, {"image": "b.jpg", "text": gap}]
    (root / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    message = problems("folder", source=root)
    assert message.count("line 2 (image b.jpg): the caption is") == 1
    assert "with --skip-bad" in message
    options = SourceOptions(source=root, skip_bad=True, split_fractions={"train": 1.0})
    assert held(read("folder", options)) == {"train": {"a.jpg": ("null",)}}


@pytest.mark.parametrize("gap", ["nan", "None", "#NAME?", ""])
def test_cells_without_a_caption_may_be_left_out(gap, pictures, held, problems):
    root = pictures("a.jpg", "b.jpg")
    (root / "c.csv").write_text(f"image,caption,split\na.jpg,A nan.,train\nb.jpg,{gap},train\n")
    assert problems("folder", source=root).count("c.csv, line 3") == 1
    listing = read("folder", SourceOptions(source=root, skip_bad=True))
    assert held(listing) == {"train": {"a.jpg": ("A nan.",)}}


def test_labels_of_boxes_are_not_captions(pictures, problems):
    root = pictures("a.jpg", "b.jpg")
    (root / "a.txt").write_text("0 0.51 0.25 0.1 0.2\n17 0.3 0.2 0.1 0.1\n")
    (root / "b.txt").write_text("7\n")
    message = problems("folder", source=root)
    assert (
        message == f"{root}/a.txt: boxes (YOLO labels), not captions; found '0 0.51 0.25 0.1 0.2'"
    )


def test_what_office_leaves_beside_an_open_table_is_not_a_table(pictures, held):
    root = pictures("a.jpg", "~$a.jpg")
    for name in ("c.csv", "~$c.csv"):
        (root / name).write_text("image,caption\na.jpg,A dog.\n")
    listing = read("folder", SourceOptions(source=root, split_fractions={"train": 1.0}))
    assert held(listing) == {"train": {"a.jpg": ("A dog.",)}}
    assert listing.notes[0].endswith(
        f"left out, because they are hidden or not named like images: {root}/~$a.jpg"
    )


def test_the_narrow_space_in_names_of_screenshots_is_a_space(pictures, held):
    name = "Screenshot at 9.41.00\u202fAM.jpg"
    root = pictures(name)
    (root / "c.json").write_text(json.dumps({"Screenshot at 9.41.00 AM.jpg": "x"}))
    listing = read("folder", SourceOptions(source=root, split_fractions={"train": 1.0}))
    assert held(listing)["train"] == {name: ("x",)}


def test_an_arrow_file_is_named_with_the_way_out(pictures, problems):
    root = pictures("1.jpg")
    for name in ("dataset_info.json", "state.json", "data-00000-of-00001.arrow"):
        (root / name).write_text("{}")
    end = f"make Parquet of it: datasets.load_from_disk('{root}').to_parquet(…)"
    assert problems("folder", source=root).endswith(end)


def test_literal_names_come_before_web_addresses(pictures, held, problems):
    root = pictures("a%20b.jpg", "a b.jpg")
    (root / "c.json").write_text(json.dumps({"a%20b.jpg": "percent", "a b.jpg": "space"}))
    listing = read("folder", SourceOptions(source=root, split_fractions={"train": 1.0}))
    assert held(listing)["train"] == {"a%20b.jpg": ("percent",), "a b.jpg": ("space",)}
    (root / "c.json").write_text(json.dumps({"a%20b.jpg": "percent", "a+b.jpg?w=3": "space"}))
    assert f"no image 'a+b.jpg?w=3' in {root} (perhaps" in problems("folder", source=root)


def test_paths_of_another_machine_are_told_apart_by_far_folders(pictures, held):
    names = ["a/x/y/1.jpg", "b/x/y/1.jpg"]
    root = pictures(*names)
    (root / "c.json").write_text(json.dumps({f"/srv/photos/{name}": name for name in names}))
    listing = read("folder", SourceOptions(source=root, split_fractions={"train": 1.0}))
    assert held(listing)["train"] == {name: (name,) for name in names}
    assert listing.notes[0].endswith("by the last 4 parts of their paths")


def test_captions_without_an_image_beside_them(pictures, problems, held):
    root = pictures("1.jpg", "2.jpg", "x/3.jpg")
    for name in ("1", "2", "4", "x/3", "x/5"):
        (root / f"{name}.txt").write_text(name)
    message = problems("folder", source=root)
    assert f"{root / '4.txt'}: no image of this name" in message
    assert f"{root / 'x' / '5.txt'}: no image of this name" in message
    options = SourceOptions(source=root, skip_bad=True, split_fractions={"train": 1.0})
    assert held(read("folder", options))["train"] == {
        "1.jpg": ("1",), "2.jpg": ("2",), "x/3.jpg": ("x/3",),
    }  # fmt: skip


def test_descriptions_of_google_takeout_are_captions(pictures, problems, held):
    long = "PXL_20230922_015614397"
    root = pictures("a.jpg", "a(1).jpg", "b.jpg", f"{long}.jpg", "c.jpg")
    sidecars = {
        "a.jpg.supplemental-metadata.json": "a dog",
        "a.jpg.supplemental-metadata(1).json": "two dogs",
        "b.jpg.json": "a cat",
        f"{long}.jpg.supplemental-metada.json": "a boat",
        "c.jpg.supplemental-metadata.json": "",
    }
    for name, description in sidecars.items():
        (root / name).write_text(json.dumps({"title": "x", "description": description}))
    place = root / "c.jpg.supplemental-metadata.json"
    assert f"{place}: empty caption of c.jpg; expected text" in problems("folder", source=root)
    options = SourceOptions(source=root, skip_bad=True, split_fractions={"train": 1.0})
    assert held(read("folder", options))["train"] == {
        "a(1).jpg": ("two dogs",), "a.jpg": ("a dog",), "b.jpg": ("a cat",),
        f"{long}.jpg": ("a boat",),
    }  # fmt: skip
    (root / "captions.csv").write_text("image,caption\na.jpg,x\na(1).jpg,y\nb.jpg,z\n")
    options = SourceOptions(source=root, skip_bad=True, split_fractions={"train": 1.0})
    assert held(read("folder", options))["train"]["b.jpg"] == ("z",)


def test_a_name_that_two_files_have_is_missing_for_that_reason(pictures, problems):
    root = pictures("city/1.jpg", "beach/1.jpg", "city/2.jpg")
    (root / "c.csv").write_text("image,caption\n1.jpg,x\n2.jpg,y\n")
    message = problems("folder", source=root)
    files = f"{root / 'beach' / '1.jpg'} or {root / 'city' / '1.jpg'}"
    assert f"line 2: no image '1.jpg' in {root} (perhaps {files}; give its path)" in message
    assert "'2.jpg'" not in message
    (root / "c.csv").write_text("image,caption\n1.jpg,x\n")
    message = problems("folder", source=root)
    assert f"the first is '1.jpg' (perhaps {files}" in message


def test_what_is_left_out_is_counted_and_named(pictures, held):
    root = pictures("a.jpg", "b.nef", "._a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", "z/b.jpg")
    (root / "__MACOSX").mkdir()
    (root / "captions.csv").write_text("image,caption,split\na.jpg,x,train\nz/b.jpg,y,train\n")
    listing = read("folder", SourceOptions(source=root))
    assert set(held(listing)["train"]) == {"a.jpg", "z/b.jpg"}
    (note,) = listing.notes
    assert note.startswith("left out, because they are hidden or not named like images: ")
    assert f"{root / '._a.jpg'}, {root / '.ipynb_checkpoints'}" in note
    assert note.endswith(" and 1 more")


def test_git_lfs_pointers_are_named(pictures, problems):
    root = pictures("a.jpg")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (root / "captions.csv").write_text(pointer)
    assert "captions.csv: a Git LFS pointer, not the file itself" in problems("folder", source=root)
