"""Parquet files that take more memory than they say are refused before they are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxcap.data.image_parquet import ParquetImage, parquet_images, parquet_rows
from jaxcap.data.parquet_pages import ParquetPages
from jaxcap.messages.errors import InputError

CODECS = ("none", "snappy", "gzip", "zstd", "lz4", "brotli")
ROWS = 100
TEXTS = [f"{'A dog. ' * 300}{row % 7} é" if row % 5 else None for row in range(ROWS)]
COLUMNS = {
    "image": [{"bytes": b"%d" % row, "path": f"{row}.jpg"} for row in range(ROWS)],
    "caption": TEXTS,
    "captions": [TEXTS[row : row + row % 3] if row % 11 else None for row in range(ROWS)],
    "objects": [[{"raw": TEXTS[row], "id": row}] for row in range(ROWS)],
    "deep": [[[TEXTS[row]], []] for row in range(ROWS)],
    "number": list(range(ROWS)),
    "none": [None] * ROWS,
}


def number(value: int, size: int = 0) -> bytes:
    """Write a whole number for Thrift, in at least `size` bytes."""
    value, data = value << 1, b""
    while value > 0x7F or len(data) + 1 < size:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def lie(path: Path, old: int, new: int, before: bytes, *, start: int = 0) -> None:
    """Replace one number in a file."""
    data = path.read_bytes()
    told = before + number(old)
    place = data.index(told, start if start >= 0 else len(data) + start)
    said = before + number(new, len(number(old)))
    path.write_bytes(data[:place] + said + data[place + len(told) :])


@pytest.mark.parametrize("codec", CODECS)
def test_files_of_all_kinds_are_read(tmp_path: Path, codec: str) -> None:
    table, path = pa.table(COLUMNS), tmp_path / "a.parquet"
    for version, options in (
        ("1.0", {}),
        ("2.0", {"use_dictionary": False}),
        ("2.0", {"data_page_size": 100, "write_batch_size": 9}),
    ):
        pq.write_table(
            table,
            path,
            compression=codec,
            data_page_version=version,
            row_group_size=60,
            write_page_index=False,
            **options,
        )
        rows = [record for *_, record in parquet_rows(path, [*COLUMNS][1:])]
        assert rows == table.drop_columns("image").to_pylist()
        images = list(parquet_images(path, values=["caption"]))
        assert [image.read() for image, _ in images] == [b"%d" % row for row in range(ROWS)]
        assert [record["caption"] for _, record in images] == TEXTS


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())),
        *(pa.list_(pa.string(), 2), pa.large_list(pa.string()), pa.list_view(pa.string())),
        *(pa.map_(pa.string(), pa.string()), pa.decimal128(22, 2), pa.timestamp("us")),
    ],
    ids=str,
)
def test_columns_of_all_types_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    values: list[Any] = ["x", None, "y"]
    if pa.types.is_nested(kind):
        values = [[("a", "b"), ("c", "d")] if pa.types.is_map(kind) else ["a", "b"]] * 3
    elif not str(kind).startswith(("large", "string", "dictionary")):
        values = pa.array([1, None, 3]).cast(kind).to_pylist()
    pq.write_table(pa.table({"x": pa.array(values, kind)}), tmp_path / "a.parquet")
    assert [row["x"] for *_, row in parquet_rows(tmp_path / "a.parquet")] == values


def test_json_and_uuids_are_read(tmp_path: Path) -> None:
    if not hasattr(pa, "json_"):
        pytest.skip("pyarrow has no JSON")
    ids = pa.array([b"0" * 16], pa.uuid())
    for columns, wanted in (
        ({"id": ids}, str(ids[0].as_py())),
        ({"id": pa.array(['"x"'], pa.json_())}, '"x"'),
    ):
        pq.write_table(pa.table(columns), tmp_path / "a.parquet", store_schema=False)
        assert [str(row["id"]) for *_, row in parquet_rows(tmp_path / "a.parquet")] == [wanted]


@pytest.mark.parametrize("codec", CODECS[1:])
def test_pages_that_unpack_to_more_than_they_say_are_errors(tmp_path: Path, codec: str) -> None:
    """`ParquetPages` relies on it."""
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"image": [bytes(2**22)]}),
        path,
        compression=codec,
        use_dictionary=False,
        write_statistics=False,
    )
    packed = re.match(rb"PAR1\x15\x00\x15([\x80-\xff]*.)", path.read_bytes(), re.S)
    assert packed
    unpacked = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(packed[1])) >> 1
    assert unpacked > 2**22
    lie(path, unpacked, 1000, b"PAR1\x15\x00\x15")
    (image,) = (image for image, _ in parquet_images(path))
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(InputError, match="cannot read this Parquet file"):
        image.read()
    assert pa.default_memory_pool().max_memory() <= max(before, 2**24)


def _same_text(rows: int, text: str = "x" * 10_000) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [text])


def _list(rows: int) -> pa.Array:
    return pa.ListArray.from_arrays([0, rows], _same_text(rows))


HOSTILE: dict[str, Callable[[], Any]] = {
    "a text of many rows": lambda: _same_text(5000),
    "texts of a row": lambda: _list(5000),
    "texts in objects": lambda: pa.ListArray.from_arrays(
        [0, 5000], pa.StructArray.from_arrays([_same_text(5000)], ["raw"])
    ),
    "keys": lambda: pa.MapArray.from_arrays([0, 999], ["k" * 10_000] * 999, list(range(999))),
    "numbers of a row": lambda: pa.ListArray.from_arrays(
        [0, 10**6], pa.array([0]).take(pa.array([0] * 10**6))
    ),
    "one page": lambda: pa.array(["x" * 2**22]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_takes_too_much_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxcap.data.image_files._SMALL_BYTES", 2**20)
    path, captions = tmp_path / "a.parquet", HOSTILE[name]()
    ids = [str(row) for row in range(len(captions))]
    pq.write_table(
        pa.table({"id": ids, "caption": captions}), path, compression="zstd", write_statistics=False
    )
    # The file says that it takes 1 byte.
    size = pq.read_metadata(path).row_group(0).total_byte_size
    lie(path, size, 1, b"\x16", start=-8 - int.from_bytes(path.read_bytes()[-8:-4], "little"))
    assert path.stat().st_size < 40_000
    with pytest.raises(InputError, match=r"row group 0 takes [\d,]+ bytes; expected at most"):
        list(parquet_rows(path))


def test_a_file_takes_so_much_in_all_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxcap.data.image_files._SMALL_BYTES", 2**20)
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"image": [bytes(2**18)] * 10, "caption": ["x"] * 10}),
        path,
        row_group_size=1,
        compression="zstd",
        write_statistics=False,
    )
    images = [image for image, _ in parquet_images(path)]
    assert images[9].read() == images[9].read() == bytes(2**18)
    with pytest.raises(InputError, match=r"row group \d takes 1,\d+,\d+ bytes; expected at most"):
        list(map(ParquetImage.read, images))


def test_a_row_group_that_cannot_be_read_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, take = [], ParquetPages.take_columns

    def counted(*values: Any) -> None:
        tries.append(values)
        take(*values)

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [b"abcd"] * 50}), path, compression="none")
    path.write_bytes(path.read_bytes().replace(b"\x04\0\0\0abcd", b"\xff\0\0\0abcd"))
    images = [image for image, _ in parquet_images(path)]
    monkeypatch.setattr(ParquetPages, "take_columns", counted)
    for image in images:
        with pytest.raises(InputError, match="cannot read this Parquet file: Unexpected end"):
            image.read()
    assert len(images) == 50
    assert len(tries) == 1


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_encodings_without_bounds_are_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"caption": ["x"], "number": [1]}),
        path,
        use_dictionary=False,
        column_encoding={"caption": encoding, "number": "DELTA_BINARY_PACKED"},
    )
    with pytest.raises(InputError, match="texts in a DELTA encoding"):
        list(parquet_rows(path))
    assert [row for *_, row in parquet_rows(path, ["number"])] == [{"number": 1}]


def test_lists_of_another_type_than_pyarrow_reads_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [1]}), path, use_dictionary=False)
    data = path.read_bytes()
    assert data.count(b"\x19\x25\x06\x00") == 1  # the encodings of the column: two of 32 bits
    path.write_bytes(data.replace(b"\x19\x25\x06\x00", b"\x19\x26\x06\x00"))
    assert pq.read_table(path)["x"].to_pylist() == [1]
    with pytest.raises(InputError, match="the footer has a list of the wrong type"):
        list(parquet_rows(path))
