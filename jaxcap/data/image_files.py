"""Open untrusted image files: only in known formats, and within bounded memory.

Pillow chooses a plugin by the first bytes of a file. Some of its plugins start other programs or
expand without limit, so a file is opened only in one of `FORMATS`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import math
import struct
import warnings

from PIL import Image, Jpeg2KImagePlugin, JpegImagePlugin, TiffImagePlugin
from PIL.TiffImagePlugin import BITSPERSAMPLE, TILELENGTH, TILEWIDTH

from jaxcap.data.jpeg2000 import read_codestream, too_many_parts
from jaxcap.messages.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Pillow's names of the formats that are opened, besides those of `EXTRAS`."""
EXTRAS = {"HEIF": ("pillow_heif", "register_heif_opener"), "JXL": ("pylibjxl", "register_pillow")}
"""Formats of optional libraries: the module, and the function that registers its plugin. Both read
the size of an image before they decode it, so memory is bounded."""

MAX_FILE_BYTES = 2**30
MAX_DECODED_BYTES = 2**31
"""Memory that the pixels of one image may take while it becomes upright RGB."""
_MAX_SMALL_BYTES, _MAX_EXPANSION = 15 * 2**26, 128
"""A file of less than 8 MB may take the first, a larger one so many times its own size."""
_SMALL_BYTES, _MAX_RATIO = 1 << 26, 100
"""What a part of a compressed file may take beyond so many times the size of the file."""
MAX_JPEG_PIXELS = 2**29
"""A JPEG larger than `MAX_DECODED_BYTES` is decoded at a reduced size, up to this bound."""
MAX_SCANNED_PIXELS = 2**32
"""Pixels of a JPEG times its scans, about ten in a progressive file. Empty scans take no bytes."""
_MAX_COVERINGS = 8
"""How often the tiles of a file may cover the image: once, or once for each band."""

# Bytes per pixel while an image becomes RGB: Pillow's own, and the copies that conversion makes.
_COST = {
    **dict.fromkeys(("1", "L", "P", "RGB", "YCbCr", "CMYK"), 4 + 4 + 3),
    **dict.fromkeys(("RGBA", "LA", "PA"), 23),
}
_WIDE_COST = 32  # more than 8 bits a channel: scaled in float64
_DECODER_COST = {"WEBP": 7, "JPEG2000": 7}  # bytes per pixel of their own copies, measured

# TIFF: sides, bits, compression, colours, order of bits, samples, strips, planes, tiles, and
# extra samples and their format, which decide how much memory is needed; and the types of integers.
_LAYOUT_TAGS = {256, 257, 258, 259, 262, 266, 277, 278, 284, 322, 323, 338, 339}
_SHORT, _LONG, _LONG8 = 3, 4, 16
_MAX_TAGS = 4096  # libtiff reads no directory with more

# First bytes of files that are often called .jpg, and what to do about them.
_STRANGERS: tuple[tuple[bytes, int, str], ...] = (
    (b"<!doctype html", 0, "an HTML page, not an image (a failed download?)"),
    (b"<html", 0, "an HTML page, not an image (a failed download?)"),
    (b"<svg", 0, "an SVG drawing; convert it to PNG"),
    (b"<?xml", 0, "XML, perhaps an SVG drawing; convert it to PNG"),
    (b"%!ps", 0, "PostScript; convert it to PNG"),
    (b"%pdf", 0, "a PDF document; convert its pages to PNG"),
    (b"version https://git-lfs", 0, "a Git LFS pointer, not the image itself; run `git lfs pull`"),
    (b"\x00\x05\x16\x07", 0, "metadata that macOS left beside the image (AppleDouble)"),
    (b"\xff\x0a", 0, "a JPEG XL image; install 'jaxcap[jxl]' to read it"),
    (b"\x00\x00\x00\x0cjxl ", 0, "a JPEG XL image; install 'jaxcap[jxl]' to read it"),
    (b"ftypheic", 4, "a HEIC image; install 'jaxcap[heic]' to read it"),
    (b"ftypheix", 4, "a HEIC image; install 'jaxcap[heic]' to read it"),
    (b"ftypmif1", 4, "a HEIF image; install 'jaxcap[heic]' to read it"),
    (b"ftyp", 4, "a video or an image of a format that is not read; convert it to JPEG"),
    (b"pk\x03\x04", 0, "a ZIP archive; unpack it"),
    (b"\x1f\x8b", 0, "a gzip archive; unpack it"),
)

