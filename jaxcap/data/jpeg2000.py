"""Count the memory that OpenJPEG takes for a JPEG 2000 file, from the headers of its codestream.

Tables and annexes are those of ISO/IEC 15444-1, where no other part is named.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from jaxcap.messages.errors import InputError

MAX_BLOCK_MARKERS = 2**16
"""Markers that divide a file into blocks: one for each tile that it may have."""
_MAX_BOXES = 2**16  # files have about ten

# How tiles are divided into blocks and precincts (tables A.12 to A.23), for all components (COD) or
# one (COC). Compressed bytes match once in 10^15.
_BLOCKS = re.compile(
    rb"(?=\xff(?:\x52\0.([\0-\7]).(..)[\0\1]|\x53\0.[\0-\3](.))"
    rb"([\0-\x20])([\0-\x08])([\0-\x08]).[\0\1](.{0,33}))",
    re.DOTALL,
)
_BLOCK_BYTES = 500  # what OpenJPEG keeps of a block and its share of a precinct, measured
_SIZES = b"\xff\x4f\xff\x51"  # a codestream begins with the sizes of image and tiles (A.5.1)
_TILE_BYTES, _COMPONENT_BYTES = 8900, 1100  # kept of each tile, and of its components, measured
# Transforms of components (15444-2, A.3.7 and A.3.8), which are copied for each tile.
_TRANSFORMS = re.compile(rb"\xff(?:\x74..\0\0..|\x75..\0\0.)\0\0", re.DOTALL)


class Codestream(NamedTuple):
    """What OpenJPEG decodes: the file around it may claim other sizes.

    Attributes:
      width, height: pixels.
      pixel_bytes: the memory for each pixel.
      other_bytes: the memory for tiles, components, and blocks.
    """

    width: int
    height: int
    pixel_bytes: int
    other_bytes: int


def read_codestream(data: bytes, name: str) -> Codestream:
    """Read the headers of the codestream in a file.

    Args:
      data: the bytes of the file.
      name: the name of the image in error messages.

    Raises:
      InputError: there is no codestream, or too many markers describe its blocks.
    """
    try:
        place = _place(data)
        *sides, count = struct.unpack_from(">8IH", data, place + 8)
        right, low, left, top, across, down, tiles_left, tiles_top = sides
        tiles = -(-(right - tiles_left) // across) * -(-(low - tiles_top) // down)
        width, height = right - left, low - top
        if data[place : place + 4] != _SIZES or min(width, height, tiles) <= 0:
            raise ValueError
    except (struct.error, ArithmeticError, ValueError):
        raise InputError(
            f"{name}: this JPEG2000 file is damaged: its codestream does not begin right"
        ) from None
    depths = data[place + 42 : place + 42 + 3 * count : 3]
    other = len(depths) * _block_bytes(data, width, height, name)
    other += tiles * (_TILE_BYTES + _COMPONENT_BYTES * len(depths))
    other += tiles * 3 * len(data) if _TRANSFORMS.search(data) else 0
    pixel = 4 + sum(4 + 2 ** ((depth & 127) // 8) for depth in depths)
    return Codestream(width, height, pixel, other)


def _place(data: bytes) -> int:
    """Return where the codestream begins, as OpenJPEG finds it: in the first box for one (I.4).

    Raises:
      ValueError: there is none.
      struct.error: the file ends before it.
    """
    if data[:4] == _SIZES:
        return 0
    place = 0
    for _ in range(_MAX_BOXES):
        size, kind = struct.unpack_from(">I4s", data, place)
        head = 8
        if size == 1:
            ((size,), head) = struct.unpack_from(">Q", data, place + 8), 16
        if kind == b"jp2c":
            return place + head
        if size < head:
            break
        place += size
    raise ValueError


def _block_bytes(data: bytes, width: int, height: int, name: str) -> int:
    """Return the bytes that OpenJPEG keeps of the blocks of each component.

    Raises:
      InputError: too many markers describe the blocks.
    """
    most_blocks, most_layers, most_levels, most_in_level = 0, 0, 0, 0
    for number, found in enumerate(_BLOCKS.finditer(data)):
        if number == MAX_BLOCK_MARKERS:
            raise InputError(too_many_parts(name))
        style, layers, style_of_one, levels, block_width, block_height, precincts = found.groups()
        whole = b"\xff" * 33 if (style or style_of_one)[0] % 2 == 0 else precincts
        blocks = []
        for level, side in enumerate(whole[levels[0] :: -1], 1):  # each of four bands of half size
            across = level + min(block_width[0] + 2, max(1, side & 15) - 1)
            down = level + min(block_height[0] + 2, max(1, side >> 4) - 1)
            # Wherever n > 0 pixels begin, they touch at most (n - 2) // 2^k + 2 blocks of 2^k.
            blocks.append(4 * ((width - 2 >> across) + 2) * ((height - 2 >> down) + 2))
        most_blocks = max(most_blocks, sum(blocks))
        most_layers = max(most_layers, int.from_bytes(layers or b"", "big"))
        most_levels = max(most_levels, len(blocks))
        most_in_level = max((most_in_level, *blocks))
    # OpenJPEG notes in two bytes whether it has read each packet, as if all levels were alike.
    packets = (most_layers + 1) * most_levels * most_in_level
    return _BLOCK_BYTES * most_blocks + 2 * packets


def too_many_parts(name: str) -> str:
    """Return the message for a file whose parts would take too much memory."""
    return f"{name}: a JPEG 2000 file of too many tiles, components, or blocks; save it as PNG"
