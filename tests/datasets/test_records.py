"""Damage to the files of a prepared data set is found on reading, and the file is named."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from jaxcap.datasets.prepare import load_source
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
    named = f"{path}: this file of the data set is damaged: record "
    assert all(message.startswith(named) for message in messages)
    assert len(messages) > 20


def test_a_missing_shard_is_named(tiny_data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_data, tmp_path / "data")
    (path,) = copy.rglob("*-dev.array_record*")
    path.unlink()
    with pytest.raises(InputError, match=r"shapes-dev\.array_record.* is missing"):
        load_source("shapes", "dev", copy)
