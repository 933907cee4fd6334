"""Preparing, finding and reading data sets by name, with their error messages."""

from __future__ import annotations

import concurrent.futures
import io
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from rich.console import Console

from jaxcap.datasets import prepare as prepare_module
from jaxcap.datasets import shapes
from jaxcap.datasets.building import build
from jaxcap.datasets.prepare import find_dataset, list_prepared, load_source
from jaxcap.datasets.recipes import listing_recipe
from jaxcap.datasets.sources import Example, Listing, SourceOptions
from jaxcap.messages.errors import InputError

QUIET = Console(quiet=True)


def prepare(format: str, **options: Any) -> prepare_module.Prepared:
    if "source" in options:
        options["options"] = SourceOptions(source=options.pop("source"))
    return prepare_module.prepare(format, **({"console": QUIET} | options))


@pytest.fixture
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "NUM_SCENES", {"train": 12, "dev": 4, "test": 5})


@pytest.fixture
def release(tmp_path: Path) -> Path:
    root = tmp_path / "release"
    (root / "Flicker8k_Dataset").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(root / "Flicker8k_Dataset" / "1.jpg")
    (root / "Flickr8k.token.txt").write_text("1.jpg#0\tCafé , red .\n1.jpg#1\tA wall .\n")
    (root / "Flickr_8k.trainImages.txt").write_text("1.jpg\n")
    return root


@pytest.mark.usefixtures("small_shapes")
def test_shapes_round_trip(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepare("shapes", data_dir=tmp_path, console=None)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"shapes: prepared train 12, dev 4, test 5 in {tmp_path}/shapes/1.0.0\n"
    records = load_source("shapes", "test", tmp_path)
    assert len(records) == 5
    for i, record in enumerate(records):
        assert record["image_id"] == f"test-{i:05d}"
        assert record == shapes.make_example("test", i)
        scene = shapes.scene_from_json(record["scene"])
        assert all(shapes.is_true_and_complete(text, scene) for text in record["captions"])
        assert np.array(Image.open(io.BytesIO(record["image"]))).shape == (80, 80, 3)
    assert records[-1] == records[4]
    with pytest.raises(IndexError):
        records[5]


@pytest.mark.usefixtures("small_shapes")
def test_records_can_be_pickled_and_read_from_threads(tmp_path: Path) -> None:
    prepare("shapes", data_dir=tmp_path)
    records = load_source("shapes", "train", tmp_path)
    expected = list(records)
    assert list(pickle.loads(pickle.dumps(records))) == expected
    fresh = load_source("shapes", "train", tmp_path)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fresh.__getitem__, list(range(12)) * 20)) == expected * 20
    assert len(load_source("shapes", "train[:50%]", tmp_path)) == 6


def test_flickr8k_keeps_the_bytes_and_the_text(tmp_path: Path, release: Path) -> None:
    prepared = prepare("flickr8k", source=release, data_dir=tmp_path / "data")
    assert (prepared.splits, prepared.flippable) == ({"train": 1}, True)
    (record,) = load_source("flickr8k", "train", tmp_path / "data")
    assert record == {
        "image": (release / "Flicker8k_Dataset" / "1.jpg").read_bytes(),
        "captions": ["Café , red .", "A wall ."],
        "image_id": "1.jpg",
    }


@pytest.mark.parametrize("name", ["mine", "a1_b", "x" * 100])
def test_a_data_set_may_have_any_name_of_tfds(tmp_path: Path, release: Path, name: str) -> None:
    prepare("flickr8k", source=release, name=name, data_dir=tmp_path / "data")
    assert find_dataset(name, tmp_path / "data").made_from["format"] == "flickr8k"
    assert len(load_source(name, "train", tmp_path / "data")) == 1


@pytest.mark.parametrize("name", ["", "Mine", "1a", "my-set", "a/b", "ä", "x" * 101, "a:b", "a.b"])
def test_other_names_are_refused(tmp_path: Path, release: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"--name is .*; expected at most 100 lower-case letters"):
        prepare("flickr8k", source=release, name=name, data_dir=tmp_path / "data")


@pytest.mark.usefixtures("small_shapes")
def test_preparing_twice_builds_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepare("shapes", data_dir=tmp_path)
    assert capfd.readouterr() == ("", "")

    def never(what: str, done: int, total: int) -> None:
        raise AssertionError

    prepare("shapes", data_dir=tmp_path, progress=never, console=None)
    assert capfd.readouterr().err == f"shapes is prepared already: {tmp_path}/shapes/1.0.0\n"


