"""What one encoded image is, without keeping it: size, format, and two fingerprints."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxcap.data import images
from jaxcap.errors import InputError

BITS = 128
"""Of a picture's fingerprint."""

_GRID = 8
_CAST = 30.0
_SIDE = 32
"""Pixels a side that are decoded at least: a photograph of 500 is then decoded at an eighth."""

# Neighbouring bits are of neighbouring pixels and fall together. 37 has no factor in common with
# 128, so this is a permutation, and any 16 bits in a row come from all over the picture.
_SPREAD = np.arange(BITS) * 37 % BITS


@dataclass(frozen=True)
class Picture:
    """One image.

    Attributes:
      content: 64 bits of a hash of the file's bytes.
      width: in pixels, upright.
      height: in pixels, upright.
      kind: format and mode as Pillow names them, such as "JPEG RGB".
      fingerprint: `BITS` bits of what it looks like; None if it was not decoded.
      problem: why it cannot be decoded; None if it can, or if nobody tried.
    """

    content: int
    width: int = 0
    height: int = 0
    kind: str = ""
    fingerprint: bytes | None = None
    problem: str | None = None


def hash_of(data: bytes) -> int:
    """64 bits of BLAKE2: of a million different files two agree with probability 3·10⁻⁸."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def look_at(data: bytes, name: str, *, decoded: bool) -> Picture:
    """Looks at an image file.

    Args:
      data: the file.
      name: what messages call it.
      decoded: whether to decode it (small), or to look at its bytes alone.
    """
    content = hash_of(data)
    if not decoded:
        return Picture(content)
    try:
        array = images.decode(data, name=name, size=_SIDE)
        with Image.open(io.BytesIO(data)) as header:
            (width, height), kind = header.size, f"{header.format} {header.mode}"
    except InputError as error:
        return Picture(content, problem=str(error).removeprefix(f"{name}: "))
    # A camera held sideways: `decode` has turned the picture, the header tells of the file.
    if (width - height) * (array.shape[1] - array.shape[0]) < 0:
        width, height = height, width
    return Picture(content, width, height, kind, fingerprint(array))


def fingerprint(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """Whether each of 8×8 places is brighter than its neighbour on the left, and than that above.

    The difference hash (N. Krawetz, "Kind of like that", 2013), both ways. A copy that was
    scaled, compressed again, or made brighter as a whole keeps nearly all bits.
    """
    grey = Image.fromarray(image).convert("L")
    across = np.asarray(grey.resize((_GRID + 1, _GRID), Image.Resampling.BOX), np.int16)
    down = np.asarray(grey.resize((_GRID, _GRID + 1), Image.Resampling.BOX), np.int16)
    bits = np.concatenate([np.diff(across, axis=1).ravel() > 0, np.diff(down, axis=0).ravel() > 0])
    return np.packbits(bits[_SPREAD]).tobytes()


def difference(first: bytes, second: bytes) -> tuple[float, float]:
    """How unlike two pictures are as 32×32 pixels: the mean and the largest over all places.

    In levels of 0 to 255, of the colour channels' mean. A cast of up to `_CAST` levels over the
    whole is taken away before: a copy that was made brighter is a copy.

    Raises:
      InputError: one of them cannot be decoded.
    """
    apart = _small(first) - _small(second)
    apart -= np.clip(apart.mean(axis=(0, 1)), -_CAST, _CAST)
    places = np.abs(apart).mean(axis=2)
    return float(places.mean()), float(places.max())


def _small(data: bytes) -> np.ndarray:
    image = Image.fromarray(images.decode(data, name="image", size=2 * _SIDE))
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
