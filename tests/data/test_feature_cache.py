"""The feature cache returns what was written, whatever happens to its files."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import files_up_to

from jaxcap.data.feature_cache import EncodedImages, FeatureCache, default_cache_dir, rows_of_words
from jaxcap.messages.errors import InputError

SHAPE = (10, 3, 2)  # in chunks of 4, 4 and 2 images
EXPECTED = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
IMAGE_BYTES = 3 * 2 * 4


def cache_in(root: Path, **identity: Any) -> FeatureCache:
    return FeatureCache.under(root, "shapes-train", identity, shape=SHAPE, chunk=4)


def fill(cache: FeatureCache) -> list[int]:
    """Compute the missing chunks, as an extraction does, and return their numbers."""
    with cache.locked(waiting=lambda: None):
        missing = cache.missing()
        for chunk in missing:
            cache.write(chunk, EXPECTED[cache.numbers(chunk)])
    return missing


def test_features_round_trip_and_no_chunk_is_computed_twice(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    assert fill(cache) == [0, 1, 2]
    assert fill(cache_in(tmp_path)) == []
    features = cache.read()
    assert isinstance(features, np.memmap)
    np.testing.assert_array_equal(features, EXPECTED)
    assert not features.flags.writeable
    # What docs and messages say of the format: plain float32, and zlib's checksum of it.
    assert (cache.directory / "features.bin").read_bytes() == EXPECTED.tobytes()
    first = (cache.directory / "chunks.jsonl").read_text().splitlines()[0]
    assert first == f"[0, {zlib.crc32(EXPECTED[:4].tobytes())}]"


@pytest.mark.parametrize(
    ("name", "damage", "missing"),
    [
        ("features.bin", lambda b: b[: 5 * IMAGE_BYTES], [1, 2]),
        ("features.bin", lambda b: b[:-1], [2]),
        ("features.bin", lambda b: b[:30] + bytes([b[30] ^ 1]) + b[31:], [0]),
        ("features.bin", lambda b: b"", [0, 1, 2]),
        ("features.bin", lambda b: b + b"more", []),
        ("chunks.jsonl", lambda b: b[:-3], [2]),
        ("chunks.jsonl", lambda b: b"", [0, 1, 2]),
        ("chunks.jsonl", lambda b: b"\xff[7, 1]\nnull\n{}\n" + b, []),
        ("manifest.json", lambda b: b[:-3], [0, 1, 2]),
    ],
)
def test_only_damaged_chunks_are_computed_again(
    tmp_path: Path, name: str, damage: Any, missing: list[int]
) -> None:
    cache = cache_in(tmp_path)
    fill(cache)
    path = cache.directory / name
    path.write_bytes(damage(path.read_bytes()))
    assert fill(cache) == missing
    np.testing.assert_array_equal(cache.read(), EXPECTED)
    assert fill(cache) == []


@given(st.data())
def test_no_damage_is_ever_read(data: st.DataObject) -> None:
    """Truncate any file anywhere, or change any byte, several times in a row."""
    with tempfile.TemporaryDirectory() as directory:
        cache = cache_in(Path(directory))
        fill(cache)
        for _ in range(2):
            for name in ("features.bin", "chunks.jsonl"):
                path = cache.directory / name
                content = bytearray(path.read_bytes())
                place = data.draw(st.integers(0, len(content) - 1))
                if data.draw(st.booleans()):
                    content[place] = data.draw(st.integers(0, 255))
                else:
                    del content[place:]
                path.write_bytes(content)
            fill(cache)
            np.testing.assert_array_equal(cache.read(), EXPECTED)


@pytest.mark.parametrize("name", ["features.bin", "chunks.jsonl", "manifest.json"])
def test_files_may_be_deleted(tmp_path: Path, name: str) -> None:
    cache = cache_in(tmp_path)
    fill(cache)
    (cache.directory / name).unlink()
    assert fill(cache) == [0, 1, 2]
    np.testing.assert_array_equal(cache.read(), EXPECTED)


def test_each_identity_has_its_own_directory(tmp_path: Path) -> None:
    caches = [
        cache_in(tmp_path),
        cache_in(tmp_path, weights="a"),
        cache_in(tmp_path, weights="b"),
        FeatureCache.under(tmp_path, "shapes-train", {}, shape=(10, 2, 3), chunk=4),
        FeatureCache.under(tmp_path, "shapes-train", {}, shape=SHAPE, chunk=5),
    ]
    assert len({cache.directory for cache in caches}) == len(caches)
    assert cache_in(tmp_path, weights="a").directory == caches[1].directory
    fill(caches[1])
    assert '"weights": "a"' in (caches[1].directory / "manifest.json").read_text()
    assert fill(caches[2]) == [0, 1, 2]


def test_the_label_becomes_a_valid_file_name(tmp_path: Path) -> None:
    cache = FeatureCache.under(tmp_path, "a-dev[:5%]/../x", {}, shape=SHAPE, chunk=4)
    assert cache.directory.parent == tmp_path
    assert cache.directory.name.startswith("a-dev_5_.._x-")


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    """Two processes want all chunks: each is computed once, and both can read."""
    program = f"""
