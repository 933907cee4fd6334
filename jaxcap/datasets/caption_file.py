"""The captions of a prepared data set, in the form that scoring reads from files."""

from __future__ import annotations

import re
from pathlib import Path

from jaxcap.caption_files.reading import CaptionFile, ImageCaptions, read_captions
from jaxcap.datasets.prepare import default_data_dir, find_dataset, list_prepared, load_source
from jaxcap.messages.errors import InputError

_NAME_AND_SPLIT = re.compile(r"(\w+):([^/\\]+)")


def read_references(path: Path, data_dir: Path | None = None) -> CaptionFile:
    """Read captions from a file, or from a split of a prepared data set.

    Args:
      path: a caption file, or NAME:SPLIT; an existing file comes first.
      data_dir: the folder of the prepared data sets; the default one if None.

    Raises:
      InputError: the file or the data set cannot be read, or there is no such split.
    """
    prepared = _NAME_AND_SPLIT.fullmatch(str(path))
    if prepared is None or path.is_file():
        _refuse_name(path, data_dir)
        return read_captions(path)
    source = load_source(prepared[1], prepared[2], data_dir)
    records = (source[i] for i in range(len(source)))
    images = [ImageCaptions({"image_id": r["image_id"]}, r["captions"]) for r in records]
    return CaptionFile(path, "a prepared data set", images)


def _refuse_name(path: Path, data_dir: Path | None) -> None:
    """Refuse the name of a prepared data set without a split."""
    name = str(path)
    if not path.is_file() and name in list_prepared(data_dir or default_data_dir()):
        splits = ", ".join(f"{name}:{split}" for split in find_dataset(name, data_dir).splits)
        raise InputError(f"{name}: a prepared data set; name one of its splits: {splits}.")
