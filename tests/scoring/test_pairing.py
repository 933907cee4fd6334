"""Which images are the same, which are scored, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxcap.caption_files.image_matching import match
from jaxcap.caption_files.reading import (
    KARPATHY,
    RESULTS,
    TOKENS,
    CaptionFile,
    ImageCaptions,
    read_captions,
)
from jaxcap.messages.errors import InputError
from jaxcap.scoring.pairing import Allowed, common, in_list, in_split, pair

PATHS = (Path("ours"), Path("theirs"))


def images(kind: str, *ids: str) -> list[ImageCaptions]:
    return [ImageCaptions({kind: each}, [f"caption of {each}"]) for each in ids]


def predictions(*ids: str) -> CaptionFile:
    return CaptionFile(Path("pred.json"), RESULTS, images("image_id", *ids))


def references(*ids: str, captions: int = 2) -> CaptionFile:
    found = [
        ImageCaptions({"image": each}, [f"{each} {n}" for n in range(captions)]) for each in ids
    ]
    return CaptionFile(Path("refs.txt"), TOKENS, found)


@pytest.mark.parametrize(
    ("ours", "theirs", "rule"),
    [
        (["b.jpg", "a.jpg"], ["a.jpg", "b.jpg"], "exactly"),
        (["val/b.jpg", "val\\a.jpg"], ["a.jpg", "b.jpg"], "without folders"),
        (["b", "a.old"], ["x/a.old.PNG", "x/b.jpg"], "without folders and extensions"),
        (
            ["7", "COCO_val2014_000000000042.jpg"],
            ["000000000042.jpg", "COCO_train2014_000000000007.jpg"],
            "by the number in COCO's file names",
        ),
    ],
)
def test_one_rule_matches_all_images_and_is_named(
    ours: list[str], theirs: list[str], rule: str
) -> None:
    found = match(images("image_id", *ours), images("file_name", *theirs), paths=PATHS)
    assert found.pairs == {0: 1, 1: 0}
    assert found.rule == f"image_id = file_name, {rule}"


def test_the_kind_of_id_that_fits_all_is_taken() -> None:
    theirs = [
        ImageCaptions({"cocoid": "5", "imgid": "0", "filename": "x.jpg"}, ["x"]),
        ImageCaptions({"cocoid": "9", "imgid": "5", "filename": "y.jpg"}, ["y"]),
    ]
    # 5 is a cocoid and an imgid; 9 is only a cocoid.
    assert match(images("image_id", "9", "5"), theirs, paths=PATHS).pairs == {0: 1, 1: 0}
    assert match(images("image_id", "y.jpg"), theirs, paths=PATHS).pairs == {0: 1}
    with pytest.raises(InputError, match=r"match by two rules that differ: .* cocoid.* imgid"):
        match(images("image_id", "5"), theirs, paths=PATHS)


def test_a_rule_that_makes_two_images_one_is_not_used() -> None:
    ours = images("image_id", "train/1.jpg", "val/1.jpg")
    with pytest.raises(InputError, match="no image in common"):
        match(ours, images("file_name", "1.jpg", "2.jpg"), paths=PATHS)


def test_ids_that_match_nothing_are_shown_from_both_sides() -> None:
    with pytest.raises(InputError) as caught:
        match(images("image_id", *"12345"), images("file_name", "a.jpg", "b.jpg"), paths=PATHS)
    assert "image_id 1, 2, 3, …" in str(caught.value)
    assert "file_name a.jpg, b.jpg" in str(caught.value)


def test_captions_stand_beside_their_references() -> None:
    found = pair(predictions("b", "a"), references("a", "b"))
    assert found.names == ["b", "a"]
    assert found.captions == ["caption of b", "caption of a"]
    assert found.references == [["b 0", "b 1"], ["a 0", "a 1"]]
    assert found.ids[0] == {"image": "b", "image_id": "b"}
    assert (found.of, found.warnings) == (2, [])


def test_captions_that_would_take_hours_are_refused() -> None:
    for changed in range(2):
        files = predictions("a", "b"), references("a", "b")
        files[changed].images[1].captions[0] = "a " * 50_001
        with pytest.raises(InputError, match="a caption of image b has 100,002 characters"):
            pair(*files)


def test_missing_captions_are_refused_unless_allowed() -> None:
    few, many = predictions("a", "b", "c"), references(*"abcdefgh")
    with pytest.raises(InputError, match="no caption for 5 of the 8 images") as caught:
        pair(few, many)
    for part in ("d, e, f and 2 more", "--allow-missing", "images:3of8", "--image-list"):
        assert part in str(caught.value)
    found = pair(few, many, allowed=Allowed(missing=True))
    assert (found.names, found.of) == (["a", "b", "c"], 8)
    assert "not comparable with others" in found.warnings[0]


def test_extra_captions_are_left_out_aloud() -> None:
    found = pair(predictions("a", "x", "b"), references("a", "b"))
    assert found.names == ["a", "b"]
    assert found.warnings == [
        "refs.txt has no references for 1 of the 3 captioned images, which are not scored: x"
    ]


def test_duplicates_that_differ_are_refused_unless_allowed() -> None:
    file, refs = predictions("a", "b"), references("a", "b")
    file.images[0].captions.append("caption of a")
    assert "the same caption more than once for 1 of 2 images: a" in pair(file, refs).warnings[0]
    file.images[0].captions.append("another")
    with pytest.raises(InputError, match="several captions that differ for 1 of 2 images: a"):
        pair(file, refs)
    found = pair(file, refs, allowed=Allowed(duplicates=True))
    assert found.captions == ["caption of a", "caption of b"]
    assert "the first is scored" in found.warnings[0]


def test_mixed_up_arguments_are_recognised() -> None:
    with pytest.raises(InputError, match="Swap them: jaxcap score PREDICTIONS REFERENCES"):
        pair(references("a"), predictions("a"))
    with pytest.raises(InputError, match="expected predictions, one caption per image"):
        pair(references("a"), references("a"))
    answers = predictions("a")
    answers.images[0].n_best = [("caption of a", -1.0)]
    with pytest.raises(InputError, match=r"a model wrote them.* swap them"):
        pair(predictions("a"), answers)


def with_splits() -> CaptionFile:
    found = [
        ImageCaptions({"imgid": str(n)}, ["x"], split=split)
        for n, split in enumerate(["train", "restval", "test", "train"])
    ]
    return CaptionFile(Path("k.json"), KARPATHY, found)


def test_splits_are_chosen_by_name() -> None:
    ids = [image.ids["imgid"] for image in in_split(with_splits(), "train+restval").images]
    assert ids == ["0", "1", "3"]
    with pytest.raises(InputError, match=r"which split\? Give --split; .* train \(2 images\)"):
        in_split(with_splits(), None)
    with pytest.raises(InputError, match=r"no split 'tset'\. Did you mean 'test'\?"):
        in_split(with_splits(), "tset")
    with pytest.raises(InputError, match="names no splits"):
        in_split(references("a"), "test")


def test_a_list_chooses_images_and_must_be_complete(tmp_path: Path) -> None:
    path = tmp_path / "dev.txt"
    path.write_text("c.jpg\n\na.jpg\r\na.jpg\n")
    chosen = in_list(references("a.jpg", "b.jpg", "c.jpg"), path)
    assert [image.ids["image"] for image in chosen.images] == ["c.jpg", "a.jpg"]
    path.write_text("c.jpg\nz.jpg\n")
    with pytest.raises(InputError, match=r"no captions in refs\.txt for 1 of 2 images: z\.jpg"):
        in_list(references("a.jpg", "c.jpg"), path)


def test_two_models_are_compared_on_the_images_both_have() -> None:
    refs, allowed = references(*"abcd"), Allowed(missing=True)
    first = pair(predictions("d", "a", "b"), refs, allowed=allowed)
    second = pair(predictions("x/b", "x/c", "x/d"), refs, allowed=allowed)
    ours, theirs = common(first, second)
    assert (ours.names, theirs.names) == (["d", "b"], ["x/d", "x/b"])
    assert ours.references == theirs.references


def test_spellings_of_a_path_are_one_image(tmp_path: Path) -> None:
    path = tmp_path / "references.csv"
    path.write_text("image,caption\n./d/a.jpg,one\nd\\a.jpg,two\nb.jpg,three\n")
    found = pair(predictions("b.jpg", "d/a.jpg"), read_captions(path))
    assert found.references == [["three"], ["one", "two"]]
    path.write_text("image,caption\n./a.jpg,one\na.jpg,two\nb.jpg,x\nc.jpg,y\n")
    with pytest.raises(InputError, match=r"several captions that differ for 1 of 3 images: \./a"):
        pair(read_captions(path), references("a.jpg", "b.jpg", "c.jpg"))
