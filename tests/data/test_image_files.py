"""Only known formats are opened, from regular files, and within bounds of memory."""

from __future__ import annotations

import io
import logging
import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from jaxcap.data import image_files, images
from jaxcap.data.image_names import IMAGE_SUFFIXES
from jaxcap.datasets.stored_images import to_stored
from jaxcap.messages.errors import InputError

SCENE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", image_files.FORMATS)
def test_every_listed_format_is_read(kind: str) -> None:
    decoded = images.decode(encoded(SCENE, kind), name="x")
    assert decoded.shape == (24, 32, 3)


def test_every_suffix_of_these_formats_is_found() -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    pytest.importorskip("pylibjxl").register_pillow()
    Image.init()
    kinds = {*image_files.FORMATS, *image_files.EXTRAS, "MPO"}  # its plugin is that of JPEG
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in kinds}
    assert set(IMAGE_SUFFIXES) == suffixes


@pytest.mark.parametrize(
    ("kind", "module", "register"),
    [("HEIF", "pillow_heif", "register_heif_opener"), ("JXL", "pylibjxl", "register_pillow")],
)
def test_formats_of_extras_are_read_upright_and_within_bounds(
    kind: str, module: str, register: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    getattr(pytest.importorskip(module), register)()
    picture = Image.new("RGB", (80, 40), "blue")
    picture.paste("red", (0, 0, 40, 40))
    metadata = Image.Exif()
    metadata[0x0112] = 6
    turned = encoded(picture, kind, exif=metadata.tobytes(), quality=95)
    if kind == "JXL":  # its own header, not the EXIF data, says how to turn an image
        jpeg = encoded(picture, "JPEG", exif=metadata, quality=95)
        turned = pytest.importorskip(module).jpeg_to_jxl(jpeg)
    decoded = images.decode(turned, name="x")
    assert decoded.shape == (80, 40, 3)
    assert [int(c) // 128 for c in decoded[5, 5]] == [1, 0, 0]
    assert [int(c) // 128 for c in decoded[75, 5]] == [0, 0, 1]
    damaged = turned[:20] + bytes(200)
    with pytest.raises(InputError, match=rf"^x: (this {kind} file is damaged, or|cannot decode)"):
        images.decode(damaged, name="x")
    monkeypatch.setattr(image_files, "MAX_DECODED_BYTES", 80 * 40)
    with pytest.raises(InputError, match=r"^x: the image has too many pixels to decode \(40×80"):
        images.decode(turned, name="x")


@pytest.mark.parametrize(
    ("data", "way_out"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"a HEIC image; install 'jaxcap\[heic\]'"),
        (b"\xff\x0a\xfa\x7f", r"a JPEG XL image; install 'jaxcap\[jxl\]'"),
    ],
)
def test_formats_of_absent_extras_are_named(
    data: bytes, way_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "EXTRAS", {})
    image_files.extras.cache_clear()
    try:
        with pytest.raises(InputError, match=rf"^photo\.jpg: {way_out} to read it$"):
            images.decode(data, name="photo.jpg")
    finally:
        image_files.extras.cache_clear()


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "ICO", "PDF", "SGI"])
def test_no_other_format_is_opened(kind: str) -> None:
    with pytest.raises(InputError, match=r"^photo\.jpg: "):
        images.decode(encoded(SCENE, kind), name="photo.jpg")


def test_postscript_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, program = tmp_path / "log", tmp_path / "gs"
    program.write_text(f"#!/bin/sh\necho called >> {log}\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(InputError, match=r"photo\.jpg: PostScript; convert it to PNG"):
        images.decode(encoded(SCENE, "EPS"), name="photo.jpg")
    assert not log.exists()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ", "AppleDouble"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "a video"),
        (b"%PDF-1.7\n", "PDF"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"PK\3\4\x14\0", "ZIP archive"),
    ],
)
def test_a_stranger_is_called_by_its_name(data: bytes, what: str) -> None:
    with pytest.raises(InputError, match=rf"^IMG_1\.jpg: .*{what}"):
        images.decode(data, name="IMG_1.jpg")


