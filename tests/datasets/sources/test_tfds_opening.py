"""Opening a stranger's data set directory runs no code that it names."""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

import jaxcap
from jaxcap.datasets.prepare import find_dataset, list_prepared, load_source
from jaxcap.datasets.records import Records
from jaxcap.datasets.sources import SourceOptions
from jaxcap.datasets.sources.registry import read
from jaxcap.datasets.sources.tfds_opening import open_directory
from jaxcap.messages.errors import InputError

PROGRAM = """
from pathlib import Path
Path(__file__).with_name("executed").touch()

import tensorflow_datasets as tfds

class Evil(tfds.features.Text):
    pass
"""
CORE = "tensorflow_datasets.core.features"
NUMBERS = itertools.count()
"""TFDS caches classes by name, so each test needs its own module."""


@pytest.fixture
def directory(tiny_data: Path, tmp_path: Path) -> Path:
    """A prepared data set that a test may change."""
    return shutil.copytree(tiny_data / "shapes" / "1.0.0", tmp_path / "shapes" / "1.0.0")


@pytest.fixture
def evil(directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put an importable program in the directory; return a feature that names its class."""
    module = f"stranger_{next(NUMBERS)}"
    (directory / f"{module}.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(directory)
    return {"pythonClassName": f"{module}.Evil", "text": {}}


def hide(feature: dict[str, Any], kind: str) -> dict[str, Any]:
    """Wrap a feature in another one, as TFDS stores it."""
    content: dict[str, Any]
    match kind:
        case "top":
            return feature
        case "dict":
            content = {"featuresDict": {"features": {"inner": feature}}}
            name = "features_dict.FeaturesDict"
        case "sequence":
            content = {"sequence": {"feature": feature, "length": "-1"}}
            name = "sequence_feature.Sequence"
        case "json":  # a string of JSON, in the form of older versions of TFDS
            older = {"inner": {"type": feature["pythonClassName"], "content": {}}}
            content = {"jsonFeature": {"json": json.dumps(older)}}
            name = "features_dict.FeaturesDict"
        case "message":  # a protobuf message as a string of JSON
            message = json.dumps({"features": {"inner": feature}})
            return {
                "type": f"{CORE}.features_dict.FeaturesDict",
                "proto_cls": "tensorflow_datasets.FeaturesDict",
                "content": message,
            }
        case "snake_case":
            return {"python_class_name": feature["pythonClassName"], "text": {}}
        case "older":
            return {"type": feature["pythonClassName"], "content": {}}
    return {"pythonClassName": f"{CORE}.{name}", **content}


KINDS = ("top", "dict", "sequence", "json", "message", "snake_case", "older")


def store(directory: Path, feature: dict[str, Any], *, whole: bool) -> None:
    """Store `feature` as the whole of features.json, or add it to the others."""
    path = directory / "features.json"
    features = feature if whole else json.loads(path.read_text())
    if not whole:
        features["featuresDict"]["features"]["more"] = copy.deepcopy(feature)
    path.write_text(json.dumps(features))


@pytest.mark.parametrize("kind", KINDS)
def test_tfds_itself_runs_the_program(directory: Path, evil: dict[str, Any], kind: str) -> None:
    """The attack works where nothing checks the names."""
    store(directory, hide(evil, kind), whole=kind in ("message", "older"))
    tfds.builder_from_directory(directory)
    assert (directory / "executed").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_classes_of_strangers_are_refused(directory: Path, evil: dict[str, Any], kind: str) -> None:
    store(directory, hide(evil, kind), whole=kind in ("message", "older"))
    doors: list[Callable[[], Any]] = [
        lambda: open_directory(directory),
        lambda: Records(directory, "train"),
        lambda: find_dataset("shapes", directory.parents[1]),
        lambda: load_source("shapes", "train", directory.parents[1]),
        lambda: read("tfds", SourceOptions(source=directory)),
        lambda: read("tfds", SourceOptions(dataset="shapes", data_dir=directory.parents[1])),
    ]
    for door in doors:
        with pytest.raises(InputError) as caught:
            door()
        message = str(caught.value)
        assert message.startswith(f"{directory / 'features.json'}: names the Python class")
        assert repr(evil["pythonClassName"]) in message
        assert "expected only classes of tensorflow_datasets.core.features" in message
    assert list_prepared(directory.parents[1]) == []
    assert not (directory / "executed").exists()


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_classes_are_found_at_any_depth(directory: Path, evil: dict[str, Any], depth: int) -> None:
    feature = evil
    for _ in range(depth):
        feature = hide(hide(feature, "sequence"), "dict")
    store(directory, feature, whole=False)
    with pytest.raises(InputError, match=r"stranger_\d+\.Evil"):
        open_directory(directory)
    assert not (directory / "executed").exists()


@pytest.mark.parametrize(
    "name",
    [
        f"{CORE}.features_test.AnInputConnector",  # a module of TFDS, which imports TensorFlow
        f"{CORE}.text_feature.Text.Evil",
        f"{CORE}_evil.Text",
        f"{CORE}..stranger.Evil",
        "Text",
        "",
    ],
)
def test_only_the_feature_classes_themselves_are_known(directory: Path, name: str) -> None:
    store(directory, {"pythonClassName": name, "text": {}}, whole=False)
    with pytest.raises(InputError, match="names the Python class"):
        open_directory(directory)


def test_feature_classes_of_tfds_are_accepted(directory: Path) -> None:
    features = tfds.features.FeaturesDict(
        {
            "text": tfds.features.Text(),
            "type": tfds.features.Text(),
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(num_classes=3),
            "box": tfds.features.BBoxFeature(),
            "number": tfds.features.Scalar(np.int64),
            "array": tfds.features.Tensor(shape=(2,), dtype=np.float32),
            "rows": tfds.features.Sequence({"a": tfds.features.Text()}),
            "words": tfds.features.Translation(["en", "fr"]),
        }
    )
    features.save_config(str(directory))
    assert set(open_directory(directory).info.features) == set(features)


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("image", tfds.features.Text()),
        ("image_id", tfds.features.Image()),
        ("more", tfds.features.ClassLabel(num_classes=2)),
        ("more", tfds.features.Sequence(tfds.features.Image())),
    ],
)
def test_records_hold_one_image_and_texts_only(
    directory: Path, name: str, feature: tfds.features.FeatureConnector
) -> None:
    features = dict(open_directory(directory).info.features) | {name: feature}
    tfds.features.FeaturesDict(features).save_config(str(directory))
    with pytest.raises(InputError, match=f"has the feature '{name}' of kind .*; expected an image"):
        load_source("shapes", "train", directory.parents[1])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("features.json", "[" * 100_000),
        ("features.json", "no JSON"),
        ("features.json", "[]"),
        ("dataset_info.json", "{"),
        ("metadata.json", "{"),
        ("metadata.json", "[1]"),
    ],
)
def test_damage_is_an_error_of_the_directory(directory: Path, file: str, content: str) -> None:
    (directory / file).write_text(content)
    with pytest.raises(InputError, match=f"^{directory}: not a prepared TFDS data set, or a dam"):
        find_dataset("shapes", directory.parents[1])


@pytest.mark.parametrize("file", ["dataset_info.json", "metadata.json", "label.labels.txt"])
@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_descriptions_are_regular_files_of_bounded_size(
    directory: Path, file: str, kind: str
) -> None:
    (directory / file).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(directory / file)
    elif kind == "device":
        (directory / file).symlink_to("/dev/zero")
    else:
        with (directory / file).open("wb") as large:
            large.truncate(2**40)
    expected = "the file has 1,099,511,627,776 bytes" if kind == "large" else "not a regular file"
    with pytest.raises(InputError, match=f"^{directory / file}: {expected}"):
        open_directory(directory)


def test_the_files_of_a_split_are_bounded(directory: Path) -> None:
    change_train(directory, shardLengths=["1"] * 100_001)
    with pytest.raises(InputError, match="the split 'train' claims 100,001 files; expected at"):
        open_directory(directory)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"filepathTemplate": "../../../passwd"}, "passwd: .* would lie outside the data set"),
        ({"filepathTemplate": "{SPLIT}" * 9999}, "is missing"),
        ({"shardLengths": [str(2**62)]}, "the description says 4,611,686,018,427,387,904"),
    ],
)
def test_a_description_names_only_what_lies_beside_it(
    directory: Path, change: dict[str, Any], found: str
) -> None:
    change_train(directory, **change)
    with pytest.raises(InputError, match=found):
        Records(directory, "train")


def change_train(directory: Path, **change: Any) -> None:
    """Change the description of the training split."""
    path = directory / "dataset_info.json"
    about = json.loads(path.read_text())
    about["splits"][0].update(change)
    assert about["splits"][0]["name"] == "train"
    path.write_text(json.dumps(about))


def test_no_other_module_opens_directories() -> None:
    package = Path(jaxcap.__file__).parent
    found = {
        path.name
        for path in package.rglob("*.py")
        if "builder_from_director" in path.read_text(encoding="utf-8")
    }
    assert found == {"tfds_opening.py"}