MAX_PIECES = 1_000_000
"""Pieces of at most 4 KB that Pillow may read of a file, beside one for each 256 bytes. Its loops
over tiny chunks are so slow that 100 MB of them would take a minute."""
MAX_PLAIN_BYTES = 2**24
"""Bytes of a PPM in plain text, which Pillow decodes in Python."""

_SILENT = logging.NullHandler()
_PILLOW = r"PIL\."  # matches Pillow's modules in a warning filter


class _Source(io.BytesIO):
    """The bytes of an image file, which Pillow may read in a bounded number of pieces."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = MAX_PIECES + len(data) // 256

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self._left -= 1 + len(found) // 4096
        if self._left < 0:
            raise OSError("the file has too many tiny or repeated parts; save it again as PNG")
        return found


def most_unpacked(size: int) -> int:
    """Return how many bytes a part of a compressed file of so many bytes may take."""
    return min(MAX_DECODED_BYTES, most_unpacked_in_all(size))


def most_unpacked_in_all(size: int) -> int:
    """Return how many bytes all parts of a compressed file may take, one after the other."""
    return _SMALL_BYTES + _MAX_RATIO * size


def open_image(data: bytes, name: str) -> Image.Image:
    """Open an image file without decoding its pixels.

    Args:
      data: the bytes of the file.
      name: the name of the image in error messages.

    Raises:
      InputError: the file is not in one of `FORMATS`; the message gives the reason.
    """
    if not data:
        raise InputError(f"{name}: the file is empty")
    if data[:2] in (b"P1", b"P2", b"P3") and len(data) > MAX_PLAIN_BYTES:
        raise InputError(f"{name}: a bitmap of {len(data):,} bytes as plain text; save it as PNG")
    _silence_pillow()
    try:
        return Image.open(_Source(data), formats=_formats(data))
    except Image.DecompressionBombError:
        if data[:2] == b"\xff\xd8":
            return _open_large_jpeg(data, name)
        raise InputError(_too_large(name, *_size_of(data))) from None
    except Exception as error:
        if (shorter := _without_png_metadata(data)) is not None:
            return open_image(shorter, name)
        raise InputError(f"{name}: {_reason(data)}") from error


_SOI, _SOS, _EOI = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"  # JPEG: ITU-T T.81, table B.1
_NOISE = b"\x5a\xa5\x3c\x96" * 64


def with_end(data: bytes) -> bytes:
    """Return the file with JPEG's end marker, if that is all it lacks; else the file.

    A scan is complete if noise after it changes no pixel.
    """
    if data[:2] != _SOI or data.rfind(_EOI) > data.rfind(_SOS):
        return data
    whole, decoded = data.rstrip(b"\xff"), []  # perhaps half of the marker is there
    for tail in (b"", _NOISE):
        try:
            image = open_image(whole + tail + _EOI, "")
            bound_memory(image, "")
            decoded.append(image.tobytes())
        except Exception:  # whoever decodes the file says what is wrong with it
            return data
    return whole + _EOI if decoded[0] == decoded[1] else data


def bound_memory(image: Image.Image, name: str) -> None:
    """Make sure that decoding fits into memory; reduce a JPEG that would not.

    The bound is `MAX_DECODED_BYTES`, and half of that for small files. Files whose parts repeat
    the image many times are refused, because they would take hours.

    Raises:
      InputError: the image has too many pixels for its format, or too many parts.
    """
    cost, pixels, size = _COST.get(image.mode, _WIDE_COST), _pixels(image), image.size
    cost += _DECODER_COST.get(image.format or "", 0)
    most, source = MAX_DECODED_BYTES, getattr(image, "fp", None)
    data = source.getvalue() if isinstance(source, _Source) else b""
    if data:
        most = min(most, max(_MAX_SMALL_BYTES, _MAX_EXPANSION * len(data)))
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tags(image, data, name)
        boxes = (tile.extents or (0, 0, 0, 0) for tile in image.tile)
        covered = sum((right - left) * (low - top) for left, top, right, low in boxes)
        if covered > _MAX_COVERINGS * pixels:
            raise InputError(f"{name}: the parts of this TIFF file repeat; save it again as PNG")
    if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile) and image.tile:
        stream = read_codestream(data, name)
        if stream.width * stream.height > pixels:
            size, pixels = (stream.width, stream.height), stream.width * stream.height
        cost, most = max(cost, stream.pixel_bytes), most - stream.other_bytes
        if most < 0:
            raise InputError(too_many_parts(name))
    if isinstance(image, JpegImagePlugin.JpegImageFile) and image.tile:
        most = max(1, most - _coefficient_bytes(image, data, name))
        scale = math.ceil(math.sqrt(image.width * image.height * cost / most))
        if scale > 1:  # Pillow heeds one call only, and rounds down to 2, 4 or 8
            scale = min(8, 2 ** math.ceil(math.log2(scale)))
            image.draft(None, (image.width // scale, image.height // scale))
            pixels = _pixels(image)
    if pixels * cost <= most:
        return
    raise InputError(_too_large(name, *size, image.mode))


def _pixels(image: Image.Image) -> int:
    """Return the number of pixels to decode, in a TIFF at least those of a tile."""
    tile = 0
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        sides = [image.tag_v2.get(tag) for tag in (TILEWIDTH, TILELENGTH)]
        tile = math.prod(side if isinstance(side, int) else 0 for side in sides)
    return max(image.width * image.height, tile)


def _check_tags(image: TiffImagePlugin.TiffImageFile, data: bytes, name: str) -> None:
    """Make sure that Pillow found the tags by which libtiff reserves memory.

    Pillow skips a tag whose type it does not know, and all tags after one that it cannot read.

    Raises:
      InputError: a tag of the layout is repeated, or Pillow did not read an integer from it.
    """
    tags = image.tag_v2
    order = "<" if tags.prefix == b"II" else ">"
    formats = ("Q", "HHQ8x") if data[2:3] == b"\x2b" else ("H", "HHI4x")
    head, entry = (struct.Struct(order + each) for each in formats)
    start, seen = tags.offset + head.size, set()
    count = min(_MAX_TAGS, *head.unpack_from(data, tags.offset))
    count = min(count, (len(data) - start) // entry.size)
    for tag, kind, _ in entry.iter_unpack(data[start : start + count * entry.size]):
        if tag not in _LAYOUT_TAGS:
            continue
        if tag in seen or kind not in (_SHORT, _LONG, _LONG8) or tags.tagtype.get(tag) != kind:
            raise InputError(
                f"{name}: tag {tag} of this TIFF file has type {kind}, is repeated, or cannot be "
                "read; save the image again as PNG"
            )
        seen.add(tag)


def _coefficient_bytes(image: JpegImagePlugin.JpegImageFile, data: bytes, name: str) -> int:
    """Return what the decoder keeps of a JPEG in several scans, whose size does not reduce it.

    Raises:
      InputError: the scans are too many.
    """
    partial = (_SOS + bytes((0, 6 + 2 * n, n)) for n in range(1, image.layers))
    if "progressive" not in image.info and not any(scan in data for scan in partial):
        return 0
    pixels = image.width * image.height
    if image.decoderconfig:  # reduced by `draft`
        pixels *= image.decoderconfig[0] ** 2
    if pixels * data.count(_SOS) > MAX_SCANNED_PIXELS:
        raise InputError(f"{name}: a JPEG with too many scans; save it again")
    shares = [across * down for _, across, down, _ in image.layer]
    return 2 * pixels * sum(shares) // max((1, *shares))


def _open_large_jpeg(data: bytes, name: str) -> Image.Image:
    image = JpegImagePlugin.JpegImageFile(_Source(data))
    if image.width * image.height > MAX_JPEG_PIXELS:
        raise InputError(_too_large(name, *image.size))
    return image


def _too_large(name: str, width: int = 0, height: int = 0, mode: str = "") -> str:
    found = f" ({width}×{height}{f', mode {mode}' if mode else ''})" if width else ""
    return f"{name}: the image has too many pixels to decode{found}; scale it down first"


def _size_of(data: bytes) -> tuple[int, int]:
    """Return width and height from the header, or (0, 0)."""
    if (kind := _format_of(data)) is not None:
        with contextlib.suppress(Exception):  # the size is only for the message
            return Image.OPEN[kind][0](_Source(data), "").size
    return 0, 0


def _format_of(data: bytes) -> str | None:
    """Return the first format that is read whose plugin accepts the first bytes."""
    for kind in reversed(_formats(data)):  # AVIF's plugin also accepts some files of HEIF's
        accepts = Image.OPEN[kind][1]
        if accepts is not None and accepts(data[:16]) is True:
            return kind
    return None


def _reason(data: bytes) -> str:
    """Say why a file was not opened: what it is instead, or what its decoder complains of."""
    start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n") if data[:1] in b"\xef \t\r\n<" else data
    kind = _format_of(data)
    for magic, offset, what in _STRANGERS if kind not in EXTRAS else ():
        if start[offset : offset + len(magic)].lower() == magic:
            return what
    if kind is not None:
        try:
            Image.OPEN[kind][0](_Source(data), "")
        except Exception as error:
            found = f": {error}{_depth(data) if kind == 'TIFF' else ''}"
            return f"this {kind} file is damaged, or of a kind that is not read{found}"
    formats = ", ".join((*FORMATS, *extras()))
    return f"not an image in one of the formats {formats}; it begins with {data[:16]!r}"


def _depth(data: bytes) -> str:
    """Return the depth of the pixels of a TIFF in words, or "" if it is not known."""
    with contextlib.suppress(Exception):  # only for the message
        tags, file = TiffImagePlugin.ImageFileDirectory_v2(data[:8]), io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits = "+".join(map(str, tags[BITSPERSAMPLE]))
        return f" ({bits} bits a pixel; convert it to 8 or 16 bits a channel)"
    return ""


def _without_png_metadata(data: bytes) -> bytes | None:
    """Return a PNG file without metadata, which Pillow refuses when it is large or damaged.

    Metadata are the ancillary chunks (PNG specification, section 5.4) but for the transparency.
    None if there is nothing to leave out.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    parts, place = [data[:8]], 8
    for _ in range(MAX_PIECES + len(data) // 256):
        if place + 12 > len(data):
            break
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        if kind[:1].isupper() or kind == b"tRNS":
            parts.append(data[place:end])
        place = end
    shorter = b"".join(parts)
    return shorter if len(shorter) < len(data) else None


def _formats(data: bytes) -> tuple[str, ...]:
    """Return the formats that a file may be opened in; optional libraries load only for theirs."""
    _load_plugins()
    is_optional = data[:2] == b"\xff\x0a" or data[4:8] in (b"JXL ", b"ftyp")
    return (*FORMATS, *extras()) if is_optional else FORMATS


@functools.cache
def _load_plugins() -> None:
    # `Image.init` would import Pillow's plugins of 40 formats that are never opened.
    for name in ("Avif", "Bmp", "Gif", "Jpeg2K", "Jpeg", "Png", "Ppm", "Tiff", "WebP"):
        importlib.import_module(f"PIL.{name}ImagePlugin")
    # Grey values of 64-bit floats, which Pillow unpacks but has no entry for.
    for order, mode in ((b"II", "F;64F"), (b"MM", "F;64BF")):
        TiffImagePlugin.OPEN_INFO.setdefault((order, 1, (3,), 1, (64,), ()), ("F", mode))


@functools.cache
def extras() -> tuple[str, ...]:
    """Return Pillow's names of the formats whose extra is installed, and register them."""
    found = []
    for kind, (module, register) in EXTRAS.items():
        with contextlib.suppress(ImportError):
            getattr(importlib.import_module(module), register)()
            found.append(kind)
    return tuple(found)


def _silence_pillow() -> None:
    """Suppress Pillow's warnings about odd metadata and large images: users cannot act on them.

    `warnings.catch_warnings` would swap global state under the threads that decode.
    """
    logging.getLogger("PIL").addHandler(_SILENT)  # else Python prints its errors itself
    if not any(getattr(entry[3], "pattern", None) == _PILLOW for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=_PILLOW)