def test_large_texts_and_profiles_in_png_files_do_not_matter() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 2_000_000, zip=True)
    for data in (
        encoded(SCENE, "PNG", pnginfo=text),
        encoded(SCENE, "PNG", icc_profile=bytes(1_500_000)),
    ):
        np.testing.assert_array_equal(images.decode(data, name="x"), np.asarray(SCENE))


def test_damaged_metadata_in_a_png_file_does_not_matter() -> None:
    clear = SCENE.convert("P", palette=Image.Palette.ADAPTIVE)
    data = encoded(clear, "PNG", transparency=0, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    damaged = data.replace(b"eXIfMM", b"eXIfXX")  # its checksum is now wrong
    assert damaged != data
    expected = images.decode(data, name="x")
    np.testing.assert_array_equal(images.decode(damaged, name="x"), expected)
    assert (expected == 255).all(axis=2).any()  # the transparency is kept


def test_a_jpeg_beyond_the_bound_is_reduced_and_other_formats_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_files, "MAX_DECODED_BYTES", 11 * 400 * 300)
    large = SCENE.resize((1600, 1200))
    assert images.decode(encoded(large, "JPEG"), name="x").shape == (300, 400, 3)
    with pytest.raises(InputError, match=r"x: .*too many pixels to decode \(1600×1200, mode RGB\)"):
        images.decode(encoded(large, "PNG"), name="x")


def test_a_jpeg_that_pillow_takes_for_a_bomb_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert images.decode(encoded(SCENE, "JPEG"), name="x").shape == (24, 32, 3)


def test_a_small_tiff_that_unpacks_to_gigabytes_is_refused_before_decoding() -> None:
    """10,000 × 10,000 floats; the file holds only one empty strip."""
    entries = [
        (256, 4, 10_000),  # width
        (257, 4, 10_000),  # height
        (258, 3, 32),  # bits per sample
        (259, 3, 8),  # deflate
        (262, 3, 1),  # black is zero
        (273, 4, 200),  # offset of the strip
        (277, 3, 1),  # samples per pixel
        (278, 4, 10_000),  # rows per strip
        (279, 4, 20),  # bytes of the strip
        (339, 3, 3),  # floats
    ]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4)
    data = data.ljust(200, b"\0") + zlib.compress(bytes(1000))
    with pytest.raises(InputError, match=r"too many pixels to decode \(10000×10000, mode F\)"):
        images.decode(data, name="x.tif")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(InputError, match=rf"{name}: not a regular file"):
            images.decode(tmp_path / name, name=name)
    with pytest.raises(InputError, match=r"cannot read the file|not a regular file"):
        images.decode(tmp_path, name="folder.jpg")


def test_a_file_of_too_many_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 100)
    (tmp_path / "a.bmp").write_bytes(encoded(SCENE, "BMP"))
    with pytest.raises(
        InputError, match=r"a\.bmp: the file has [\d,]+ bytes; expected at most 100"
    ):
        images.decode(tmp_path / "a.bmp", name="a.bmp")


