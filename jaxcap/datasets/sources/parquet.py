"""Read Parquet files with images in them, such as those of Hugging Face, without unpacking them.

An image is a column of encoded bytes, or of Hugging Face's `{"bytes": …, "path": …}`; the captions
are a column of texts or of lists of texts. The columns are given, or found by their usual names.
Only captions and names are read at first; images are read when they are stored.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jaxcap.caption_files.column_names import CAPTION_NAMES, ID_NAMES, Names, id_text
from jaxcap.caption_files.reading import caption_texts
from jaxcap.datasets import Progress, no_progress
from jaxcap.datasets.sources import Example, Listing, SourceOptions
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.locations import need_path
from jaxcap.datasets.sources.shard_splits import (
    divide,
    find_shards,
    split_of_shard,
    with_unique_ids,
)
from jaxcap.errors import InputError

_IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "photo", "bytes")
_BYTES, _PATH = "bytes", "path"
_ID_NAMES = ("key", "__key__", *ID_NAMES)


@dataclass(frozen=True)
class ParquetImage:
    """An image in a Parquet file.

    Attributes:
      path: the file.
      group: the number of the row group.
      row: the number of the row in the group.
      column: the column of the image, with its field, such as "image.bytes".
    """

    path: Path
    group: int
    row: int
    column: str

    @property
    def name(self) -> str:
        """The file and the place in it, for messages."""
        return f"{self.path}, row {self.row} of group {self.group}"

    def read(self) -> bytes:
        """Read the encoded image.

        Raises:
          InputError: the row has no image, or the file has changed or is damaged.
        """
        # A row group is read as a whole, so its rows share one reading.
        values = _column(self.path, self.path.stat().st_mtime_ns, self.group, self.column)
        data = values[self.row].as_py() if self.row < len(values) else None
        if not isinstance(data, bytes):
            raise InputError(f"{self.name}: no image under {self.column!r}")
        return data


@functools.lru_cache(maxsize=2)
def _column(path: Path, changed: int, group: int, column: str) -> Any:
    try:
        values = pq.ParquetFile(path).read_row_group(group, columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot read this Parquet file: {error}") from error
    return values.combine_chunks().field(_BYTES) if "." in column else values


def read(options: SourceOptions, progress: Progress = no_progress) -> Listing:
    """Read the names and captions in all Parquet files of a folder, or in one file.

    Raises:
      InputError: lists all problems of the source.
    """
    source = need_path(options, "a .parquet file, or a folder of .parquet files")
    findings = Findings(source, skip_gaps=options.skip_bad)
    shards = find_shards(source, ".parquet")
    found: dict[Path, list[Example]] = {}
    for number, shard in enumerate(shards, start=1):
        try:
            found[shard] = list(_examples(shard, options, findings))
        except InputError as error:
            findings.add_all(error)
        progress("reading Parquet files", number, len(shards))
    splits = divide(
        ((split_of_shard(path, source), e) for path, e in with_unique_ids(found).items()),
        options,
        source,
        findings,
    )
    findings.raise_if_any()
    if not splits:
        raise InputError(f"{source}: no image with a caption in {len(shards):,} files")
    return Listing(
        splits,
        description=f"Images and captions of the Parquet files of {source.resolve().name}.",
        notes=findings.notes(),
    )


def open_parquet(path: Path) -> Any:
    """Open a Parquet file as a `pyarrow.parquet.ParquetFile`.

    Raises:
      InputError: it cannot be read.
    """
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot read this Parquet file: {error}") from error


def image_column(path: Path, schema: Any, given: str | None = None) -> str:
    """Return the column of the images, with the field of its bytes.

    Raises:
      InputError: no such column, or none that holds bytes.
    """
    kinds = {field.name: field.type for field in schema}
    usual = sorted(kinds, key=lambda name: name.lower() not in _IMAGE_NAMES)
    for name in usual if given is None else [given]:
        kind = kinds.get(name)
        if kind is not None and pa.types.is_struct(kind) and kind.get_field_index(_BYTES) >= 0:
            return f"{name}.{_BYTES}"
        if kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            return name
    raise InputError(
        f"{path}: no column of images{f' named {given!r}' if given else ''}; expected encoded "
        f"bytes; found {', '.join(f'{name} ({kind})' for name, kind in kinds.items())}. If it "
        "holds addresses of images, download them first, for example with img2dataset"
    )


def _examples(path: Path, options: SourceOptions, findings: Findings) -> Iterator[Example]:
    file = open_parquet(path)
    schema = file.schema_arrow
    image = image_column(path, schema, options.image_column)
    top = image.partition(".")[0]
    others = [name for name in schema.names if name != top]
    captions = _caption_columns(path, others, options)
    path_field = f"{top}.{_PATH}"
    has_path = "." in image and schema.field(top).type.get_field_index(_PATH) >= 0
    ids = [name for name in _ID_NAMES if name in others and name not in captions][:1]
    columns = [*captions, *ids, *([path_field] if has_path else [])]
    number = 0
    for group in range(file.num_row_groups):
        for row, record in enumerate(file.read_row_group(group, columns=columns).to_pylist()):
            number += 1
            named = record[ids[0]] if ids else (record.get(top) or {}).get(_PATH)
            values = [v for name in captions if (v := record[name]) not in (None, "", [])]
            texts = [caption_texts(value) for value in values]
            found = [text for each in texts for text in each or () if text.strip()]
            if None in texts:
                findings.add(path, f"row {number}", f"the caption is {values[0]!r}; expected text")
            elif not found:
                findings.add_gap(path, f"row {number}", f"no caption under {' or '.join(captions)}")
            else:
                name = id_text(named) or f"{path.stem}-{number:06d}"
                yield Example(name, ParquetImage(path, group, row, image), tuple(found))


def _caption_columns(path: Path, columns: Sequence[str], options: SourceOptions) -> tuple[str, ...]:
    names = Names(captions=options.caption_columns)
    found = names.captions_in(dict.fromkeys(columns))
    if not found or len(found) < len(options.caption_columns):
        expected = options.caption_columns or CAPTION_NAMES[:4]
        raise InputError(
            f"{path}: no column of captions; expected {', '.join(expected)}, …; found "
            f"{', '.join(columns)}. Name it with --caption-columns"
        )
    return found
