"""Splits that are announced, training captions that are no test captions, pictures by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxcap.caption_files.image_lookup import pictures_of
from jaxcap.caption_files.reading import read_captions
from jaxcap.messages.errors import InputError
from jaxcap.scoring.inputs import references_of, training_captions


@pytest.fixture
def karpathy(tmp_path: Path) -> Path:
    images = [
        {"filename": f"{split}.jpg", "split": split, "sentences": [{"raw": f"A {split} dog."}]}
        for split in ("train", "restval", "test")
    ]
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"images": images}))
    return path


def test_what_a_split_leaves_out_is_said(karpathy: Path) -> None:
    file = read_captions(karpathy)
    chosen, notes = references_of(file, split="train")
    assert [image.captions for image in chosen.images] == [["A train dog."]]
    assert "leaves out 1 image of 'restval'" in notes[0]
    assert references_of(file, split="train+restval")[1] == []
    assert references_of(file, split="test")[1] == []


def test_training_captions_are_of_the_training_images(karpathy: Path) -> None:
    found = training_captions(
        read_captions(karpathy), split=None, image_list=None, references=karpathy
    )
    assert found == {"a train dog", "a restval dog"}
    found = training_captions(
        read_captions(karpathy), split="test", image_list=None, references=karpathy
    )
    assert found == {"a test dog"}


def test_the_references_are_not_the_training_set(tmp_path: Path) -> None:
    tokens = tmp_path / "token.txt"
    tokens.write_text("a.jpg#0\tA dog .\nb.jpg#0\tA cat .\n")
    file = read_captions(tokens)
    with pytest.raises(InputError, match="this is the file of the references"):
        training_captions(file, split=None, image_list=None, references=tokens)
    names = tmp_path / "train.txt"
    names.write_text("b.jpg\n")
    found = training_captions(
        read_captions(tokens), split=None, image_list=names, references=tokens
    )
    assert found == {"a cat"}


def test_pictures_are_found_below_the_folder(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    for name in ("val/a.jpg", "val/b.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    found = pictures_of([{"image": "b.PNG"}, {"image": "c.jpg"}, {"image": "a.jpg"}], tmp_path)
    assert found.paths == [tmp_path / "val/b.PNG", None, tmp_path / "val/a.jpg"]
    with pytest.raises(InputError, match="of 1 image, none is in this folder"):
        pictures_of([{"image": "z.jpg"}], tmp_path)
    with pytest.raises(InputError, match="expected the image folder"):
        pictures_of([{"image": "z.jpg"}], tmp_path / "none")
