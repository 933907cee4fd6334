"""Stored images against Pillow's own reading of the same files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from jaxcap.data import images
from jaxcap.datasets.stored_images import to_stored
from jaxcap.messages.errors import InputError


def gradient(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """An image without symmetry: red grows to the right, green downward."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 60)], -1)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


ODD = {
    "CMYK JPEG": encoded(gradient(40, 30, "CMYK"), "JPEG"),
    "grey JPEG": encoded(gradient(40, 30, "L"), "JPEG"),
    "sideways JPEG": encoded(gradient(40, 30), "JPEG", exif=exif(6)),
    "16-bit PNG": encoded(
        Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50), "PNG"
    ),
    "palette PNG": encoded(gradient(40, 30).quantize(16), "PNG"),
    "transparent PNG": encoded(gradient(40, 30, "RGBA"), "PNG"),
    "MPO": encoded(
        gradient(40, 30), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))]
    ),
}
OTHER = {
    "WebP": encoded(gradient(40, 30), "WEBP", quality=60),
    "sideways WebP": encoded(gradient(40, 30), "WEBP", exif=exif(8)),
    "GIF": encoded(gradient(40, 30), "GIF"),
    "moving GIF": encoded(
        gradient(40, 30), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 30))]
    ),
    "BMP": encoded(gradient(40, 30), "BMP"),
    "TIFF": encoded(gradient(40, 30), "TIFF"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("max_side", [None, 40, 4000])
def test_jpeg_and_png_files_are_stored_unchanged(kind: str, max_side: int | None) -> None:
    assert to_stored(ODD[kind], name=kind, max_side=max_side) == ODD[kind]


@pytest.mark.parametrize("kind", OTHER)
@pytest.mark.parametrize("max_side", [None, 40])
def test_other_formats_become_png_with_the_same_pixels(kind: str, max_side: int | None) -> None:
    stored = to_stored(OTHER[kind], name=kind, max_side=max_side)
    with Image.open(io.BytesIO(stored)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        plain = np.array(image)
    np.testing.assert_array_equal(plain, images.decode(OTHER[kind], name=kind))
    # The gradient is where it was: upright, first frame.
    upright = plain if plain.shape[:2] == (30, 40) else np.rot90(plain, -1)
    expected = np.array(gradient(40, 30)).astype(int)
    assert np.abs(upright - expected).mean() < 12


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((640, 480), 256, (256, 192)),
        ((480, 640), 256, (192, 256)),
        ((1000, 10), 100, (100, 1)),
        ((1000, 2), 100, (100, 1)),
        ((512, 512), 256, (256, 256)),  # a JPEG decodes to this very size by itself
        ((257, 200), 256, (256, 199)),
        ((256, 200), 256, (256, 200)),
        ((30, 20), 256, (30, 20)),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_max_side(
    size: tuple[int, int], max_side: int, expected: tuple[int, int], format: str
) -> None:
    source = encoded(gradient(*size), format)
    with Image.open(io.BytesIO(to_stored(source, name="x", max_side=max_side))) as image:
        assert image.size == expected
        if size != expected:
            assert image.format == "JPEG"
        middle = np.array(image.convert("RGB"))[expected[1] // 2, expected[0] // 2]
    assert abs(int(middle[0]) - 127) < 14
    if expected[1] > 1:  # else there are hardly any rows, and no middle one
        assert abs(int(middle[1]) - 127) < 14


def test_a_sideways_photograph_is_made_upright_when_it_is_made_smaller() -> None:
    source = encoded(gradient(400, 300), "JPEG", exif=exif(6))  # 6: turn by 90° clockwise
    stored = to_stored(source, name="x", max_side=100)
    with Image.open(io.BytesIO(stored)) as image:
        assert image.size == (75, 100)
        assert 0x0112 not in image.getexif()
        pixels = np.array(image).astype(int)
    expected = np.array(gradient(400, 300).transpose(Image.Transpose.ROTATE_270).resize((75, 100)))
    assert np.abs(pixels - expected).mean() < 3


def test_scaled_images_stay_close_to_the_original() -> None:
    """Compare with Pillow's own scaling without JPEG, by peak signal-to-noise ratio."""
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    source = rough.resize((800, 600), Image.Resampling.BICUBIC)
    stored = to_stored(encoded(source, "PNG"), name="x", max_side=200)
    with Image.open(io.BytesIO(stored)) as image:
        error = np.array(image).astype(float) - np.array(source.resize((200, 150)))
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 38


@pytest.mark.parametrize("max_side", [None, 16])
@pytest.mark.parametrize("kind", ["grey JPEG", "palette PNG", "WebP"])
def test_damage_anywhere_in_a_file_is_found(kind: str, max_side: int | None) -> None:
    data = (ODD | OTHER)[kind]
    for cut in (0, 10, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(InputError, match=r"^a\.jpg: "):
            to_stored(data[:cut], name="a.jpg", max_side=max_side)
