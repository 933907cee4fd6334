"""Damage to the files of a prepared data set is found on reading, and the file is named."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from jaxcap.datasets.building import build
from jaxcap.datasets.prepare import load_source
from jaxcap.datasets.shapes import recipe
from jaxcap.messages.errors import InputError


def test_a_damaged_shard_is_named(tiny_data: Path, tmp_path: Path) -> None:
    """Any damage is reported, or harmless: every record is the original one."""
    copy = shutil.copytree(tiny_data, tmp_path / "data")
    (path,) = copy.rglob("*-train.array_record*")
    whole, rng, messages = path.read_bytes(), random.Random(0), []
    expected = list(load_source("shapes", "train", copy))
    for attempt in range(40):
        damaged = bytearray(whole)
        if attempt % 4 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        else:
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert list(load_source("shapes", "train", copy)) == expected
        except InputError as error:
            messages.append(str(error))
    named = f"{path}: this file of the data set is damaged: "
    assert all(message.startswith(named) for message in messages)
    assert len(messages) > 20


def test_a_shard_with_other_records_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_data, tmp_path / "data")
    (dev,), (train,) = copy.rglob("*-dev.array_record*"), copy.rglob("*-train.array_record*")
    (about,) = copy.rglob("dataset_info.json")
    whole, count = dev.read_bytes(), len(load_source("shapes", "dev", copy))
    shutil.copyfile(train, dev)
    message = rf"^{dev}: this file .* holds \d+ records; the description says {count}\. Prep"
    for split in ("dev", "dev[:50%]"):
        with pytest.raises(InputError, match=message):
            load_source("shapes", split, copy)
    dev.write_bytes(whole)
    description = json.loads(about.read_text())
    (split,) = (each for each in description["splits"] if each["name"] == "dev")
    split["shardLengths"] = [str(count - 1)]  # would leave out the last record
    about.write_text(json.dumps(description))
    with pytest.raises(
        InputError, match=f"holds {count} records; the description says {count - 1}"
    ):
        load_source("shapes", "dev", copy)


def test_splits_of_equal_length_are_told_apart(tmp_path: Path) -> None:
    folder = build(recipe({"dev": 3, "test": 3}), tmp_path)
    (dev,), (test,) = folder.glob("*-dev.array_record*"), folder.glob("*-test.array_record*")
    shutil.copyfile(dev, test)
    message = rf"^{folder}: the records of the split 'test' have [\d,]+ bytes .* says [\d,]+\. "
    with pytest.raises(InputError, match=message) as caught:
        load_source("shapes", "test", tmp_path)
    assert str(caught.value).endswith(f":\n  {test.name}")
    (folder / "metadata.json").unlink()  # as of a data set that TFDS wrote
    assert list(load_source("shapes", "test", tmp_path)) == list(
        load_source("shapes", "dev", tmp_path)
    )


def test_a_missing_shard_is_named(tiny_data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_data, tmp_path / "data")
    (path,) = copy.rglob("*-dev.array_record*")
    path.unlink()
    with pytest.raises(InputError, match=r"shapes-dev\.array_record.* is missing"):
        load_source("shapes", "dev", copy)
