"""Which file is the image that a caption file names."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from jaxcap.caption_files.matching import pictures_of
from jaxcap.caption_files.reading import ImageCaptions
from jaxcap.errors import InputError

_FILE_KINDS = (
    "file_name", "filename", "image_name", "image_path", "file_path", "filepath", "path", "file",
)  # fmt: skip


def locate(images: Sequence[ImageCaptions], folder: Path) -> list[Path | None]:
    """The file of each image in a folder or below it; None where it is not there.

    An image is looked for under the very name that the caption file gives, of any kind
    ("file_name", "image_id", …). Only where that does not find them all, names are compared with
    all image files below the folder, by one looser rule for all (`jaxcap.caption_files.matching`):
    without folders, without extensions, or by COCO's numbers.
    Where a file names files, its numbers are not looked at: that image 7 is 7.jpg would be chance.
    """
    ids = [{k: v for k, v in i.ids.items() if k in _FILE_KINDS} or i.ids for i in images]
    found: list[Path | None] = [None] * len(images)
    for kind in dict.fromkeys(kind for each in ids for kind in each):
        under = [
            file_in(folder, each.get(kind, ""), image.folder)
            for each, image in zip(ids, images, strict=True)
        ]
        if _count(under) > _count(found):
            found = under
        if _count(found) == len(images):
            return found
    try:
        matched = pictures_of(ids, folder)
    except InputError:  # none of them, or no one rule
        return found
    return matched if _count(matched) > _count(found) else found


def _count(paths: list[Path | None]) -> int:
    return sum(path is not None for path in paths)


def file_in(folder: Path, name: str, subfolder: str = "") -> Path | None:
    """The file of that name, in the subfolder or in the folder itself, and nowhere else."""
    forms = dict.fromkeys([name, *(unicodedata.normalize(f, name) for f in ("NFC", "NFD"))])
    for form in forms:  # macOS writes names decomposed
        for path in (folder / subfolder / form, folder / form):
            inside = path.is_relative_to(folder) and ".." not in path.parts[len(folder.parts) :]
            # Not Path.is_file, which raises an error at what no file can be called.
            if name and inside and os.path.isfile(path):
                return path
    return None
