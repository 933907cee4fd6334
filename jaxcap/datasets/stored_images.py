"""Images as a data set stores them: files that any TFDS program can decode.

A JPEG or PNG file is stored byte for byte, whatever is in it (CMYK, 16 bits, an EXIF orientation):
`jaxcap.data.images.decode` makes it RGB and upright when it is read. Other formats are stored as
the PNG of what `decode` sees, which loses nothing.
"""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxcap.data import images

JPEG_QUALITY = 95
"""Of images that are stored smaller; Pillow's scale, whose best sensible value this is."""

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"  # how these files begin


def to_stored(data: bytes, *, name: str, max_side: int | None = None) -> bytes:
    """Returns the image file to store for an image file, once it is known to be decodable.

    Args:
      data: the file.
      name: what error messages call it.
      max_side: an image with a longer side is scaled down to this many pixels, its aspect kept,
        and stored as a JPEG of quality 95; others are never enlarged.

    Raises:
      InputError: it cannot be decoded.
    """
    as_it_is = data.startswith((_JPEG, _PNG))
    if max_side is None:
        # The smallest decoding reads the whole file, too, so it finds all damage.
        image = images.decode(data, name=name, size=1 if as_it_is else None)
        return data if as_it_is else _png(image)
    # A side more than asked for: of a JPEG decoded at a half or less, both sides stay above
    # `max_side`, so that the size of the result tells whether the image is too large.
    image = images.decode(data, name=name, size=max_side + 1)
    if max(image.shape[:2]) > max_side:
        return _jpeg(_shrink(image, max_side))
    return data if as_it_is else _png(image)


def _shrink(image: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _jpeg(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _png(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()
