"""Find images in Parquet files, such as those of Hugging Face's hub, and read them in place."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jaxcap.data.parquet_pages import ParquetPages
from jaxcap.files import open_file
from jaxcap.messages.errors import InputError

_IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "photo", "bytes")
_ID_NAMES = ("key", "__key__", "image_id", "file_name", "filename", "image_path", "path", "id")
_BYTES, _PATH = "bytes", "path"
_ROWS = 1024
"""Rows that become Python's objects at once."""
_OBJECT_BYTES = 64
"""What each value in a list takes as an object of Python, without its text."""
_EXTENSIONS = "arrow_extensions_enabled"
"""An option that not every pyarrow has."""


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
        # A row group is read as a whole, so its rows share one reading, and its failure.
        with _readable(self.path):
            changed = self.path.stat().st_mtime_ns
            with _READING:
                values = _column(self.path, changed, self.group, self.column)
            if isinstance(values, InputError):
                raise InputError(*values.args)
            data = values[self.row].as_py() if self.row < len(values) else None
        if not isinstance(data, bytes):
            raise InputError(f"{self.name}: no image under {self.column!r}")
        return data


_READING = threading.Lock()
"""Threads that read images of one row group would each read it."""


@functools.lru_cache(maxsize=2)
def _column(path: Path, changed: int, group: int, column: str) -> Any:
    try:
        with _readable(path):
            # Images that are stored once for many rows are read once, too.
            file = open_parquet(path, repeating=[column])
            _pages(path, changed).take_columns(group, file, [column])
            values = file.read_row_group(group, columns=[column]).column(0)
            return values.combine_chunks().field(_BYTES) if "." in column else values
    except InputError as error:
        return error


@functools.lru_cache(maxsize=4)
def _pages(path: Path, changed: int) -> ParquetPages:
    return ParquetPages(path, open_parquet(path))


def open_parquet(path: Path, *, repeating: Sequence[str] = (), **options: bool) -> Any:
    """Open a Parquet file as a `pyarrow.parquet.ParquetFile`.

    Args:
      repeating: the columns to read as dictionaries of their different values.
      options: those of `ParquetFile`.

    Raises:
      InputError: it cannot be read.
    """
    with _readable(path):
        open_file(path).close()  # no pipe and no device
        file = pq.ParquetFile(path, read_dictionary=list(repeating), **options)
        if file.metadata.num_rows > (size := path.stat().st_size):
            raise pa.ArrowInvalid(f"{file.metadata.num_rows:,} rows in {size:,} bytes")
        paths = [file.schema.column(leaf).path for leaf in range(len(file.schema))]
        for names in (file.schema_arrow.names, paths):
            if twice := [name for name, count in Counter(names).items() if count > 1]:
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
    leaves = [file.schema.column(number) for number in range(len(file.schema))]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    # Columns of JSON are read as dictionaries only where they are mere texts.
    has_json = any(leaf.logical_type.type == "JSON" for leaf in leaves)
    known = has_json and _EXTENSIONS in inspect.signature(pq.ParquetFile).parameters
    file = open_parquet(path, repeating=texts, **({_EXTENSIONS: False} if known else {}))
    for group in range(file.num_row_groups):
        for row, record in enumerate(_records(file, path, group, list(dict.fromkeys(columns)))):
            yield group, row, record


def _records(file: Any, path: Path, group: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with _readable(path):  # texts may not be UTF-8, and dates beyond Python's
        pages = _pages(path, path.stat().st_mtime_ns)
        pages.take_columns(group, file, columns)
        table = file.read_row_group(group, columns=columns)
        # One text that is stored once for many rows takes its size for each.
        size = sum(_bytes_in_rows(part) for column in table.columns for part in column.chunks)
        pages.take(group, ("rows", *columns), size)
        if not table.columns:  # a slice of one would lose its number of rows
            yield from ({} for _ in range(table.num_rows))
            return
        kinds = pa.schema([field.with_type(_with_texts(field.type)) for field in table.schema])
        for start in range(0, table.num_rows, _ROWS):
            yield from table.slice(start, _ROWS).cast(kinds).to_pylist()


def _bytes_in_rows(values: pa.Array) -> int:
    """Return the bytes of the values, with each text as often as it occurs."""
    if pa.types.is_dictionary(values.type):
        import pyarrow.compute as pc  # takes a while to load

        lengths = pc.binary_length(values.dictionary)
        return pc.sum(lengths.take(values.indices)).as_py() or 0
    if pa.types.is_struct(values.type):
        return sum(map(_bytes_in_rows, values.flatten()))
    if pa.types.is_nested(values.type):
        parts = [values.keys, values.items] if pa.types.is_map(values.type) else [values.flatten()]
        return sum(_bytes_in_rows(part) + _OBJECT_BYTES * len(part) for part in parts)
    return values.nbytes


def _with_texts(kind: Any) -> Any:
    """Return a type with the texts themselves instead of dictionaries, which are slow to list."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_texts(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_with_texts(kind.value_type)))
    return kind
