"""Preparing and reading data sets, and what is left when that goes wrong."""

import concurrent.futures
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxcap.data import prepare as prepare_module
from jaxcap.data import shapes
from jaxcap.data.prepare import load_source, prepare
from jaxcap.errors import InputError


@pytest.fixture
def small_shapes(monkeypatch):
    monkeypatch.setattr(shapes.Shapes, "NUM_SCENES", {"train": 12, "dev": 4, "test": 5})


@pytest.fixture
def release(tmp_path):
    root = tmp_path / "release"
    (root / "Flicker8k_Dataset").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(root / "Flicker8k_Dataset" / "1.jpg")
    (root / "Flickr8k.token.txt").write_text("1.jpg#0\tCafé , red .\n1.jpg#1\tA wall .\n")
    (root / "Flickr_8k.trainImages.txt").write_text("1.jpg\n")
    return root


@pytest.mark.usefixtures("small_shapes")
def test_shapes_there_and_back(tmp_path, capfd):
    prepare("shapes", data_dir=tmp_path)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.replace("\n", "").startswith("shapes: prepared train 12, dev 4, test 5 in ")
    records = load_source("shapes", "test", tmp_path)
    assert len(records) == 5
    for i, record in enumerate(records):
        assert record["image_id"] == f"test-{i:05d}"
        example = shapes.make_example("test", i)
        assert record["image"] == example["image"].read()
        assert record["captions"] == example["captions"]
        scene = shapes.scene_from_json(record["scene"])
        assert all(shapes.is_true_and_complete(text, scene) for text in record["captions"])
        assert np.array(Image.open(io.BytesIO(record["image"]))).shape == (80, 80, 3)
    assert records[-1] == records[4]
    with pytest.raises(IndexError):
        records[5]


@pytest.mark.usefixtures("small_shapes")
def test_records_can_be_pickled_and_read_from_threads(tmp_path):
    prepare("shapes", data_dir=tmp_path, quiet=True)
    records = load_source("shapes", "train", tmp_path)
    expected = list(records)
    assert list(pickle.loads(pickle.dumps(records))) == expected
    fresh = load_source("shapes", "train", tmp_path)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fresh.__getitem__, list(range(12)) * 20)) == expected * 20
    assert len(load_source("shapes", "train[:50%]", tmp_path)) == 6


def test_flickr8k_keeps_the_bytes_and_the_text(tmp_path, release):
    prepare("flickr8k", source=release, data_dir=tmp_path / "data", quiet=True)
    (record,) = load_source("flickr8k", "train", tmp_path / "data")
    assert record == {
        "image": (release / "Flicker8k_Dataset" / "1.jpg").read_bytes(),
        "captions": ["Café , red .", "A wall ."],
        "image_id": "1.jpg",
    }


@pytest.mark.usefixtures("small_shapes")
def test_a_second_time_nothing_is_built(tmp_path, capfd):
    prepare("shapes", data_dir=tmp_path, quiet=True)
    assert capfd.readouterr() == ("", "")

    def never(what, done, total):
        raise AssertionError

    prepare("shapes", data_dir=tmp_path, progress=never)
    assert "is prepared already" in capfd.readouterr().err


@pytest.mark.usefixtures("small_shapes")
def test_the_data_directory_is_tfds_s_own_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepare("shapes", quiet=True)
    assert len(load_source("shapes", "dev")) == 4
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(prepare_module.default_data_dir()) == "/home/someone/tensorflow_datasets"


def test_a_faulty_source_leaves_nothing(tmp_path, release):
    (release / "Flicker8k_Dataset" / "1.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 problem .*\n.*1\.jpg: the file is empty"):
        prepare("flickr8k", source=release, data_dir=tmp_path / "data", quiet=True)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    with pytest.raises(InputError, match="jaxcap prepare flickr8k --source DIR"):
        load_source("flickr8k", "train", tmp_path / "data")


@pytest.mark.usefixtures("small_shapes")
def test_a_run_killed_half_way_leaves_nothing_that_counts(tmp_path):
    program = """
import os, pathlib, sys
from jaxcap.data.prepare import prepare
def die(what, done, total):
    if what == "shapes: dev" or done == 40:
        os._exit(9)
prepare("shapes", data_dir=pathlib.Path(sys.argv[1]), progress=die)
"""
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert run.returncode == 9
    with pytest.raises(InputError, match="not prepared"):
        load_source("shapes", "train", tmp_path)
    prepare("shapes", data_dir=tmp_path, quiet=True)
    assert len(load_source("shapes", "train", tmp_path)) == 12


@pytest.mark.usefixtures("small_shapes")
def test_errors_tell_the_way_out(tmp_path, release):
    with pytest.raises(InputError, match=r"known are: .*Did you mean 'flickr8k'"):
        prepare("flickr", data_dir=tmp_path)
    with pytest.raises(InputError, match="no data set 'coco'"):
        load_source("coco", "train", tmp_path)
    with pytest.raises(InputError, match="--source DIR"):
        prepare("flickr8k", data_dir=tmp_path)
    with pytest.raises(InputError, match="takes no --source"):
        prepare("shapes", source=release, data_dir=tmp_path)
    with pytest.raises(InputError, match=r"run: jaxcap prepare shapes$"):
        load_source("shapes", "train", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write to"):
        prepare("shapes", data_dir=tmp_path / "file", quiet=True)
    prepare("shapes", data_dir=tmp_path, quiet=True)
    with pytest.raises(InputError, match=r"no split 'val'.*train \(12\), dev \(4\), test \(5\)"):
        load_source("shapes", "val", tmp_path)
    with pytest.raises(InputError, match="is empty"):
        load_source("shapes", "dev[:0]", tmp_path)


def test_no_tensorflow():
    program = "import sys; import jaxcap.data.prepare; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