def test_pillow_prints_no_errors_of_its_own() -> None:
    entries = [(256, 8), (257, 8), (258, 8), (259, 1), (262, 2), (277, 169), (273, 99), (279, 64)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    data = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + directory + bytes(99)
    with pytest.raises(InputError, match=r"^x: this TIFF file is damaged, or"):
        images.decode(data, name="x")
    # Without any handler, Python prints what a library logs; pytest has handlers.
    assert any(isinstance(x, logging.NullHandler) for x in logging.getLogger("PIL").handlers)


def tiled_tiff(side: int, *odd: bytes) -> bytes:
    """A TIFF of 16 × 16 pixels whose one tile is compressed zeros; odd tags replace its own."""
    tile = zlib.compress(bytes(side * side))
    values = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    values |= {324: 8 + 2 + 12 * (10 + len(odd)) + 4, 325: len(tile)}
    replaced = {struct.unpack_from("<H", tag)[0] for tag in odd}
    kept = [struct.pack("<HHII", tag, 4, 1, x) for tag, x in values.items() if tag not in replaced]
    tags = sorted((*kept, *odd), key=lambda tag: struct.unpack_from("<H", tag)[0])
    directory = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(tags)
    return directory.ljust(values[324], b"\0") + tile


def test_tiles_larger_than_the_image_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert images.decode(tiled_tiff(32), name="x").shape == (16, 16, 3)
    monkeypatch.setattr(image_files, "MAX_DECODED_BYTES", 64 * 64 * 11 - 1)
    assert images.decode(tiled_tiff(32), name="x").shape == (16, 16, 3)
    with pytest.raises(InputError, match=r"^x: the image has too many pixels"):
        images.decode(tiled_tiff(64), name="x")


@pytest.mark.parametrize(
    ("tag", "odd"),
    [
        (322, [struct.pack("<HHII", 322, 1, 1, 64)]),  # a byte
        (322, [struct.pack("<HHII", 322, 17, 1, 40)]),  # a signed integer of 8 bytes
        (323, [struct.pack("<HHIf", 323, 11, 1, 64)]),  # a float
        (277, [struct.pack("<HHIi", 277, 9, 1, 1)]),  # a signed integer
        (322, [struct.pack("<HHII", 322, 4, 1, 64)] * 2),
        (322, [struct.pack("<HHII", 315, 2, 90, 9999)]),  # Pillow reads no tags after it
    ],
)
def test_tags_that_pillow_and_libtiff_read_differently_are_refused(
    tag: int, odd: list[bytes]
) -> None:
    with pytest.raises(InputError, match=rf"^x: tag {tag} of this TIFF file has type \d+, is"):
        images.decode(tiled_tiff(64, *odd), name="x")


def raw_tiff(pixels: np.ndarray, rows: int, offsets: list[int], *, planes: int = 1) -> bytes:
    """A TIFF of uncompressed strips; offsets are those in the pixels, uint8 [H, W, planes]."""
    height, width = pixels.shape[:2]
    start = 8 + 2 + 12 * 9 + 4
    bits, places = start, start + 2 * planes
    entries = [(256, 1, width), (257, 1, height), (258, planes, bits if planes > 2 else 8)]
    entries += [(259, 1, 1), (262, 1, 2 if planes > 2 else 1), (273, len(offsets), places)]
    entries += [(277, 1, planes), (278, 1, rows), (284, 1, 1 if planes == 1 else 2)]
    directory = b"".join(
        struct.pack("<HHII", tag, 3 if tag == 258 else 4, count, value)
        for tag, count, value in entries
    )
    first = places + 4 * len(offsets)
    lists = struct.pack(f"<{planes}H", *[8] * planes)
    lists += struct.pack(f"<{len(offsets)}I", *(first + offset for offset in offsets))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return head + directory + bytes(4) + lists + np.moveaxis(pixels, 2, 0).tobytes()


def test_strips_that_repeat_the_image_are_refused() -> None:
    pixels, half = np.asarray(SCENE), 12 * 32
    offsets = [half * i for i in range(6)]
    np.testing.assert_array_equal(
        images.decode(raw_tiff(pixels, 12, offsets, planes=3), name="x"), pixels
    )
    grey = pixels[:, :, :1]
    images.decode(raw_tiff(grey, 12, [0, half] * 8), name="x")
    with pytest.raises(InputError, match=r"^x: the parts of this TIFF file repeat"):
        images.decode(raw_tiff(grey, 12, [0, half] * 9), name="x")


def test_parts_that_are_read_again_and_again_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow reads 64 KB for each of the strips that begin at the same place."""
    column = np.full((70_000, 1, 1), 9, np.uint8)
    monkeypatch.setattr(image_files, "MAX_PIECES", 1000)
    for offsets in (list(range(0, 70_000, 100)), [0] * 50):
        images.decode(raw_tiff(column, 100, offsets), name="x")
    with pytest.raises(InputError, match=r"^x: .*too many tiny or repeated parts"):
        images.decode(raw_tiff(column, 100, [0] * 700), name="x")


def in_parts(data: bytes) -> bytes:
    """Let the first scan of a baseline JPEG hold one of its three components."""
    place = data.index(b"\xff\xda")
    return data[:place] + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + data[place + 14 :]


@pytest.mark.parametrize("is_progressive", [True, False])
@pytest.mark.parametrize("size", [None, 100])
def test_coefficients_of_a_jpeg_in_several_scans_count(
    is_progressive: bool, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take two bytes each, at full size; colours have a quarter of the grey values' each."""
    baseline = encoded(SCENE.resize((1600, 1200)), "JPEG")
    data = encoded(SCENE.resize((1600, 1200)), "JPEG", progressive=True)
    data = data if is_progressive else in_parts(baseline)
    coefficients, reduced = 2 * 1600 * 1200 * 3 // 2, 11 * 200 * 150
    monkeypatch.setattr(image_files, "MAX_DECODED_BYTES", coefficients + reduced)
    assert images.decode(data, name="x", size=size).shape == (150, 200, 3)
    monkeypatch.setattr(image_files, "MAX_DECODED_BYTES", coefficients + reduced - 1)
    assert images.decode(baseline, name="x", size=size).size >= 300 * 400 * 3 // 4
    with pytest.raises(InputError, match=r"^x: the image has too many pixels"):
        images.decode(data, name="x", size=size)


@pytest.mark.parametrize("is_progressive", [True, False])
def test_a_jpeg_of_too_many_scans_is_refused(
    is_progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    progressive = encoded(SCENE, "JPEG", progressive=True)
    data = progressive if is_progressive else in_parts(encoded(SCENE, "JPEG"))
    scan = data[data.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr(image_files, "MAX_SCANNED_PIXELS", 32 * 24 * 20)
    images.decode(data[:-2] + scan * 10 + data[-2:], name="x")
    with pytest.raises(InputError, match=r"^x: a JPEG with too many scans; save it again$"):
        images.decode(data[:-2] + scan * 20 + data[-2:], name="x")


def codestream(
    width: int,
    height: int,
    *,
    tile: int = 2**31,
    depths: bytes = b"\7\7\7",
    layers: int = 1,
    levels: int = 0,
    block: tuple[int, int] = (6, 6),
    precincts: bytes = b"",
    marker: bytes = b"",
) -> bytes:
    """A JPEG 2000 codestream with one empty tile; blocks are exponents of two."""
    sizes = struct.pack(">H8IH", 0, width, height, 0, 0, tile, tile, 0, 0, len(depths))
    sizes += b"".join(bytes((depth, 1, 1)) for depth in depths)
    style = struct.pack(">BBHB", bool(precincts), 0, layers, 0)
    style += bytes((levels, block[0] - 2, block[1] - 2, 0, 1)) + precincts
    segments = ((0x51, sizes), (0x52, style), (0x5C, bytes((64, *[64] * (3 * levels + 1)))))
    head = b"".join(struct.pack(">BBH", 255, kind, 2 + len(x)) + x for kind, x in segments)
    part = struct.pack(">HHHIBB", 0xFF90, 10, 0, 0, 0, 1) + b"\xff\x93"
    return b"\xff\x4f" + head + marker + part + bytes(64) + b"\xff\xd9"


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        # Four bands of half size: 4 × ((510 >> 7) + 2) × ((254 >> 7) + 2) = 60 blocks of 64 × 64.
        ({}, 500 * 60 + 2 * 2 * 60),
        ({"levels": 1}, 500 * (60 + 24) + 2 * 2 * 2 * 60),
        ({"layers": 9}, 500 * 60 + 2 * 10 * 60),
        ({"layers": 9, "levels": 1}, 500 * (60 + 24) + 2 * 10 * 2 * 60),
        ({"block": (2, 2)}, 504 * 4 * 65 * 33),
        ({"precincts": b"\x55"}, 504 * 4 * 17 * 9),  # blocks of at most 16 × 16
        ({"marker": b"\xff\x53\0\x09\0\0\0\0\0\0\1"}, 504 * 4 * 65 * 33),  # one component's
        ({"marker": b"\xff\x53\0\x0a\0\1\0\4\4\0\1\x22"}, 504 * 4 * 129 * 65),
        ({"width": 1, "height": 2**17, "block": (10, 2)}, 504 * 4 * (2**14 + 1)),  # a column
    ],
)
def test_blocks_of_jpeg_2000_count(
    options: dict[str, int], needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenJPEG keeps 500 bytes of each block, so 150 bytes of a file could take 100 GB."""
    data = codestream(**{"width": 512, "height": 256, **options})
    most = 512 * 256 * 19 + 8900 + 3 * (1100 + needed)
    monkeypatch.setattr(image_files, "MAX_DECODED_BYTES", most)
    image_files.bound_memory(image_files.open_image(data, "x"), "x")
    monkeypatch.setattr(image_files, "MAX_DECODED_BYTES", most - 1)
    with pytest.raises(InputError, match=r"too many pixels to decode \(\d+×\d+, mode RGB\)"):
        image_files.bound_memory(image_files.open_image(data, "x"), "x")


def jp2(*boxes: bytes) -> bytes:
    """A JP2 file that claims 100 × 100 pixels of three components; its last boxes are given."""
    about = b"\0\0\0\x16ihdr" + struct.pack(">IIHBBBB", 100, 100, 3, 7, 7, 0, 0)
    about += b"\0\0\0\x0fcolr" + struct.pack(">BBBI", 1, 0, 0, 16)
    head = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 "
    return head + struct.pack(">I4s", 8 + len(about), b"jp2h") + about + b"".join(boxes)


@pytest.mark.parametrize(
    "boxes",
    [
        [b"\0\0\0\0jp2c"],
        [b"\0\0\0\x0cfreexxxx", b"\0\0\0\0jp2c"],
        [b"\0\0\0\1free\0\0\0\0\0\0\0\x14xxxx", b"\0\0\0\1jp2c\0\0\0\0\0\0\0\xff"],
    ],
)
def test_tiles_and_components_of_the_codestream_count(boxes: list[bytes]) -> None:
    """OpenJPEG copies a table of each component for each tile, before Pillow sees their number."""
    whole = codestream(100, 100)
    assert images.decode(jp2(*boxes, whole), name="x").shape == (100, 100, 3)
    tiled = codestream(100, 100, tile=1, depths=b"\7" * 100)
    seen_by_pillow = ".*unable to determine J2K image mode"  # if the codestream follows at once
    with pytest.raises(InputError, match=rf"^x: (a JPEG 2000 file of too many|{seen_by_pillow})"):
        images.decode(jp2(*boxes, tiled), name="x")
    with pytest.raises(InputError, match=r"too many pixels to decode \(9000×9000, mode RGB\)"):
        images.decode(jp2(*boxes, codestream(9000, 9000)), name="x")
    later = whole[:2] + b"\xff\x30" + whole[2:]  # OpenJPEG skips unknown markers
    for data in (jp2(*boxes, later), jp2(*boxes[:-1]), jp2(b"\0\0\0\4free", *boxes, whole)):
        with pytest.raises(InputError, match=r"damaged: its codestream does not begin right"):
            images.decode(data, name="x")


def test_transforms_of_components_count_for_each_tile() -> None:
    transform = struct.pack(">HHHHH", 0xFF74, 60_006, 0, 257, 0) + bytes(59_998)
    images.decode(codestream(100, 100, marker=transform), name="x")
    images.decode(codestream(100, 100, tile=2), name="x")
    with pytest.raises(InputError, match=r"^x: a JPEG 2000 file of too many tiles"):
        images.decode(codestream(100, 100, tile=1, marker=transform), name="x")


def test_deep_components_of_jpeg_2000_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow and OpenJPEG keep four bytes each, and Pillow four of the pixel."""
    data = codestream(512, 512, depths=b"\x17\x17\x17")
    most = 512 * 512 * (4 + 3 * 8) + 8900 + 3 * (1100 + 504 * 4 * 25)
    monkeypatch.setattr(image_files, "MAX_DECODED_BYTES", most)
    images.decode(data, name="x")
    monkeypatch.setattr(image_files, "MAX_DECODED_BYTES", most - 1)
    with pytest.raises(InputError, match=r"too many pixels to decode"):
        images.decode(data, name="x")


def test_markers_of_blocks_are_read_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxcap.data.jpeg2000.MAX_BLOCK_MARKERS", 9)
    marker = b"\xff\x53\0\x09\0\0\0\4\4\0\1"
    images.decode(codestream(9, 9, marker=marker * 8), name="x")
    with pytest.raises(InputError, match=r"^x: a JPEG 2000 file of too many tiles"):
        images.decode(codestream(9, 9, marker=marker * 9), name="x")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_tiles_that_pillow_writes_are_read(mode: str) -> None:
    image = SCENE.convert("I;16" if mode == "I;16" else mode)
    for data in (
        encoded(image, "JPEG2000", tile_size=(9, 7), tile_offset=(2, 3), offset=(4, 5)),
        encoded(image, "JPEG2000", no_jp2=True),
        encoded(image, "TIFF", compression="tiff_lzw"),
        encoded(image, "TIFF", compression="tiff_lzw", big_tiff=True),
    ):
        assert images.decode(data, name="x").shape == (24, 32, 3)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("end", [b"", b"\xff", bytes(512), b"\r\n"])
def test_a_jpeg_may_lack_its_end_marker_but_no_row(end: bytes, progressive: bool) -> None:
    data = encoded(SCENE, "JPEG", progressive=progressive)
    rows = images.decode(data, name="a.jpg")
    np.testing.assert_array_equal(images.decode(data[:-2] + end, name="a.jpg"), rows)
    assert to_stored(data[:-2], name="a.jpg") == data
    for lost in (60, 300):
        with pytest.raises(InputError, match=r"^a\.jpg: cannot decode this image: .* truncated"):
            images.decode(data[:-lost], name="a.jpg")


def test_a_small_file_takes_less_memory_than_a_large_one() -> None:
    """95 million pixels need just over 1 GB to become RGB."""

    def bitmap(size: int) -> bytes:
        head = struct.pack("<2sIHHI", b"BM", size, 0, 0, 54)
        about = struct.pack("<IiiHHIIiiII", 40, 10_000, 9_500, 1, 24, 0, 0, 0, 0, 0, 0)
        return (head + about).ljust(size, b"\0")

    image_files.bound_memory(image_files.open_image(bitmap(10**7), "x"), "x")
    with pytest.raises(InputError, match=r"too many pixels to decode \(10000×9500, mode RGB\)"):
        image_files.bound_memory(image_files.open_image(bitmap(10**6), "x"), "x")


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG"])
def test_files_of_tiny_parts_are_read_in_bounded_time(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encoded(SCENE.convert("P") if kind == "GIF" else SCENE, kind)
    place, parts = {
        "PNG": (33, struct.pack(">I4sI", 0, b"ABCD", zlib.crc32(b"ABCD")) * 3000),
        "GIF": (whole.find(b",\0\0\0\0"), b"\x21\xfe" + b"\1a" * 3000 + b"\0"),  # a comment
        "JPEG": (2, b"\xff\xe5\0\2" * 3000),
    }[kind]
    data = whole[:place] + parts + whole[place:]
    expected = images.decode(whole, name="x")
    np.testing.assert_array_equal(images.decode(data, name="x"), expected)
    monkeypatch.setattr(image_files, "MAX_PIECES", 1000)
    np.testing.assert_array_equal(images.decode(whole, name="x"), expected)
    with pytest.raises(InputError, match=r"^x: .*too many tiny or repeated parts"):
        images.decode(data, name="x")


def test_large_bitmaps_of_plain_text_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = b"P3 1 1 255 9 9 9 "
    assert (images.decode(plain, name="x") == 9).all()
    monkeypatch.setattr(image_files, "MAX_PLAIN_BYTES", 10)
    with pytest.raises(InputError, match=r"^x: a bitmap of 17 bytes as plain text"):
        images.decode(plain, name="x")
