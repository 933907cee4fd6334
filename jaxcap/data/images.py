"""Decode, resize and augment photographs with Pillow and NumPy.

Every image becomes upright RGB, uint8 [H, W, 3], whatever its file holds: CMYK, a palette, 16 bits,
transparency, or an EXIF orientation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance
from PIL.TiffImagePlugin import SAMPLEFORMAT, TiffImageFile

from jaxcap.data.image_files import (
    MAX_DECODED_BYTES,
    MAX_FILE_BYTES,
    bound_memory,
    open_image,
    with_end,
)
from jaxcap.files import read_bytes
from jaxcap.messages.errors import InputError

# The transposition that undoes each EXIF orientation (EXIF 2.32, tag 0x0112); 1 is upright.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    data: bytes | Path | Image.Image | np.ndarray,
    *,
    name: str,
    size: int | None = None,
    max_pixels: int | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Decode an image to upright RGB.

    Greyscale, palette, 1-bit and CMYK images (including Adobe's inverted CMYK) are converted.
    Images of more than 8 bits are scaled to the range that their values take, transparent ones are
    composited over white, and the EXIF orientation is applied. An animation gives its first frame.

    Args:
      data: the bytes of a file, its path, an open Pillow image, or an array [H, W],
        [H, W, 1], [H, W, 3] or [H, W, 4] of bool, uint8 or uint16.
      name: the name of the image in error messages.
      size: allow a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size, which is several times
        faster, as long as both sides stay at least `size` pixels. Other formats ignore it.
      max_pixels: refuse images with more pixels, before they are decoded.

    Raises:
      InputError: `data` cannot be decoded; the message starts with `name` and gives the reason.
    """
    if isinstance(data, np.ndarray):
        image = _from_array(data, name)
    elif isinstance(data, Image.Image):
        image = data
    else:
        if isinstance(data, Path):
            data = read_bytes(data, at_most=MAX_FILE_BYTES, name=name)
        image = open_image(with_end(data), name)
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise InputError(
                f"{name}: the image has {image.width}×{image.height} pixels; at most "
                f"{max_pixels:,} are allowed"
            )
        if size is not None:
            image.draft(None, (size, size))
    bound_memory(image, name)
    try:
        image.load()
        rgb = np.array(_to_rgb(_upright(image), is_unsigned=_is_unsigned(image)), np.uint8)
    except Exception as error:  # Pillow's decoders raise errors of a dozen types
        raise InputError(f"{name}: cannot decode this image: {error}") from error
    if rgb.size == 0:
        raise InputError(f"{name}: the image has no pixels ({rgb.shape[1]}×{rgb.shape[0]})")
    return rgb


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise InputError(
            f"{name}: an array of shape {list(array.shape)} is not an image; "
            "expected [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        )
    if 0 in array.shape:
        raise InputError(f"{name}: the image has no pixels (shape {list(array.shape)})")
    if array.nbytes > MAX_DECODED_BYTES:  # those of a broadcast array take no memory yet
        raise InputError(
            f"{name}: an array of shape {list(array.shape)} takes {array.nbytes:,} bytes; at most "
            f"{MAX_DECODED_BYTES:,} are allowed"
        )
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        array = _to_eight_bits(array)
    elif array.dtype != np.uint8:
        raise InputError(
            f"{name}: an image array of {array.dtype}; expected uint8 (0 to 255), uint16 or bool"
        )
    return Image.fromarray(array)


def _upright(image: Image.Image) -> Image.Image:
    if image.format == "JXL":  # decoded upright, though its EXIF data may still say otherwise
        return image
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # the pixels are usable without their metadata
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _is_unsigned(image: Image.Image) -> bool:
    """Return whether a TIFF has unsigned 32-bit values, which Pillow reads as signed."""
    if image.mode != "I" or not isinstance(image, TiffImageFile):
        return False
    return image.tag_v2.get(SAMPLEFORMAT, (1,)) == (1,)


def _to_rgb(image: Image.Image, *, is_unsigned: bool = False) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith(("I", "F")):  # Pillow would clip these to 255
        values = np.asarray(image)
        values = values.view(np.uint32) if is_unsigned else values
        return Image.fromarray(_to_eight_bits(values)).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


_WHITE = (255, 1023, 4095, 16383, 65535)
"""White at the bit depths of sensors: files of 16 bits often hold fewer."""
_SPREAD = (0.1, 99.9)
"""Percentiles of black and white where neither is known; single pixels may be far outside."""


def _range(values: np.ndarray) -> tuple[float, float]:
    """Return the values of black and white in an image of more than 8 bits."""
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0, 1)
    if low >= 0 and values.dtype.kind == "f" and 1 / 256 < high <= 1:
        return 0.0, 1.0
    if low >= 0 and values.dtype.kind != "f" and high <= _WHITE[-1]:
        return 0.0, float(next(white for white in _WHITE if high <= white))
    low, high = np.percentile(known, _SPREAD, method="nearest")
    return float(low), float(high)


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    low, high = _range(values)
    scale = 255.0 / (high - low) if high > low else 0.0
    # NaN becomes black.
    scaled = np.nan_to_num((values.astype(np.float64) - low) * scale, copy=False)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def resize(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Stretch the whole image to a square of `size` pixels (bicubic, antialiased).

    The aspect ratio changes because a caption describes the whole photograph, so nothing may be
    cropped. An image that already has this size is returned unchanged.
    """
    if image.shape[:2] == (size, size):
        return image
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(resized)


def random_crop(
    image: UInt8[np.ndarray, "H W 3"], size: int, rng: np.random.Generator, *, min_scale: float
) -> UInt8[np.ndarray, "S S 3"]:
    """Crop a random part of the image and stretch it to a square of `size` pixels.

    Szegedy et al. 2015, "Going Deeper with Convolutions", section 6: the area of the crop is
    uniform, and its aspect ratio varies from 3/4 to 4/3. Here the ratio is relative to that of the
    image, so training sees about the same stretching as `resize` applies. It is drawn from the
    range that fits the area, so no draw is rejected.

    Args:
      image: uint8 [H, W, 3].
      size: side of the result, in pixels.
      rng: the only source of randomness.
      min_scale: the smallest fraction of the area, in (0, 1]; 1 takes the whole image.
    """
    if not 0.0 < min_scale <= 1.0:
        raise ValueError(f"min_scale must be in (0, 1], not {min_scale}")
    height, width = image.shape[:2]
    share = rng.uniform(min_scale, 1.0)
    widest = np.log(min(4 / 3, 1 / share))  # keeps both sides inside the image
    aspect = np.exp(rng.uniform(-widest, widest))
    crop_width = min(width * np.sqrt(share * aspect), width)
    crop_height = min(height * np.sqrt(share / aspect), height)
    left = rng.uniform(0.0, width - crop_width)
    top = rng.uniform(0.0, height - crop_height)
    box = (left, top, min(left + crop_width, width), min(top + crop_height, height))
    cropped = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.array(cropped)


def flip(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Mirror the image left to right."""
    return np.ascontiguousarray(image[:, ::-1])


def color_jitter(
    image: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator, *, strength: float
) -> UInt8[np.ndarray, "H W 3"]:
    """Change brightness, contrast and saturation at random.

    Howard 2013, "Some Improvements on Deep Convolutional Neural Network Based Image
    Classification", https://arxiv.org/abs/1312.5402, section 2: each of the
    three gets its own factor, in a random order. The hue stays, because captions name colours.

    Args:
      rng: the only source of randomness.
      strength: factors are uniform in [1 - strength, 1 + strength]; in [0, 1).
    """
    if not 0.0 <= strength < 1.0:
        raise ValueError(f"strength must be in [0, 1), not {strength}")
    picture = Image.fromarray(image)
    changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for i in rng.permutation(len(changes)):
        picture = changes[i](picture).enhance(rng.uniform(1 - strength, 1 + strength))
    return np.array(picture)
