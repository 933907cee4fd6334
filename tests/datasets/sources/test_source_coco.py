"""Small versions of the COCO download and of Karpathy's files."""

from __future__ import annotations

import json

import pytest

from jaxcap.datasets.sources import SourceOptions
from jaxcap.datasets.sources.registry import read


def coco_file(path, split, year, ids, captions=2):
    """Write annotations; captions of all images are interleaved, as in the originals."""
    prefix = f"COCO_{split}{year}_" if year == 2014 else ""
    images = [{"id": i, "file_name": f"{prefix}{i:012d}.jpg"} for i in ids]
    annotations = [
        {"id": 100 * i + k, "image_id": i, "caption": f" Image {i}, caption {k}.\n"}
        for k in range(captions)
        for i in ids
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    return [f"{split}{year}/{image['file_name']}" for image in images]


@pytest.fixture
def coco(pictures, tmp_path):
    """Images 9, 3 and 7 for training, 4 and 8 for validation."""
    notes = tmp_path / "source" / "annotations"
    names = coco_file(notes / "captions_train2014.json", "train", 2014, [9, 3, 7])
    names += coco_file(notes / "captions_val2014.json", "val", 2014, [4, 8])
    return pictures(*names)


def karpathy(*entries):
    """A file of images, each (split, folder, file name, id)."""
    images = [
        {
            "filepath": folder,
            "filename": name,
            "imgid": n,
            "cocoid": cocoid,
            "split": split,
            "sentences": [{"raw": f"First of {cocoid}."}, {"raw": f"Second of {cocoid}."}],
        }
        for n, (split, folder, name, cocoid) in enumerate(entries)
    ]
    return json.dumps({"dataset": "coco", "images": images})


FOUR = [
    ("restval", "val2014", "COCO_val2014_000000000004.jpg", 4),
    ("test", "val2014", "COCO_val2014_000000000008.jpg", 8),
    ("train", "train2014", "COCO_train2014_000000000009.jpg", 9),
    ("val", "train2014", "COCO_train2014_000000000003.jpg", 3),
]


def test_the_official_splits(coco, held):
    listing = read("coco", SourceOptions(source=coco))
    found = held(listing)
    assert {split: list(images) for split, images in found.items()} == {
        "train": [f"COCO_train2014_{i:012d}.jpg" for i in (9, 3, 7)],
        "dev": [f"COCO_val2014_{i:012d}.jpg" for i in (4, 8)],
    }
    # As they stand in the file, to the last character.
    assert found["dev"]["COCO_val2014_000000000008.jpg"] == (
        " Image 8, caption 0.\n",
        " Image 8, caption 1.\n",
    )
    assert "no test split" in listing.notes[0]


def test_karpathys_splits_are_used_if_his_file_exists(coco, held):
    (coco / "dataset_coco.json").write_text(karpathy(*FOUR))
    found = held(read("coco", SourceOptions(source=coco)))
    assert {split: list(images) for split, images in found.items()} == {
        "train": ["COCO_val2014_000000000004.jpg", "COCO_train2014_000000000009.jpg"],
        "dev": ["COCO_train2014_000000000003.jpg"],
        "test": ["COCO_val2014_000000000008.jpg"],
    }
    assert found["test"]["COCO_val2014_000000000008.jpg"] == ("First of 8.", "Second of 8.")


def test_his_splits_of_the_images_of_2017_by_their_numbers(pictures, tmp_path, held):
    root = pictures(*(f"train2017/{i:012d}.jpg" for i in (3, 4, 8, 9)))
    (tmp_path / "dataset_coco.json").write_text(karpathy(*FOUR))
    options = SourceOptions(source=root, captions=tmp_path / "dataset_coco.json")
    found = held(read("coco", options))
    assert list(found["train"]) == ["000000000004.jpg", "000000000009.jpg"]
    assert found["dev"] == {"000000000003.jpg": ("First of 3.", "Second of 3.")}


def test_both_years_and_images_in_a_folder_of_their_own(coco, pictures, problems, held):
    notes = coco / "annotations"
    names = coco_file(notes / "captions_train2017.json", "train", 2017, [4, 9])
    names += coco_file(notes / "captions_val2017.json", "val", 2017, [3])
    images = pictures(*names, folder="images")
    message = problems("coco", source=coco)
    assert "holds annotations of both 2014 and 2017" in message
    assert "--captions" in message
    options = SourceOptions(source=coco, captions=notes / "captions_train2017.json", images=images)
    found = held(read("coco", options))
    assert {split: list(images) for split, images in found.items()} == {
        "train": ["000000000004.jpg", "000000000009.jpg"],
        "dev": ["000000000003.jpg"],
    }


def test_an_official_file_that_is_named_must_be_there(coco, problems):
    (coco / "annotations" / "captions_train2014.json").unlink()
    path = coco / "annotations" / "captions_train2014.json"
    message = problems("coco", source=coco, captions=path)
    assert "captions_train2014.json: no such file" in message


def test_the_official_images_can_be_split_again(coco, held, tmp_path):
    (tmp_path / "test.txt").write_text("COCO_val2014_000000000008\nCOCO_train2014_000000000009\n")
    options = SourceOptions(source=coco, split_files={"test": tmp_path / "test.txt"})
    found = held(read("coco", options))
    assert list(found) == ["test"]
    assert list(found["test"]) == [
        "COCO_val2014_000000000008.jpg",
        "COCO_train2014_000000000009.jpg",
    ]


def test_all_problems_of_annotations_are_listed(coco, problems):
    path = coco / "annotations" / "captions_train2014.json"
    document = json.loads(path.read_text())
    document["images"].append({"id": 3, "file_name": "COCO_train2014_000000000003.jpg"})
    document["images"].append({"id": 11, "file_name": "COCO_train2014_000000000011.jpg"})
    document["annotations"][0]["caption"] = "  "
    document["annotations"][1]["caption"] = None
    document["annotations"].append({"id": 1, "image_id": 5, "caption": "x"})
    path.write_text(json.dumps(document))
    (coco / "val2014" / "COCO_val2014_000000000008.jpg").unlink()
    message = problems("coco", source=coco)
    assert "6 problems" in message
    assert f"{path}, image 4: the id 3 is also that of image 2" in message
    assert f"{path}, annotation 2 (image 3): the caption is null; expected text" in message
    assert f"{path}, annotation 7: image_id 5 is not among the file's images" in message
    assert f"{path}, annotation 1: empty caption of COCO_train2014_000000000009" in message
    assert f"{path}, image 5: no image 'COCO_train2014_000000000011.jpg'" in message
    assert "val2014.json, image 2: no image 'COCO_val2014_000000000008.jpg'" in message


def test_an_image_without_annotations(coco, pictures, problems):
    path = coco / "annotations" / "captions_train2014.json"
    document = json.loads(path.read_text())
    document["images"].append({"id": 11, "file_name": "COCO_train2014_000000000011.jpg"})
    path.write_text(json.dumps(document))
    pictures("train2014/COCO_train2014_000000000011.jpg")
    message = problems("coco", source=coco)
    assert f"{path}, image 4: COCO_train2014_000000000011.jpg has no caption" in message


def test_bad_json_has_its_position(coco, problems):
    path = coco / "annotations" / "captions_val2014.json"
    path.write_text('{"images": [],\n "annotations": [}')
    message = problems("coco", source=coco)
    assert message.startswith(f"{path}, line 2, column 18: malformed JSON")


def test_folders_without_coco_are_refused(pictures, problems, tmp_path):
    root = pictures("a.jpg")
    assert "no captions found; expected annotations/captions_train2014.json" in problems(
        "coco", source=root
    )
    (tmp_path / "x.csv").write_text("image,caption\na.jpg,x\n")
    message = problems("coco", source=root, captions=tmp_path / "x.csv")
    assert "found table; expected COCO annotations or Karpathy" in message


def test_karpathys_file_of_any_name(pictures, held):
    root = pictures("pets/1.jpg", "pets/2.jpg", "3.jpg")
    entries = [
        ("train", "pets", "1.jpg", 1), ("val", "pets", "2.jpg", 2), ("restval", "", "3.jpg", 3),
    ]  # fmt: skip
    (root / "dataset_pets.json").write_text(karpathy(*entries))
    found = held(read("karpathy", SourceOptions(source=root)))
    assert found == {
        "train": {
            "1.jpg": ("First of 1.", "Second of 1."),
            "3.jpg": ("First of 3.", "Second of 3."),
        },
        "dev": {"2.jpg": ("First of 2.", "Second of 2.")},
    }


def test_files_of_the_same_name_in_two_folders_keep_their_folders(pictures, held):
    root = pictures("a/1.jpg", "b/1.jpg")
    (root / "dataset_x.json").write_text(
        karpathy(("train", "a", "1.jpg", 1), ("val", "b", "1.jpg", 2))
    )
    found = held(read("karpathy", SourceOptions(source=root)))
    assert {split: list(images) for split, images in found.items()} == {
        "train": ["a/1.jpg"], "dev": ["b/1.jpg"],
    }  # fmt: skip


def test_problems_of_karpathys_file_are_listed(pictures, problems):
    root = pictures("1.jpg", "2.jpg", "3.jpg", "4.jpg")
    entries = [
        ("train", "", "1.jpg", 1), ("test", "", "1.jpg", 1), ("my split", "", "2.jpg", 2),
        ("train", "", "gone.jpg", 5), (None, "", "3.jpg", 3), ("train", "", "4.jpg", 4),
    ]  # fmt: skip
    document = json.loads(karpathy(*entries))
    document["images"][5]["sentences"] = []
    path = root / "dataset_x.json"
    path.write_text(json.dumps(document))
    message = problems("karpathy", source=root)
    assert "5 problems" in message
    assert f"{path}, image 2: 1.jpg repeats the image of image 1" in message
    assert "in the split train, this one in test" in message
    assert f"{path}, image 3: 2.jpg: the split is called 'my split'; expected train, dev" in message
    assert f"{path}, image 4: no image 'gone.jpg'" in message
    assert f"{path}, image 5: 3.jpg has no split" in message
    assert f"{path}, image 6: 4.jpg has no caption" in message


def test_ids_are_not_file_names(pictures, problems):
    # imgid 0, 1, 2, … and cocoid 1, 2, …, in a folder of other images.
    root = pictures("0.jpg", "1.jpg", "2.jpg", "3.jpg")
    entries = [("train", "", f"dog{i}.jpg", i) for i in (1, 2, 3)]
    (root / "dataset_x.json").write_text(karpathy(*entries))
    assert "of its 3 images, none is in" in problems("karpathy", source=root)


def test_all_images_missing(pictures, problems, tmp_path):
    root = pictures("1.jpg")
    (root / "dataset_x.json").write_text(
        karpathy(*[("train", "", f"n{i}.jpg", i) for i in range(30)])
    )
    message = problems("karpathy", source=root)
    assert "of its 30 images, none is in" in message
    assert "'n0.jpg'" in message
    assert message.endswith("--images DIR")


def test_several_karpathy_files_need_a_choice(pictures, problems):
    root = pictures("1.jpg")
    assert "expected one file dataset_*.json, found none" in problems("karpathy", source=root)
    (root / "dataset_a.json").write_text("{}")
    (root / "dataset_b.json").write_text("{}")
    assert "found dataset_a.json, dataset_b.json" in problems("karpathy", source=root)
    message = problems("karpathy", source=root, captions=root / "dataset_c.json")
    assert "dataset_c.json: no such file. Did you mean" in message
