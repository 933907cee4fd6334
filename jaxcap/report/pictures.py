"""The pictures of a report: small copies that lie in the page, or links to the files."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from jaxcap.data import images
from jaxcap.errors import InputError

QUALITY = 75
"""Of the embedded JPEGs. WebP would save a fifth of the bytes for five times the time."""

_BY_BROWSERS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")


@dataclass(frozen=True)
class Embedded:
    """A JPEG that lies in the page."""

    data: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Linked:
    """The address of a picture, relative to the page where the file system allows it."""

    address: str


@dataclass(frozen=True)
class Unreadable:
    """Why there is no picture."""

    reason: str


def thumbnail_side(count: int) -> int:
    """Longest side in pixels of `count` embedded pictures: sharp for few, light for thousands.

    A photograph of 320 pixels takes some 14 KB and one of 184 some 7 KB, a third more as base64.
    184 is just below half of 375, the usual shorter side of photographs from Flickr, which are
    then decoded at half their size, in half the time for the whole copy.
    """
    return 320 if count <= 1000 else 184


def thumbnail(
    image: bytes | Path | Image.Image | np.ndarray, *, name: str, side: int
) -> Embedded | Unreadable:
    """A copy at most `side` pixels on its longer side; an image is never enlarged."""
    try:
        picture = Image.fromarray(images.decode(image, name=name, size=side))
    except InputError as error:
        return Unreadable(str(error).removeprefix(f"{name}: "))
    picture.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return Embedded(buffer.getvalue(), picture.width, picture.height)


def shown_by_browsers(image: Path) -> bool:
    """Whether every browser shows a file of this name's kind."""
    return image.suffix.lower() in _BY_BROWSERS


def link(image: Path, *, page: Path) -> Linked | Unreadable:
    """The address of `image` as seen from `page`, so that both can be moved together."""
    if not image.is_file():
        return Unreadable("there is no such file")
    target = image.resolve()
    try:
        relative = os.path.relpath(target, page.resolve().parent)
    except ValueError:  # another drive
        return Linked(target.as_uri())
    # A name may begin with what looks like a scheme, as in "a:b.jpg"; "./" keeps it a file.
    return Linked("./" + quote(os.fsencode(Path(relative).as_posix())))
