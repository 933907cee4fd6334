"""Find the image files that a caption file names."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from jaxcap.caption_files.image_ids import pictures_of
from jaxcap.caption_files.reading import ImageCaptions
from jaxcap.errors import InputError

_FILE_KINDS = (
    "file_name", "filename", "image_name", "image_path", "file_path", "filepath", "path", "file",
)  # fmt: skip


def locate(images: Sequence[ImageCaptions], folder: Path) -> list[Path | None]:
    """Find the file of each image in a folder or below it; None if it is missing.

    Each kind of name in the caption file ("file_name", "image_id", …) is first tried literally. If
    that does not find every image, names are compared with all image files below the folder, under
    one looser rule for all (`jaxcap.caption_files.image_ids`): without folders, without extensions,
    or by COCO's numbers. If the caption file has file names, its ids are ignored: it would be a
    coincidence if image 7 were 7.jpg.
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
    except InputError:  # no rule matches
        return found
    return matched if _count(matched) > _count(found) else found


def _count(paths: list[Path | None]) -> int:
    return sum(path is not None for path in paths)


def file_in(folder: Path, name: str, subfolder: str = "") -> Path | None:
    """Return the file of that name in the subfolder or in the folder, and nowhere else."""
    forms = dict.fromkeys([name, *(unicodedata.normalize(f, name) for f in ("NFC", "NFD"))])
    for form in forms:  # macOS writes names decomposed
        for path in (folder / subfolder / form, folder / form):
            inside = path.is_relative_to(folder) and ".." not in path.parts[len(folder.parts) :]
            # Path.is_file would raise on names that no file can have.
            if name and inside and os.path.isfile(path):
                return path
    return None
