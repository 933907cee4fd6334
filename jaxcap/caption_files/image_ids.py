"""Match the images of two files by a single, named rule.

Files refer to the same image as 42, "42", "val/COCO_val2014_000000000042.jpg" or without its
extension, and some give several ids. The rule that matches the most images is used; of equal
rules, the strictest. All images are matched by the same rule, and never by similarity.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxcap.caption_files.reading import ImageCaptions
from jaxcap.data.image_paths import images_below
from jaxcap.errors import InputError

_EXTENSION = re.compile(r"\.(jpe?g|png|webp|bmp|gif|tiff?)$", re.IGNORECASE)
_COCO_NAME = re.compile(r"(?:COCO_[a-z]+\d{4}_)?0*(\d+)")


def _name(text: str) -> str:
    return re.split(r"[/\\]", text)[-1]


def _stem(text: str) -> str:
    return _EXTENSION.sub("", _name(text))


def _number(text: str) -> str | None:
    """Return the number in "COCO_val2014_000000000042.jpg", "000000000042.jpg" or "42"."""
    match = _COCO_NAME.fullmatch(_stem(text))
    return match[1] if match else None


_RULES: tuple[tuple[str, Callable[[str], str | None]], ...] = (
    ("exactly", lambda text: text),
    ("without folders", _name),
    ("without folders and extensions", _stem),
    ("by the number in COCO's file names", _number),
)
"""From the strictest to the loosest."""


@dataclass(frozen=True)
class Matching:
    """The matched images of two sequences.

    Attributes:
      rule: the rule in words, such as "image_id = cocoid, exactly".
      pairs: index in the first sequence to index in the second.
    """

    rule: str
    pairs: dict[int, int]


def _keys(
    images: Sequence[ImageCaptions], kind: str, simplify: Callable[[str], str | None]
) -> dict[str, int] | None:
    """Map the key of each image to its index; None if two images have the same key."""
    keys: dict[str, int] = {}
    for index, image in enumerate(images):
        key = simplify(image.ids[kind]) if kind in image.ids else None
        if key is not None and keys.setdefault(key, index) != index:
            return None
    return keys


def _kinds(images: Sequence[ImageCaptions]) -> list[str]:
    return list(dict.fromkeys(kind for image in images for kind in image.ids))


def examples(images: Sequence[ImageCaptions], indices: Sequence[int], limit: int = 3) -> str:
    """List the first ids of a few images and count the rest."""
    names = [next(iter(images[i].ids.values())) for i in indices[:limit]]
    more = f" and {len(indices) - limit} more" if len(indices) > limit else ""
    return ", ".join(names) + more


def _described(images: Sequence[ImageCaptions]) -> str:
    """List a few ids of each kind."""
    parts = []
    for kind in _kinds(images):
        ids = [image.ids[kind] for image in images if kind in image.ids]
        parts.append(f"{kind} {', '.join(ids[:3])}{', …' if len(ids) > 3 else ''}")
    return "; ".join(parts)


def match(
    ours: Sequence[ImageCaptions],
    theirs: Sequence[ImageCaptions],
    *,
    paths: tuple[Path, Path],
) -> Matching:
    """Match images by the rule that finds most images of `ours` in `theirs`.

    Args:
      ours: the images to find.
      theirs: the images to search.
      paths: the two files, for error messages.

    Raises:
      InputError: no rule matches any image, or the two best rules match equally many images in
        different ways.
    """
    best: Matching | None = None
    rival: Matching | None = None
    for words, simplify in _RULES:
        for our_kind in _kinds(ours):
            if (our_keys := _keys(ours, our_kind, simplify)) is None:
                continue
            for their_kind in _kinds(theirs):
                if (their_keys := _keys(theirs, their_kind, simplify)) is None:
                    continue
                pairs = {i: their_keys[key] for key, i in our_keys.items() if key in their_keys}
                found = Matching(f"{our_kind} = {their_kind}, {words}", pairs)
                if best is None or len(pairs) > len(best.pairs):
                    best, rival = found, None
                elif len(pairs) == len(best.pairs) and pairs != best.pairs:
                    rival = rival or found
    if best is None or not best.pairs:
        raise InputError(
            f"{paths[0]} and {paths[1]} have no image in common. The first has "
            f"{_described(ours)}; the second has {_described(theirs)}. Images match if they have "
            "the same id, with or without folders and extension."
        )
    if rival is not None:
        raise InputError(
            f"{paths[0]} and {paths[1]} match in two ways that differ: {best.rule}, and "
            f"{rival.rule} ({len(best.pairs)} images each). Keep only one kind of id in each file."
        )
    return best


def pictures_of(ids: list[dict[str, str]], directory: Path) -> list[Path | None]:
    """Find the file of each image in a folder and its subfolders; None for images without one.

    Args:
      ids: the ids of each image.
      directory: the folder to search.

    Raises:
      InputError: `directory` is not a folder, or holds none of the images.
    """
    if not directory.is_dir():
        raise InputError(
            f"--images {directory}: expected the image folder; there is no such folder."
        )
    paths = images_below(directory)
    if not paths:
        raise InputError(f"--images {directory}: found no images in this folder or below it.")
    files = [ImageCaptions({"file": str(path.relative_to(directory))}, []) for path in paths]
    wanted = [ImageCaptions(each, []) for each in ids]
    pairs = match(wanted, files, paths=(Path("the captions"), directory)).pairs
    return [paths[pairs[i]] if i in pairs else None for i in range(len(ids))]
