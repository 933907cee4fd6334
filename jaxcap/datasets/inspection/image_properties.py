"""Measure an encoded image: its size, its format and two fingerprints."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxcap.data import images
from jaxcap.messages.errors import InputError

BITS = 128
"""The length of a perceptual fingerprint."""

_GRID = 8
_CAST = 30.0
_SIDE = 32
"""The minimum side of a decoded JPEG in pixels: one of 500 pixels is decoded at 1/8."""

# Neighbouring bits belong to neighbouring pixels and are correlated. 37 and 128 are coprime, so
# this is a permutation, and any 16 consecutive bits come from all over the image.
_SPREAD = np.arange(BITS) * 37 % BITS


@dataclass(frozen=True)
class ImageProperties:
    """The properties of an image.

    Attributes:
      content: a 64-bit hash of the file.
      width: the width of the upright image in pixels.
      height: the height of the upright image in pixels.
      kind: Pillow's format and mode, such as "JPEG RGB".
      fingerprint: a perceptual fingerprint of `BITS` bits; None if the image was not decoded.
      problem: the reason why decoding failed, or None.
    """

    content: int
    width: int = 0
    height: int = 0
    kind: str = ""
    fingerprint: bytes | None = None
    problem: str | None = None


def hash_of(data: bytes) -> int:
    """Compute a 64-bit BLAKE2 hash; a million files collide with probability 3·10⁻⁸."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def look_at(data: bytes, name: str, *, decoded: bool) -> ImageProperties:
    """Measure an image file.

    Args:
      data: the file.
      name: the name of the image in messages.
      decoded: whether to decode it, at a reduced size, or only to hash its bytes.
    """
    content = hash_of(data)
    if not decoded:
        return ImageProperties(content)
    try:
        array = images.decode(data, name=name, size=_SIDE)
        with Image.open(io.BytesIO(data)) as header:
            (width, height), kind = header.size, f"{header.format} {header.mode}"
    except InputError as error:
        return ImageProperties(content, problem=str(error).removeprefix(f"{name}: "))
    # `decode` applies the EXIF orientation; the header has the size without it.
    if (width - height) * (array.shape[1] - array.shape[0]) < 0:
        width, height = height, width
    return ImageProperties(content, width, height, kind, fingerprint(array))


def fingerprint(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Compare each of 8×8 cells with its left and its upper neighbour.

    This is the difference hash (N. Krawetz, "Kind of like that", 2013) in both directions. A copy
    that was rescaled, recompressed or brightened keeps nearly all bits.
    """
    grey = Image.fromarray(image).convert("L")
    across = np.asarray(grey.resize((_GRID + 1, _GRID), Image.Resampling.BOX), np.int16)
    down = np.asarray(grey.resize((_GRID, _GRID + 1), Image.Resampling.BOX), np.int16)
    bits = np.concatenate([np.diff(across, axis=1).ravel() > 0, np.diff(down, axis=0).ravel() > 0])
    return np.packbits(bits[_SPREAD]).tobytes()


def difference(first: bytes, second: bytes) -> tuple[float, float]:
    """Return the mean and the maximum difference of two images, as 32×32 pixels.

    The unit is levels of 0 to 255, averaged over the colour channels. A uniform difference of up to
    `_CAST` levels per channel is removed first, because a brightened copy is still a copy.

    Raises:
      InputError: one of the images cannot be decoded.
    """
    apart = _small(first) - _small(second)
    apart -= np.clip(apart.mean(axis=(0, 1)), -_CAST, _CAST)
    places = np.abs(apart).mean(axis=2)
    return float(places.mean()), float(places.max())


def _small(data: bytes) -> np.ndarray:
    image = Image.fromarray(images.decode(data, name="image", size=2 * _SIDE))
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
