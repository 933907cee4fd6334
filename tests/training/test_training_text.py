"""Captions are split once for each state of the data set's files and each set of rules."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxcap.config import Config
from jaxcap.datasets.prepare import load_source
from jaxcap.datasets.records import Records
from jaxcap.training.training_text import training_text


@pytest.fixture
def config(tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Options for a copy of the scenes, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(tiny_config.data.data_dir, tmp_path / "data")
    data = dataclasses.replace(tiny_config.data, data_dir=str(tmp_path / "data"))
    return dataclasses.replace(tiny_config, data=data)


def _read(config: Config, split: str = "train"):
    """Vocabulary and captions, and how many records were read."""
    source = load_source(config.data.name, split, config.data.directory)
    count = 0

    class Counted(Records):
        def __getitem__(self, index: int):
            nonlocal count
            count += 1
            return super().__getitem__(index)

    source.__class__ = Counted
    vocabulary, captions = training_text([source], config.data, saved=Path("none"))
    return vocabulary, captions, count


def test_the_second_start_reads_no_record(config, tmp_path):
    first, again = (_read(config) for _ in range(2))
    assert (first[2], again[2]) == (50, 0)
    assert again[0] == first[0]
    assert len(again[0]) > 20
    for name in ("values", "captions", "images"):
        np.testing.assert_array_equal(getattr(again[1].rows, name), getattr(first[1].rows, name))
    (entry,) = (tmp_path / "cache/jaxcap/captions").iterdir()
    damaged = bytearray(entry.read_bytes())
    damaged[-100] ^= 1
    entry.write_bytes(damaged)
    assert _read(config)[2] == 50


def test_other_files_other_records_and_other_rules_are_read(config, tmp_path):
    assert _read(config)[2] == 50
    assert _read(config, "train[:20]")[2] == 20
    data = dataclasses.replace(config.data, units="characters")
    assert _read(dataclasses.replace(config, data=data))[2] == 50
    (shard,) = (tmp_path / "data").rglob("*train*array_record*")
    os.utime(shard, (1, 1))
    assert _read(config)[2] == 50
    assert _read(config)[2] == 0
