"""Builds give the same bytes under any interruption, and leave nothing behind on errors."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcap.data.image_paths import Part
from jaxcap.datasets import shards
from jaxcap.datasets.building import Recipe, build
from jaxcap.datasets.prepare import load_source
from jaxcap.datasets.recipes import listing_recipe
from jaxcap.datasets.sources import Example, Listing
from jaxcap.messages.errors import InputError

COUNTS = {"train": 70, "dev": 9, "test": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 photographs of noise, which take a while to decode."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(80):
        pixels = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.jpg")
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "RECORDS_PER_SHARD", 8)


def listing(folder: Path) -> Listing:
    paths = iter(sorted(folder.glob("*.jpg")))
    splits = {
        split: tuple(
            Example(path.name, path, (f"one of {path.stem}", f"two of {path.stem}"))
            for path in itertools.islice(paths, count)
        )
        for split, count in COUNTS.items()
    }
    return Listing(splits, "Noise.", homepage="https://example.org", citation="Nobody 2026")


def recipe(folder: Path, **options: Any) -> Recipe:
    return listing_recipe(listing(folder), name="noise", format="folder", **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the data set, built by one process without interruption."""
    data_dir = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "RECORDS_PER_SHARD", 8)
        build(recipe(folder), data_dir, workers=1)
    return contents(data_dir)


# A process of its own that builds the same, with so many workers.
PROGRAM = f"""
import os, resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from jaxcap.datasets import shards
from jaxcap.datasets.building import build
from jaxcap.messages.errors import InputError
from test_building import recipe

if __name__ == "__main__":
    shards.RECORDS_PER_SHARD = 8
    folder, data_dir = map(Path, sys.argv[1:3])
    workers, limit, last = map(int, sys.argv[3:])
    if limit:
        # Python would leave modules that workers import cut off in its cache.
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    started = []

    def progress(what, done, total):
        started.append(done)
        if last and done - started[0] >= last:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        build(recipe(folder), data_dir, workers=workers, report=print, progress=progress)
    except InputError as error:
        sys.exit(f"InputError: {{error}}")
"""


def start(
    folder: Path, data_dir: Path, workers: int, *, limit: int = 0, last: int = 0
) -> subprocess.Popen[str]:
    """Run `build` in another process.

    Args:
      limit: bytes beyond which no file of its may grow.
      last: it is killed when it has made so many records more than at first.
    """
    arguments = [folder, data_dir, workers, limit, last]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_tfds_reads_the_result(folder: Path, tmp_path: Path) -> None:
    path = build(recipe(folder), tmp_path, workers=1)
    assert path == tmp_path / "noise" / "1.0.0"
    builder = tfds.builder_from_directory(path)
    info = builder.info
    assert (info.name, info.description, info.homepage) == (
        "noise",
        "Noise.",
        "https://example.org",
    )
    assert {split: s.num_examples for split, s in info.splits.items()} == COUNTS
    assert info.splits["train"].shard_lengths == [7, 8, 8, 8, 7, 8, 8, 8, 8]
    source = builder.as_data_source(split="dev")
    assert len(source) == 9
    for i, record in enumerate(source):
        name = f"{70 + i}.jpg"
        assert record["image_id"] == name.encode()
        assert list(record["captions"]) == [
            f"one of {70 + i}".encode(),
            f"two of {70 + i}".encode(),
        ]
        with Image.open(folder / name) as image:
            np.testing.assert_array_equal(record["image"], np.array(image))
    files = {file.name for file in path.iterdir()}
    assert {f.name for s in info.splits.values() for f in s.filepaths} == files - {
        "dataset_info.json",
        "features.json",
        "metadata.json",
    }


def test_records_are_serialised_as_tfds_does() -> None:
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "image_id": tfds.features.Text(),
        }
    )
    record = {"image": b"\xff\xd8\xff", "captions": ["a", "ü b", ""], "image_id": "é.jpg"}
    theirs = shards.tf_example_pb2.Example.FromString(
        features.serialize_example(features.encode_example(record))
    )
    assert shards.tf_example_pb2.Example.FromString(shards.serialize(record)) == theirs


def test_shards_are_of_about_equal_length_and_not_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "RECORDS_PER_SHARD", 512)
    assert [(s.begin, s.end) for s in shards.plan({"a": 513})] == [(0, 256), (256, 513)]
    assert shards.plan({"a": 0}) == []
    million = shards.plan({"a": 1_000_000, "b": 1})
    assert len(million) == 257
    assert {s.end - s.begin for s in million[:-1]} == {3906, 3907}
    assert [s.begin for s in million[1:-1]] == [s.end for s in million[:-2]]
    assert million[0].file_name("x") == "x-a.array_record-00000-of-00256"