def test_a_different_data_set_of_the_same_name_is_refused(tmp_path: Path, release: Path) -> None:
    data = tmp_path / "data"
    prepare("flickr8k", source=release, data_dir=data)
    with pytest.raises(InputError, match=r"without --max-side, not with --max-side 4\. Choose"):
        prepare("flickr8k", source=release, data_dir=data, max_side=4)
    (release / "Flickr8k.token.txt").write_text("1.jpg#0\tCafé , blue .\n")
    with pytest.raises(InputError, match="holds other images, captions or splits than the source"):
        prepare("flickr8k", source=release, data_dir=data)
    with pytest.raises(InputError, match="from the format flickr8k, not shapes"):
        prepare("shapes", name="flickr8k", data_dir=data)
    (record,) = load_source("flickr8k", "train", data)
    assert record["captions"] == ["Café , red .", "A wall ."]


@pytest.mark.usefixtures("small_shapes")
def test_the_data_directory_is_tfds_s_own_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepare("shapes")
    assert len(load_source("shapes", "dev")) == 4
    assert not find_dataset("shapes").flippable
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(prepare_module.default_data_dir()) == "/home/someone/tensorflow_datasets"


def test_a_listing_can_forbid_mirroring(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    examples = (Example("a", tmp_path / "a.png", ("left",)),)
    listing = Listing({"train": examples}, "", flippable=False)
    build(listing_recipe(listing, name="sided", format="folder"), tmp_path)
    assert not find_dataset("sided", tmp_path).flippable


@pytest.mark.usefixtures("small_shapes")
def test_how_a_data_set_was_made_has_its_type(tmp_path: Path) -> None:
    path = prepare("shapes", data_dir=tmp_path).path / "metadata.json"
    for value in (None, 5, "format", ["format"]):
        path.write_text(json.dumps({"made_from": value, "another": value}))
        with pytest.raises(InputError, match=r"metadata\.json\.made_from is .*; expected a table"):
            prepare("shapes", data_dir=tmp_path)
    path.write_text(json.dumps({"another": 5}))
    assert find_dataset("shapes", tmp_path).made_from == {}


def test_data_sets_of_tfds_s_own_builders_can_be_read(tmp_path: Path, release: Path) -> None:
    """They have no metadata.json."""

    class Flickr8k(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "captions": tfds.features.Sequence(tfds.features.Text()),
                "image_id": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            image = release / "Flicker8k_Dataset" / "1.jpg"
            record = {"image": image, "captions": ["Café , red .", "A wall ."], "image_id": "1.jpg"}
            return {"train": iter([(0, record)])}

        _generate_examples = None  # type: ignore[assignment]

    tfds.disable_progress_bar()
    Flickr8k(data_dir=tmp_path / "old", file_format="array_record").download_and_prepare()
    old = find_dataset("flickr8k", tmp_path / "old")
    assert (old.splits, old.flippable, old.made_from) == ({"train": 1}, True, {})
    prepare("flickr8k", source=release, data_dir=tmp_path / "new")
    assert list(load_source("flickr8k", "train", tmp_path / "old")) == list(
        load_source("flickr8k", "train", tmp_path / "new")
    )
    assert prepare("flickr8k", source=release, data_dir=tmp_path / "old").path == old.path


@pytest.mark.parametrize("file_format", ["tfrecord", "parquet"])
def test_only_array_record_is_read(tmp_path: Path, tiny_data: Path, file_format: str) -> None:
    copy = shutil.copytree(tiny_data, tmp_path / "data")
    (info,) = copy.rglob("dataset_info.json")
    info.write_text(info.read_text().replace('"array_record"', f'"{file_format}"'))
    with pytest.raises(InputError, match=f"are {file_format}; expected array_record"):
        load_source("shapes", "train", copy)


def test_text_is_a_data_set_without_images(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("A dog.\nTwo dogs.\n\nCafé.\n")
    source = {"source": tmp_path / "words.txt", "name": "words", "data_dir": tmp_path / "data"}
    prepared = prepare("text", **source)
    assert prepared.text_alone
    assert prepared.counts == "train 2 (text alone)"
    with pytest.raises(InputError, match=r"holds captions without images.*data\.mixed_with"):
        load_source("words", "train", tmp_path / "data")
    records = load_source("words", "train", tmp_path / "data", text_too=True)
    assert list(pickle.loads(pickle.dumps(records))) == [
        {"captions": ["A dog.", "Two dogs."], "image_id": "line 1"},
        {"captions": ["Café."], "image_id": "line 4"},
    ]
    assert list_prepared(tmp_path / "data") == ["words"]
    assert prepare("text", **source).path == prepared.path
    (tmp_path / "words.txt").write_text("A dog.\n")
    with pytest.raises(InputError, match="holds other images, captions or splits than the source"):
        prepare("text", **source)
    with pytest.raises(InputError, match="--max-side is 9, but there are no images to scale"):
        prepare("text", **(source | {"name": "other"}), max_side=9)
    with pytest.raises(InputError, match="text: the data set has no name"):
        prepare("text", source=tmp_path / "words.txt", data_dir=tmp_path)


def test_a_faulty_source_leaves_nothing_behind(tmp_path: Path, release: Path) -> None:
    (release / "Flicker8k_Dataset" / "1.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 image cannot be read .*\n.*1\.jpg: the file is empty"):
        prepare("flickr8k", source=release, data_dir=tmp_path / "data" / "sets")
    assert not (tmp_path / "data").exists()
    with pytest.raises(InputError, match="Run: jaxcap prepare flickr8k --source DIR"):
        load_source("flickr8k", "train", tmp_path / "data")


@pytest.mark.usefixtures("small_shapes")
def test_another_version_is_named(tmp_path: Path, release: Path) -> None:
    path = prepare("shapes", data_dir=tmp_path).path
    path.rename(path.with_name("2.0.0"))
    expected = "holds version 2.0.0 of shapes, which jaxcap cannot read"
    with pytest.raises(InputError, match=expected):
        load_source("shapes", "train", tmp_path)
    with pytest.raises(InputError, match=expected):
        prepare("shapes", data_dir=tmp_path)


@pytest.mark.usefixtures("small_shapes")
def test_damage_is_named(tmp_path: Path) -> None:
    path = prepare("shapes", data_dir=tmp_path).path
    text = (path / "dataset_info.json").read_text()
    (path / "dataset_info.json").write_text(text[:100])
    with pytest.raises(InputError, match=r"1\.0\.0: not a prepared TFDS data set, or a"):
        load_source("shapes", "train", tmp_path)
    (path / "dataset_info.json").write_text(text)
    features = json.loads((path / "features.json").read_text())
    del features["featuresDict"]["features"]["captions"]
    (path / "features.json").write_text(json.dumps(features))
    with pytest.raises(InputError, match="this TFDS data set has no feature captions; expected"):
        load_source("shapes", "train", tmp_path)
    assert list_prepared(tmp_path) == []
    shutil.rmtree(path)
    path.mkdir()
    with pytest.raises(InputError, match="not a prepared TFDS data set"):
        prepare("shapes", data_dir=tmp_path)


@pytest.mark.usefixtures("small_shapes")
def test_errors_suggest_a_remedy(tmp_path: Path, release: Path) -> None:
    with pytest.raises(
        InputError, match=r"(?s)unknown format 'flickr'.*Did you mean 'flickr8k'.*tfds"
    ):
        prepare("flickr", data_dir=tmp_path)
    with pytest.raises(InputError, match=r"coco is not prepared in .*jaxcap prepare coco --source"):
        load_source("coco", "train", tmp_path)
    with pytest.raises(InputError, match="--source"):
        prepare("flickr8k", data_dir=tmp_path)
    with pytest.raises(InputError, match="folder: the data set has no name"):
        prepare("folder", source=release, data_dir=tmp_path)
    with pytest.raises(InputError, match="shapes takes no --source"):
        prepare("shapes", source=release, data_dir=tmp_path)
    with pytest.raises(InputError, match="shapes takes no --max-side"):
        prepare("shapes", max_side=10, data_dir=tmp_path)
    with pytest.raises(InputError, match="--max-side is 0"):
        prepare("flickr8k", source=release, max_side=0, data_dir=tmp_path)
    with pytest.raises(InputError, match="--workers is 0"):
        prepare("flickr8k", source=release, workers=0, data_dir=tmp_path)
    with pytest.raises(InputError, match=r"Run: jaxcap prepare shapes$"):
        load_source("shapes", "train", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write to"):
        prepare("shapes", data_dir=tmp_path / "file")
    prepare("shapes", data_dir=tmp_path)
    with pytest.raises(InputError, match=r"found shapes\. Did you mean 'shapes'"):
        load_source("shape", "train", tmp_path)
    with pytest.raises(InputError, match=r"no split 'val'.*train \(12\), dev \(4\), test \(5\)"):
        load_source("shapes", "val", tmp_path)
    with pytest.raises(InputError, match="is empty"):
        load_source("shapes", "dev[:0]", tmp_path)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"my split": 1}, "the split is called 'my split'"),
        ({"all": 1}, "the split is called 'all'"),
        ({"train": 1, "dev": 0}, "the split 'dev' is empty"),
    ],
)
def test_splits_that_tfds_could_not_read(splits: dict[str, int], message: str) -> None:
    example = Example("a", Path(__file__), ("a",))
    listing = Listing({split: (example,) * count for split, count in splits.items()}, "")
    with pytest.raises(InputError, match=message):
        listing_recipe(listing, name="mine", format="folder")


def test_no_tensorflow() -> None:
    program = "import sys; import jaxcap.datasets.prepare; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
