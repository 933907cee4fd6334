"""An array_record file says what it takes before it is unpacked, and cannot take more."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from jaxcap.data import image_files
from jaxcap.datasets.prepare import load_source
from jaxcap.datasets.sources.array_record_file import ArrayRecordFile
from jaxcap.datasets.sources.record_files import read_record, records
from jaxcap.messages.errors import InputError

BOMB = bytes(30_000_000)


@pytest.fixture
def small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_DECODED_BYTES", 1_000_000)


def _write(path: Path, found: Sequence[bytes], options: str = "group_size:1") -> None:
    writer = ArrayRecordWriter(str(path), options)
    for record in found:
        writer.write(record)
    writer.close()


@pytest.mark.parametrize("codec", ["uncompressed", "zstd", "brotli", "snappy"])
@pytest.mark.parametrize("group", [1, 7])
def test_the_sizes_are_those_of_the_records(tmp_path: Path, codec: str, group: int) -> None:
    rng, path = random.Random(0), tmp_path / "x"
    # Small ones, whose headers are cut by blocks, and some that span blocks.
    found = [rng.randbytes(rng.choice((0, 1, 50, 900))) for _ in range(3000)]
    found += [rng.randbytes(140_000), b"last"]
    _write(path, found, f"group_size:{group},{codec}")
    file = ArrayRecordFile(path)
    for i in range(len(found)):
        begin = i // group * group
        assert file.unpacked_size(i) == sum(map(len, found[begin : begin + group]))
    assert [record for _, record in records(path, "array_record")] == found
    with pytest.raises(IndexError):
        file.unpacked_size(len(found) + group)


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    _write(tmp_path / "x", [])
    assert list(records(tmp_path / "x", "array_record")) == []


def test_a_bomb_in_a_source_is_refused(small_bound: None, tmp_path: Path) -> None:
    path = tmp_path / "x"
    _write(path, [BOMB])
    assert path.stat().st_size < 200_000
    message = rf"{path}: .* would take 30,000,000 once unpacked; expected at most 1,000,000"
    with pytest.raises(InputError, match=message):
        next(records(path, "array_record"))
    with pytest.raises(InputError, match=message):
        read_record(path, "array_record", 0)


def test_records_that_take_much_together_are_read_alone(small_bound: None, tmp_path: Path) -> None:
    path = tmp_path / "x"
    found = [BOMB[: 200_000 + i] for i in range(20)]
    _write(path, found)
    assert [record for _, record in records(path, "array_record")] == found


def test_a_bomb_in_a_prepared_data_set_is_refused(
    small_bound: None, tiny_data: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_data, tmp_path / "data")
    (path,) = copy.rglob("*-train.array_record*")
    whole = list(load_source("shapes", "train", copy))
    _write(path, [*ArrayRecordReader(str(path)).read_all()[:49], BOMB])
    assert list(load_source("shapes", "train[:30]", copy)) == whole[:30]
    later = load_source("shapes", "train[30:]", copy)
    assert later[0] == whole[30]
    with pytest.raises(InputError, match=rf"{path}: .* would take 30,000,000 once unpacked"):
        later[19]


def test_transposed_chunks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    _write(path, [b"a", b"b"], "group_size:1,transpose")
    with pytest.raises(InputError, match=rf"{path}: the array_record file has transposed chunks"):
        list(records(path, "array_record"))


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (b"\x08\x01\x10\x03\x18\x03", b"\x08\x01\x10\x03\x18\x04", "counts 3 chunks and 4 records"),
        (b"\x08\x01\x10\x03\x18\x03", b"\x08\x01\x10\x7f\x18\x03", "counts 127 chunks and 3"),
        (b"\x08\x40\x10\x05\x18\x01", b"\x08\x40\x10\x05\x18\x00", "counts 3 chunks and 3 records"),
        (b"\x08\x40\x10\x05\x18\x01", b"\x08\x7f\x10\x05\x18\x01", "its chunks are out of order"),
        (b"\x08\x40\x10\x05\x18\x01", b"\x0f\x40\x10\x05\x18\x01", "Error parsing message"),
    ],
)
def test_a_hostile_footer_is_refused(
    tmp_path: Path, right: bytes, wrong: bytes, message: str
) -> None:
    """array_record would believe it: it would ask for any amount of memory."""
    path = tmp_path / "x"
    _write(path, [b"hello", b"w", b"orld"], "group_size:1,uncompressed")
    data = path.read_bytes()
    assert data.count(right) == 1
    path.write_bytes(data.replace(right, wrong))
    with pytest.raises(ValueError, match=f"its footer is damaged: .*{message}"):
        ArrayRecordFile(path)


def test_a_footer_takes_no_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    _write(path, [b"hello"])
    data = bytearray(path.read_bytes())
    place = (
        len(data) - 65536 + 24 + 32
    )  # the header of the block, and the chunk's decoded_data_size
    data[place : place + 8] = (200_000).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"would take 200,000 once unpacked; .* most 131,072"):
        ArrayRecordFile(path)
