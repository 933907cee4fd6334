"""The releases of Flickr8k and Flickr30k: complete, partial and damaged."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

from jaxcap.datasets.sources import SourceOptions
from jaxcap.datasets.sources.registry import read

NAMES = {"train": ["1_a.jpg", "2_b.jpg", "3_c.jpg"], "dev": ["4_d.jpg"]}


@pytest.fixture
def release(pictures):
    """Three photographs for training, one for development, and no test list."""
    every = [*NAMES["train"], *NAMES["dev"]]
    root = pictures(*(f"Flicker8k_Dataset/{name}" for name in every))
    lines = []
    for name in every:
        # Numbers out of order, and a tab within a caption.
        lines += [f"{name}#{n}\tA caption\tof {name} , number {n} ." for n in (1, 0, 10, 2)]
    lines.append("9_unlisted.jpg.1#0\tThe release has such lines , of no listed photograph .")
    (root / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    (root / "Flickr_8k.trainImages.txt").write_text("\r\n".join(NAMES["train"]) + "\n\n")
    (root / "Flickr_8k.devImages.txt").write_text("\n".join(NAMES["dev"]))
    return root


def test_reads_the_lists_and_the_captions_in_the_order_of_their_numbers(release, held):
    listing = read("flickr8k", SourceOptions(source=release))
    found = held(listing)
    assert {split: list(images) for split, images in found.items()} == NAMES
    assert found["train"]["2_b.jpg"] == tuple(
        f"A caption\tof 2_b.jpg , number {n} ." for n in (0, 1, 2, 10)
    )
    assert listing.splits["dev"][0].image == release / "Flicker8k_Dataset" / "4_d.jpg"
    assert listing.notes == ("1 of 5 images with captions are not in any list",)


def test_all_problems_are_listed_at_once(release, problems):
    (release / "Flicker8k_Dataset" / "2_b.jpg").unlink()
    tokens = release / "Flickr8k.token.txt"
    kept = [line for line in tokens.read_text().split("\n") if not line.startswith("4_d")]
    tokens.write_text("\n".join(["1_a.jpg#7\t  ", "1_a.jpg no number", *kept, "3_c.jpg#0\tagain"]))
    message = problems("flickr8k", source=release)
    assert "5 problems" in message
    assert f"{tokens}, line 2: expected NAME.jpg#NUMBER<TAB>CAPTION" in message
    assert f"{tokens}, line 1: empty caption of 1_a.jpg" in message
    assert f"{tokens}, line 17: 3_c.jpg#0 is also in line 12" in message
    assert "Flickr_8k.trainImages.txt, line 2: no image '2_b.jpg'" in message
    assert "Flickr_8k.devImages.txt, line 1: no caption of 4_d.jpg" in message


def test_further_problems_are_counted(release, problems):
    tokens = release / "Flickr8k.token.txt"
    tokens.write_text(tokens.read_text() + "nonsense\n" * 25)
    message = problems("flickr8k", source=release)
    assert "25 problems" in message
    assert "line 27:" in message
    assert "line 28:" not in message
    assert message.endswith("… and 15 more")


def test_missing_images_can_be_left_out_and_are_named(release, held):
    (release / "Flicker8k_Dataset" / "2_b.jpg").unlink()
    (release / "Flickr_8k.devImages.txt").write_text("4_d.jpg\n5_e.jpg\n")
    listing = read("flickr8k", SourceOptions(source=release, skip_bad=True))
    names = {split: list(images) for split, images in held(listing).items()}
    assert names == {"train": ["1_a.jpg", "3_c.jpg"], "dev": ["4_d.jpg"]}
    (note,) = [note for note in listing.notes if note.startswith("left out:")]
    assert "devImages.txt, line 2: no image 5_e.jpg" in note
    assert "trainImages.txt, line 2: no image '2_b.jpg'" in note


def test_an_image_in_two_splits_is_a_problem(release, problems):
    (release / "Flickr_8k.devImages.txt").write_text("4_d.jpg\n2_b.jpg\n")
    message = problems("flickr8k", source=release)
    assert "devImages.txt, line 2: 2_b.jpg is already listed in" in message
    assert "trainImages.txt, line 2" in message


def test_a_name_cannot_point_outside_the_folder(release, problems, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (release / "Flickr_8k.devImages.txt").write_text("../../secret.jpg\n")
    assert "line 1: no image ../../secret.jpg" in problems("flickr8k", source=release)


@pytest.mark.parametrize(
    ("remove", "expected"),
    [
        ("Flickr8k.token.txt", "Flickr8k.token.txt: no such file"),
        ("Flicker8k_Dataset", "Flicker8k_Dataset: no such folder"),
        ("Flickr_8k.*", "no list of images; expected at least one of Flickr_8k.trainImages.txt"),
    ],
)
def test_a_missing_part_is_named(release, problems, remove, expected):
    for path in release.glob(remove):
        path.rename(release.parent / f"moved-{path.name}")
    assert expected in problems("flickr8k", source=release)


def test_an_empty_list_is_a_problem(release, problems):
    (release / "Flickr_8k.testImages.txt").write_text("\n")
    assert "testImages.txt: the file is empty" in problems("flickr8k", source=release)


def test_another_encoding_is_named(release, problems):
    (release / "Flickr8k.token.txt").write_bytes("1_a.jpg#0\tun café\n".encode("latin-1"))
    message = problems("flickr8k", source=release)
    assert "Flickr8k.token.txt, line 1: the byte 0xE9 is not UTF-8" in message
    assert "Windows-1252 or Latin-1" in message


def test_the_source_must_be_a_folder(problems, tmp_path):
    assert "does not exist; expected the folder" in problems(
        "flickr8k", source=tmp_path / "nowhere"
    )
    (tmp_path / "file").touch()
    assert "is a file" in problems("flickr8k", source=tmp_path / "file")
    assert problems("flickr8k").startswith(
        "no source given; expected --source DIR, the folder that holds"
    )


@pytest.mark.skipif(not os.environ.get("JAXCAP_FLICKR8K"), reason="no Flickr8k release here")
def test_the_real_release_against_its_files():
    """Count and read the files without the reader."""
    source = Path(os.environ["JAXCAP_FLICKR8K"])
    captions = defaultdict(dict)
    for line in (source / "Flickr8k.token.txt").read_bytes().decode().splitlines():
        key, caption = line.split("\t", 1)
        name, number = key.split("#")
        captions[name][number] = caption.strip()
    listing = read("flickr8k", SourceOptions(source=source))
    for split, examples in listing.splits.items():
        names = (source / f"Flickr_8k.{split}Images.txt").read_text().split()
        assert [example.image_id for example in examples] == names
        for example in examples:
            assert example.image == source / "Flicker8k_Dataset" / example.image_id
            assert example.captions == tuple(captions[example.image_id][n] for n in "01234")
    counts = {split: len(examples) for split, examples in listing.splits.items()}
    assert counts["train"] == 6000
    assert counts["dev"] == 1000


@pytest.fixture
def thirty(pictures):
    """A Flickr30k release of forty photographs."""
    root = pictures(*(f"flickr30k-images/{n}.jpg" for n in range(40)))
    lines = [f"{n}.jpg#{k}\tPhotograph {n}, caption {k}." for n in range(40) for k in range(5)]
    (root / "results_20130124.token").write_text("\n".join(lines))
    return root


def test_flickr30k_without_splits_draws_them_with_a_note(thirty, held):
    listing = read("flickr30k", SourceOptions(source=thirty))
    found = held(listing)
    assert sum(map(len, found.values())) == 40
    assert set(found) <= {"train", "dev", "test"}
    assert all(
        captions == tuple(f"Photograph {name[:-4]}, caption {k}." for k in range(5))
        for images in found.values()
        for name, captions in images.items()
    )
    assert "assigned by a hash" in listing.notes[0]
    assert "no official split" in listing.notes[-1]
    assert "dataset_flickr30k.json" in listing.notes[-1]


def test_flickr30k_in_karpathys_splits(thirty, held):
    images = [
        {
            "filename": f"{n}.jpg",
            "imgid": n,
            "split": ["train", "val", "test"][n % 3],
            "sentences": [{"raw": f"Raw {n}.", "tokens": ["raw", str(n)]}],
        }
        for n in range(40)
    ]
    (thirty / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    listing = read("flickr30k", SourceOptions(source=thirty))
    found = held(listing)
    assert {split: len(images) for split, images in found.items()} == {
        "train": 14, "dev": 13, "test": 13,
    }  # fmt: skip
    assert found["dev"]["1.jpg"] == ("Raw 1.",)
    assert listing.notes == ()


def test_flickr30k_by_lists_without_extensions(thirty, held, tmp_path):
    (tmp_path / "train.txt").write_text("3\n1\n")
    (tmp_path / "val.txt").write_text("2\n")
    lists = {"train": tmp_path / "train.txt", "val": tmp_path / "val.txt"}
    listing = read("flickr30k", SourceOptions(source=thirty, split_files=lists))
    names = {split: list(images) for split, images in held(listing).items()}
    assert names == {"train": ["3.jpg", "1.jpg"], "dev": ["2.jpg"]}
    assert listing.notes == ("37 of 40 images with captions are not in any list",)
