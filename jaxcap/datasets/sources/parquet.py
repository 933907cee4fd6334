"""Read Parquet files with images in them, such as those of Hugging Face, without unpacking them.

An image is a column of encoded bytes, or of Hugging Face's `{"bytes": …, "path": …}`; the captions
are a column of texts or of lists of texts. The columns are given, or found by their usual names.
Only captions and names are read at first; images are read when they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxcap.caption_files.column_names import CAPTION_NAMES, Names
from jaxcap.caption_files.reading import caption_texts
from jaxcap.caption_files.text_files import shown
from jaxcap.data.image_parquet import open_parquet, parquet_images
from jaxcap.datasets.sources import Example, Listing, SourceOptions
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.shard_splits import read_shards
from jaxcap.messages import Progress, no_progress
from jaxcap.messages.errors import InputError


def read(options: SourceOptions, progress: Progress = no_progress) -> Listing:
    """Read the names and captions in all Parquet files of a folder, or in one file.

    Raises:
      InputError: lists all problems of the source.
    """
    return read_shards(
        lambda path, findings: _examples(path, options, findings),
        options,
        progress,
        suffix=".parquet",
        names=("Parquet files", "files"),
        description="Images and captions of the Parquet files of",
    )


def _examples(path: Path, options: SourceOptions, findings: Findings) -> Iterator[Example]:
    captions = _caption_columns(path, open_parquet(path).schema_arrow.names, options)
    rows = parquet_images(path, column=options.image_column, values=captions)
    for number, (image, record) in enumerate(rows, start=1):
        values = [v for name in captions if (v := record[name]) not in (None, "", [])]
        texts = [caption_texts(value) for value in values]
        found = [text for each in texts for text in each or () if text.strip()]
        if None in texts:
            findings.add(path, f"row {number}", f"the caption is {shown(values[0])}; expected text")
        elif not found:
            findings.add_gap(path, f"row {number}", f"no caption under {' or '.join(captions)}")
        else:
            yield Example(image.label or f"{path.stem}-{number:06d}", image, tuple(found))


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
