"""Find images in Parquet files, such as those of Hugging Face's hub, and read them in place."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jaxcap.data.image_files import most_unpacked
from jaxcap.files import open_file
from jaxcap.messages.errors import InputError

_IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "photo", "bytes")
_ID_NAMES = ("key", "__key__", "image_id", "file_name", "filename", "image_path", "path", "id")
_BYTES, _PATH = "bytes", "path"
_ROWS = 16
"""Rows that are read at once. Each may take as many bytes as the file has."""


@dataclass(frozen=True)
class ParquetImage:
    """An image in a Parquet file.

    Attributes:
      path: the file.
      group: the number of the row group.
      row: the number of the row in the group.
      column: the column of the image, with its field, such as "image.bytes".
      label: the name of the image in the file, if it has one.
    """

    path: Path
    group: int
    row: int
    column: str
    label: str = ""

    @property
    def name(self) -> str:
        """The file, and the name of the image or its place, for messages."""
        return f"{self.path}/{self.label or f'group {self.group} row {self.row}'}"

    def read(self) -> bytes:
        """Read the encoded image.

        Raises:
          InputError: the row has no image, or the file has changed or is damaged.
        """
        # A row group is read as a whole, so its rows share one reading.
        with _readable(self.path):
            values = _column(self.path, self.path.stat().st_mtime_ns, self.group, self.column)
            data = values[self.row].as_py() if self.row < len(values) else None
        if not isinstance(data, bytes):
            raise InputError(f"{self.name}: no image under {self.column!r}")
        return data


@functools.lru_cache(maxsize=2)
def _column(path: Path, changed: int, group: int, column: str) -> Any:
    # Images that are stored once for many rows are read once, too.
    file = open_parquet(path, repeating=[column])
    _most_bytes(file, path, group)
    values = file.read_row_group(group, columns=[column]).column(0)
    return values.combine_chunks().field(_BYTES) if "." in column else values


def open_parquet(path: Path, *, repeating: Sequence[str] = ()) -> Any:
    """Open a Parquet file as a `pyarrow.parquet.ParquetFile`.

    Args:
      repeating: the columns to read as dictionaries of their different values.

    Raises:
      InputError: it cannot be read.
    """
    with _readable(path):
        open_file(path).close()  # no pipe and no device
        file = pq.ParquetFile(path, read_dictionary=list(repeating))
        if file.metadata.num_rows > (size := path.stat().st_size):
            raise pa.ArrowInvalid(f"{file.metadata.num_rows:,} rows in {size:,} bytes")
        if twice := [n for n, count in Counter(file.schema_arrow.names).items() if count > 1]:
            raise pa.ArrowInvalid(f"several columns are called {twice[0]!r}")
        return file


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        why = str(error) or "too large for the memory"
        raise InputError(f"{path}: cannot read this Parquet file: {why}") from error


def _most_bytes(file: Any, path: Path, group: int) -> int:
    """Return the number of bytes that a row group may take.

    Raises:
      pa.ArrowInvalid: it says itself that it takes more.
    """
    # Of all columns: where the metadata of one is damaged, asking for its size would end the
    # process.
    size = file.metadata.row_group(group).total_byte_size
    most = most_unpacked(path.stat().st_size)
    if size > most:
        raise _too_large(group, f"{size:,}", most)
    return most


def _too_large(group: int, size: str, most: int) -> pa.ArrowInvalid:
    return pa.ArrowInvalid(
        f"row group {group} has {size} bytes; expected at most {most:,}. Write it with smaller row "
        "groups"
    )


def image_column(path: Path, schema: Any, given: str | None = None) -> str:
    """Return the column of the images, with the field of its bytes.

    Raises:
      InputError: no such column, or none that holds bytes.
    """
    kinds = {field.name: field.type for field in schema}
    usual = sorted(kinds, key=lambda name: name.lower() not in _IMAGE_NAMES)
    for name in usual if given is None else [given]:
        kind = kinds.get(name)
        if kind is None or "." in name:  # a dot stands before the field of a column
            continue
        if _is_binary(kind):
            return name
        field = kind.get_field_index(_BYTES) if pa.types.is_struct(kind) else -1
        if field >= 0 and _is_binary(kind.field(field).type):
            return f"{name}.{_BYTES}"
    raise InputError(
        f"{path}: no column of images{f' named {given!r}' if given else ''}; expected encoded "
        f"bytes; found {', '.join(f'{name} ({kind})' for name, kind in kinds.items())}. If it "
        "holds addresses of images, download them first, for example with img2dataset; if it "
        f"holds names of files: jaxcap prepare folder --captions {path}"
    )


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def parquet_images(
    path: Path, *, column: str | None = None, values: Sequence[str] = ()
) -> Iterator[tuple[ParquetImage, dict[str, Any]]]:
    """Yield (image, values of other columns) for each row of a Parquet file.

    Args:
      column: the column of the images; None: found by its kind and its usual names.
      values: further columns to read.

    Raises:
      InputError: the file cannot be read, or has no such columns.
    """
    schema = open_parquet(path).schema_arrow
    image = image_column(path, schema, column)
    top = image.partition(".")[0]
    has_path = image != top and schema.field(top).type.get_field_index(_PATH) >= 0
    ids = [name for name in _ID_NAMES if name in schema.names and name != top][:1]
    columns = [*values, *ids, *([f"{top}.{_PATH}"] if has_path else [])]
    for group, row, record in parquet_rows(path, columns):
        label = record[ids[0]] if ids else (record.get(top) or {}).get(_PATH)
        yield ParquetImage(path, group, row, image, "" if label is None else str(label)), record


def parquet_rows(
    path: Path, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield (row group, number in the group, values of columns) for each row of a Parquet file.

    Args:
      columns: the columns to read; by default all but those that hold bytes.

    Raises:
      InputError: the file cannot be read, or has no such columns.
    """
    file = open_parquet(path)
    if columns is None:
        columns = [field.name for field in file.schema_arrow if "binary" not in str(field.type)]
    for group in range(file.num_row_groups):
        for row, record in enumerate(_records(file, path, group, list(dict.fromkeys(columns)))):
            yield group, row, record


def _records(file: Any, path: Path, group: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with _readable(path):  # texts may not be UTF-8, and dates beyond Python's
        most, size = _most_bytes(file, path, group), 0
        # One text that is stored once for many rows takes its size for each.
        for rows in file.iter_batches(_ROWS, row_groups=[group], columns=columns):
            size += sum(map(_bytes_in_rows, rows.columns))
            if size > most:
                raise _too_large(group, f"over {size:,}", most)
            yield from rows.to_pylist()


def _bytes_in_rows(values: pa.Array) -> int:
    repeated = pa.types.is_dictionary(values.type)
    return (values.dictionary_decode() if repeated else values).nbytes
