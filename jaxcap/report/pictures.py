"""The images of a report: thumbnails in the page, or links to files."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from jaxcap.data import images
from jaxcap.messages.errors import InputError

QUALITY = 75
"""Quality of embedded JPEGs. WebP would save a fifth of the bytes but take five times as long."""

_BY_BROWSERS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")


@dataclass(frozen=True)
class Embedded:
    """A JPEG embedded in the page."""

    data: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Linked:
    """The address of an image, relative to the page if the file system allows it."""

    address: str


@dataclass(frozen=True)
class Unreadable:
    """The reason why there is no image."""

    reason: str


def thumbnail_side(count: int) -> int:
    """Return the longest side in pixels for `count` thumbnails: large for few, small for many.

    A photograph of 320 pixels takes about 14 KB, one of 184 about 7 KB, and a third more in
    base64. 184 is just below half of 375, the usual shorter side of photographs from Flickr.
    They are then decoded at half size, which halves the time.
    """
    return 320 if count <= 1000 else 184


def thumbnail(
    image: bytes | Path | Image.Image | np.ndarray, *, name: str, side: int
) -> Embedded | Unreadable:
    """Scale an image down to at most `side` pixels on its longer side. Never enlarge it."""
    try:
        picture = Image.fromarray(images.decode(image, name=name, size=side))
    except InputError as error:
        return Unreadable(str(error).removeprefix(f"{name}: "))
    picture.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return Embedded(buffer.getvalue(), picture.width, picture.height)


def shown_by_browsers(image: Path) -> bool:
    """Return whether every browser shows this format, judged by the suffix."""
    return image.suffix.lower() in _BY_BROWSERS


def link(image: Path, *, page: Path) -> Linked | Unreadable:
    """Return the address of `image` relative to `page`, so that both can be moved together."""
    if not image.is_file():
        return Unreadable("no such file")
    target = image.resolve()
    try:
        relative = os.path.relpath(target, page.resolve().parent)
    except ValueError:  # another drive
        return Linked(target.as_uri())
    # A name such as "a:b.jpg" looks like a URL with a scheme; "./" keeps it a file.
    return Linked("./" + quote(os.fsencode(Path(relative).as_posix())))
