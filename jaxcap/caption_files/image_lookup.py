"""Find the image files that captions belong to, below a folder."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxcap.caption_files.image_matching import from_address, match, stem_of
from jaxcap.caption_files.reading import ImageCaptions
from jaxcap.data.image_paths import images_below
from jaxcap.files.normal_form import normal_form
from jaxcap.messages.errors import InputError, counted, did_you_mean

_FILE_KINDS = (
    "file_name", "filename", "image_name", "image_path", "file_path", "filepath", "path", "file",
)  # fmt: skip


@dataclass(frozen=True)
class Located:
    """The files of images.

    Attributes:
      paths: the file of each image; None if there is none.
      rule: how names were compared with files, such as "image = file, without folders"; "" if
        they are the paths below the folder.
      alike: for some images without a file, files of the same name in other folders or with another
        suffix, which may be meant.
    """

    paths: list[Path | None]
    rule: str = ""
    alike: Mapping[int, Sequence[Path]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of images that have a file."""
        return sum(path is not None for path in self.paths)

    def reason(self, index: int) -> str:
        """Return " (…)", a reason why an image has no file, or "" if nothing is known."""
        if not (alike := self.alike.get(index)):
            return ""
        names = " or ".join(map(str, alike[:3])) + (" or another" if len(alike) > 3 else "")
        return f" (perhaps {names}; give its path)"


def locate(images: Sequence[ImageCaptions], folder: Path) -> Located:
    """Find the file of each image in a folder or below it.

    Each kind of name in the caption file ("file_name", "image_id", …) is first tried literally. If
    that does not find every image, names are compared with all image files below the folder, under
    one looser rule for all (`caption_files.image_matching`): `\\` is read as `/`, paths of other
    machines are compared by their last parts, then without folders, without extensions, or by
    COCO's numbers. If the caption file has file names, its ids are ignored: it would be a
    coincidence if image 7 were 7.jpg.
    """
    ids = [{k: v for k, v in i.ids.items() if k in _FILE_KINDS} or i.ids for i in images]
    found = Located([None] * len(images))
    for kind in dict.fromkeys(kind for each in ids for kind in each):
        under = Located(
            [
                file_in(folder, each.get(kind, ""), image.folder)
                for each, image in zip(ids, images, strict=True)
            ]
        )
        found = max(found, under, key=lambda located: located.count)
        if found.count == len(images):
            return found
    files = images_below(folder)
    wanted = [
        ImageCaptions({k: os.path.join(image.folder, v) for k, v in each.items()}, [])
        for each, image in zip(ids, images, strict=True)
    ]
    there = [ImageCaptions({"file": path.relative_to(folder).as_posix()}, []) for path in files]
    try:
        matching = match(wanted, there, paths=(Path("the captions"), folder), spellings=True)
    except InputError:  # no rule matches
        pass
    else:
        if len(matching.pairs) > found.count:
            pairs = matching.pairs
            found = Located(
                [files[pairs[i]] if i in pairs else None for i in range(len(images))], matching.rule
            )
    by_name = defaultdict(list)
    for path in files:
        by_name[stem_of(path.name)].append(path)
    names = (stem_of(from_address(next(iter(each.values())))) for each in ids)
    alike = {
        i: by_name[name]
        for i, (path, name) in enumerate(zip(found.paths, names, strict=True))
        if path is None and name in by_name
    }
    return Located(found.paths, found.rule, alike)


def pictures_of(ids: Sequence[dict[str, str]], directory: Path) -> Located:
    """Find the file of each image by its ids, in a folder that the user named with `--images`.

    Raises:
      InputError: `directory` is not a folder, or holds none of the images.
    """
    if not directory.is_dir():
        raise InputError(
            f"--images {directory}: expected the image folder; there is no such folder."
            f"{did_you_mean(directory)}"
        )
    found = locate([ImageCaptions(each, []) for each in ids], directory)
    if not found.count:
        first = next(iter(ids[0].values())) if ids else "none"
        raise InputError(
            f"--images {directory}: of {counted(len(ids), 'image')}, none is in this folder or "
            f"below it; the first is {first}{found.reason(0)}."
        )
    return found


def file_in(folder: Path, name: str, subfolder: str = "") -> Path | None:
    """Return the file of that name in the subfolder or in the folder, and nowhere else."""
    forms = dict.fromkeys([name, normal_form("NFC", name), normal_form("NFD", name)])
    for form in forms:  # macOS writes names decomposed
        for path in (folder / subfolder / form, folder / form):
            inside = path.is_relative_to(folder) and ".." not in path.parts[len(folder.parts) :]
            # Path.is_file would raise on names that no file can have.
            if name and inside and os.path.isfile(path):
                return path
    return None