import sys, time
from pathlib import Path
import numpy as np
from jaxcap.data.feature_cache import FeatureCache
cache = FeatureCache.under(Path({str(tmp_path)!r}), "shapes-train", {{}}, shape={SHAPE}, chunk=4)
features = np.random.default_rng(0).normal(size={SHAPE}).astype(np.float32)
with cache.locked(waiting=lambda: None):
    for chunk in cache.missing():
        cache.write(chunk, features[cache.numbers(chunk)])
        print(chunk, flush=True)
        time.sleep(0.2)
"""
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    with other:
        assert other.stdout.readline() == "0\n"
        cache, waited = cache_in(tmp_path), []
        with cache.locked(waiting=lambda: waited.append(True)):
            assert cache.missing() == []
        assert other.wait() == 0
    assert waited == [True]
    np.testing.assert_array_equal(cache.read(), EXPECTED)


def test_a_full_disk_is_noticed_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_in(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=200))
    with cache.locked(waiting=lambda: None):
        cache.check_room([1, 2])  # 6 images of 24 bytes
        with pytest.raises(InputError, match=r"take 240 bytes, but only 200 bytes are.*--encoder"):
            cache.check_room(cache.missing())


def test_chunks_written_before_the_disk_is_full_are_kept(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    full = pytest.raises(InputError, match=r"cannot cache features \(File too large\)")
    with cache.locked(waiting=lambda: None):
        cache.missing()
        cache.write(0, EXPECTED[:4])
        with files_up_to(6 * IMAGE_BYTES), full:  # in the middle of the second chunk
            cache.write(1, EXPECTED[4:8])
    assert fill(cache) == [1, 2]
    np.testing.assert_array_equal(cache.read(), EXPECTED)


def test_a_directory_that_is_not_writable_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file.*Not a directory.*--encoder\.cache-dir"),
        cache_in(tmp_path / "file").locked(waiting=lambda: None),
    ):
        pytest.fail("entered")


def test_features_of_another_shape_are_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected float32"):
        cache_in(tmp_path).write(2, EXPECTED[:4])
    with pytest.raises(ValueError, match="float64"):
        cache_in(tmp_path).write(0, EXPECTED[:4].astype(np.float64))


def test_the_default_directory_follows_the_xdg_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == Path("/home/someone/.cache/jaxcap/features")
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert default_cache_dir() == Path("/fast/jaxcap/features")


def test_recognised_words_follow_the_features_of_their_image() -> None:
    """Three words of two numbers each, in two rows of width 4."""
    features = np.arange(5 * 2 * 4, dtype=np.float32).reshape(5, 2, 4)
    ids = np.arange(15).reshape(5, 3) + 100_000
    probabilities = np.linspace(0.99, 0.01, 15, dtype=np.float32).reshape(5, 3)
    flat = np.concatenate([ids, probabilities, np.zeros((5, 2))], axis=1, dtype=np.float32)
    encoded = EncodedImages(np.concatenate([features, flat.reshape(5, 2, 4)], axis=1), words=3)
    found, words = encoded.take(np.array([3, 0, 3]))
    np.testing.assert_array_equal(found, features[[3, 0, 3]])
    assert words is not None
    assert words.ids.dtype == np.int32
    np.testing.assert_array_equal(words.ids, ids[[3, 0, 3]])
    np.testing.assert_array_equal(words.probabilities, probabilities[[3, 0, 3]])
    assert EncodedImages(features).take(np.array([1]))[1] is None


@pytest.mark.parametrize(
    ("words", "width", "rows"), [(3, 4, 2), (2, 4, 1), (1, 4, 1), (20, 1280, 1)]
)
def test_words_take_the_fewest_rows(words: int, width: int, rows: int) -> None:
    assert rows_of_words(words, width) == rows
