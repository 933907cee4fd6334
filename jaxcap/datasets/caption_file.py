"""The captions of a prepared data set, in the form that scoring reads from files."""

from __future__ import annotations

import re
from pathlib import Path

from jaxcap.caption_files.reading import CaptionFile, ImageCaptions, read_captions
from jaxcap.datasets.prepare import load_source

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
    if prepared is None or path.exists():
        return read_captions(path)
    source = load_source(prepared[1], prepared[2], data_dir)
    records = (source[i] for i in range(len(source)))
    images = [ImageCaptions({"image_id": r["image_id"]}, r["captions"]) for r in records]
    return CaptionFile(path, "a prepared data set", images)