@pytest.mark.slow
def test_three_processes_make_the_same_bytes(
    folder: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    reports: list[tuple[str, int, int]] = []
    build(recipe(folder), tmp_path, workers=3, progress=lambda *report: reports.append(report))
    assert contents(tmp_path) == expected
    assert reports[-1] == ("noise: storing", 80, 80)


@pytest.mark.slow
def test_a_killed_build_resumes_to_the_same_bytes(
    folder: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    rng = random.Random(0)
    for workers in (1, 3, 2):
        process = start(folder, tmp_path, workers, last=rng.randint(8, 24))
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        with pytest.raises(InputError, match="no data set 'noise'"):
            load_source("noise", "train", tmp_path)
    kept = notes(tmp_path)
    assert kept
    # The disk, too, may have done something to what was finished.
    damaged = next(tmp_path.glob(f"noise/*/data/noise-{kept[0].stem[:-6]}.array_record-*"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    printed: list[str] = []
    build(recipe(folder), tmp_path, workers=1, report=printed.append)
    assert printed == [f"noise: resuming; {len(kept) - 1} of 12 shards are finished"]
    assert contents(tmp_path) == expected


def notes(data_dir: Path) -> list[Path]:
    return sorted(data_dir.glob("noise/1.0.0.unfinished-*/finished/*.json"))


def test_workers_end_when_their_parent_is_killed(folder: Path, tmp_path: Path) -> None:
    process = start(folder, tmp_path, 2)
    while not notes(tmp_path) and process.poll() is None:
        time.sleep(0.001)
    assert process.returncode is None, process.communicate()
    process.kill()
    # Workers have inherited the other ends of the pipes: this returns when the last has ended.
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_concurrent_builds_make_one_data_set(
    folder: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    processes = [start(folder, tmp_path, workers) for workers in (1, 2)]
    printed = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert contents(tmp_path) == expected


def test_another_recipe_does_not_reuse_shards(
    folder: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done == 40:
            raise KeyboardInterrupt

    printed: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        build(
            recipe(folder, max_side=64),
            tmp_path,
            workers=1,
            progress=interrupt,
            report=printed.append,
        )
    assert printed == ["noise: stopped; run the same command to resume from finished shards"]
    assert len(notes(tmp_path)) == 5
    printed.clear()
    build(recipe(folder), tmp_path, workers=1, report=printed.append)
    assert printed == []
    assert contents(tmp_path) == expected


def test_a_changed_file_is_stored_again(folder: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(folder, tmp_path / "images")

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(recipe(mine), tmp_path / "data", workers=1, progress=interrupt)
    shutil.copy(mine / "79.jpg", mine / "00.jpg")
    build(recipe(mine), tmp_path / "data", workers=1)
    assert load_source("noise", "train", tmp_path / "data")[0]["image"] == (
        (folder / "79.jpg").read_bytes()
    )


@pytest.mark.slow
def test_unreadable_images_are_listed_and_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(folder, tmp_path / "images")
    (mine / "03.jpg").write_bytes(b"")
    (mine / "75.jpg").write_bytes((folder / "75.jpg").read_bytes()[:-1000])
    (mine / "76.jpg").unlink()
    (mine / "76.jpg").symlink_to("76.jpg")
    with pytest.raises(InputError) as caught:
        build(recipe(mine), tmp_path / "data", workers=2)
    first, *others = str(caught.value).split("\n")
    assert first == (
        "noise: 3 images cannot be read (fix them, or leave them out with --skip-bad):"
    )
    assert others[0] == f"  {mine / '03.jpg'}: the file is empty"
    assert others[1].startswith(f"  {mine / '75.jpg'}: cannot decode this image: ")
    assert others[2].startswith(f"  {mine / '76.jpg'}: cannot read the file: Too many levels")
    assert not (tmp_path / "data").exists()


def test_unreadable_images_are_left_out_on_request(folder: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(folder, tmp_path / "images")
    for i in range(8, 23):  # of the second shard, 7 to 14, one is left; of the third none
        (mine / f"{i:02d}.jpg").write_bytes(b"not an image")
    printed: list[str] = []
    path = build(recipe(mine), tmp_path / "data", workers=1, skip_bad=True, report=printed.append)
    assert printed[0].startswith("noise: left out 15 images:\n")
    assert printed[0].endswith("\n  … and 5 more")
    info = tfds.builder_from_directory(path).info
    assert info.splits["train"].shard_lengths == [7, 1, 0, 8, 7, 8, 8, 8, 8]
    assert info.metadata["left_out"] == 15
    names = [r["image_id"] for r in load_source("noise", "train", tmp_path / "data")]
    assert names == [f"{i:02d}.jpg" for i in [*range(8), *range(23, 70)]]


def test_a_split_must_not_become_empty(folder: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(folder, tmp_path / "images")
    (mine / "79.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 image cannot .*the split 'test' has no other image"):
        build(recipe(mine), tmp_path / "data", workers=1, skip_bad=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_becomes_full(folder: Path, tmp_path: Path, workers: int) -> None:
    """array_record reports a file size limit in the same way as a full disk."""
    process = start(folder, tmp_path, workers, limit=200_000)
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.startswith("InputError: cannot write ")
    assert "File too large" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_give_the_bytes_of_one_process(
    folder: Path, tmp_path: Path, expected: dict[str, bytes], parts: int
) -> None:
    """Each part is prepared on its own machine; one of the folders then receives the others."""
    machines = [tmp_path / str(number) for number in range(1, parts + 1)]
    for number, data_dir in enumerate(machines, start=1):
        place = build(recipe(folder), data_dir, part=Part(number, parts), workers=1)
        assert place.name.startswith("1.0.0.unfinished-")
    first, *others = machines
    with pytest.raises(InputError, match=r"noise: \d+ of 12 shards are missing in .*unfinished"):
        build(recipe(folder), first, join=True, workers=1)
    for other in others:
        shutil.copytree(other, first, dirs_exist_ok=True)
    build(recipe(folder), first, join=True, workers=1)
    assert contents(first) == expected


def test_parts_are_prepared_at_the_same_time_and_joined_alone(
    folder: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    printed: list[str] = []

    def other_part(*_: object) -> None:
        build(recipe(folder), tmp_path, part=Part(2, 2), workers=1, report=printed.append)

    build(recipe(folder), tmp_path, part=Part(1, 2), workers=1, progress=other_part)
    assert not any("waiting" in text for text in printed)
    # Parts of other files or options are not joined, nor removed.
    with pytest.raises(InputError, match=r"prepared with other options or from other files"):
        build(recipe(folder, max_side=64), tmp_path, join=True)
    build(recipe(folder), tmp_path, join=True, workers=1)
    assert contents(tmp_path) == expected


def test_a_part_with_an_unreadable_image_keeps_the_others(folder: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(folder, tmp_path / "images")
    (mine / "79.jpg").write_bytes(b"")  # the only image of the split test
    data_dir = tmp_path / "data"
    build(recipe(mine), data_dir, part=Part(1, 2), workers=1)
    with pytest.raises(InputError, match=r"1 image cannot be read \(fix them, or leave them out"):
        build(recipe(mine), data_dir, part=Part(2, 2), workers=1)
    build(recipe(mine), data_dir, part=Part(2, 2), workers=1, skip_bad=True)
    with pytest.raises(InputError, match="the split 'test' has no other image"):
        build(recipe(mine), data_dir, join=True, skip_bad=True)


def test_a_disk_without_space_is_noticed_before_writing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    with pytest.raises(InputError, match=r"needs about .* MB in .*, but only 1\.0 MB are free"):
        build(recipe(folder), tmp_path, workers=1)
    assert list(tmp_path.iterdir()) == []
    # How large smaller images will be is not known before.
    build(recipe(folder, max_side=64), tmp_path, workers=1)


def test_a_data_dir_that_is_not_writable_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"noise: cannot write to .*file.*: Not a dir.*--data-dir"):
        build(recipe(folder), tmp_path / "file", workers=1)


def test_max_side_stores_smaller_images(
    folder: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    build(recipe(folder, max_side=64), tmp_path, workers=1)
    smaller = contents(tmp_path)
    assert smaller.keys() == expected.keys()
    info = json.loads(smaller["noise/1.0.0/dataset_info.json"])
    before = json.loads(expected["noise/1.0.0/dataset_info.json"])
    assert int(info["splits"][0]["numBytes"]) < int(before["splits"][0]["numBytes"]) / 5


# Any text, also with lone surrogates, as JSON files and names of files on disk may hold.
texts = st.text(st.characters(exclude_categories=()), max_size=300)


@pytest.fixture(scope="module")
def dot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dot") / "dot.png"
    Image.new("RGB", (1, 1), "red").save(path)
    return path


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(texts, st.lists(texts, max_size=4)), min_size=1, max_size=12))
def test_captions_and_names_round_trip(dot: Path, examples: list[tuple[str, list[str]]]) -> None:
    given = tuple(Example(name, dot, tuple(captions)) for name, captions in examples)
    data = listing_recipe(Listing({"train": given}, "Odd."), name="odd", format="folder")
    with tempfile.TemporaryDirectory() as data_dir:
        build(data, Path(data_dir), workers=1)
        records = list(load_source("odd", "train", Path(data_dir)))
    assert [(r["image_id"], r["captions"]) for r in records] == examples
    assert all(r["image"] == dot.read_bytes() for r in records)
