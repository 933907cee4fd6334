"""Encode images for storage in a data set, as files that any TFDS program can decode.

JPEG and PNG files are stored byte for byte, including CMYK, 16 bits and EXIF orientations:
`jaxcap.data.images.decode` turns them into upright RGB when they are read. A JPEG that lacks its
end marker gets one. Images of other formats are decoded and stored as PNG, without loss.
"""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxcap.data import images
from jaxcap.data.image_files import with_end

JPEG_QUALITY = 95
"""For images that are scaled down; the highest quality that Pillow recommends."""

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"  # signatures


def to_stored(data: bytes, *, name: str, max_side: int | None = None) -> bytes:
    """Check that an image can be decoded, and return the bytes to store.

    Args:
      data: the image file.
      name: the name of the image in error messages.
      max_side: scale larger images down to this many pixels on the longer side, keeping the aspect
        ratio, and store them as JPEG. Smaller images are not enlarged.

    Raises:
      InputError: the image cannot be decoded.
    """
    data = with_end(data)
    keep_bytes = data.startswith((_JPEG, _PNG))
    if max_side is None:
        # Decoding at the smallest size reads the whole file, so it finds all damage.
        image = images.decode(data, name=name, size=1 if keep_bytes else None)
        return data if keep_bytes else _png(image)
    # One pixel more: a JPEG decoded at 1/2 or less then keeps both sides above `max_side`, so the
    # size of the result tells whether the image is too large.
    image = images.decode(data, name=name, size=max_side + 1)
    if max(image.shape[:2]) > max_side:
        return _jpeg(_shrink(image, max_side))
    return data if keep_bytes else _png(image)


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
