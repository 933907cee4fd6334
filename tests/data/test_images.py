"""Decoding against images with known pixels."""

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxcap.data import images
from jaxcap.messages.errors import InputError

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
RED = np.full((16, 24, 3), (220, 30, 40), np.uint8)


def encode(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def png(width, height, bits, colour_type, rows):
    """Write a PNG by hand, since Pillow cannot write every kind."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def test_png_comes_back_exactly_from_every_kind_of_input(tmp_path):
    expected = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    data = encode(Image.fromarray(expected), format="PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for given in (data, path, Image.open(path), expected):
        decoded = images.decode(given, name="a.png")
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 90, (90, 90, 90)),
        ("LA", (90, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),  # a fifth of red over white
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 128 * 257, (128, 128, 128)),
        ("I", 128 * 257, (128, 128, 128)),
        ("F", 0.2, (51, 51, 51)),
    ],
)
def test_modes(mode, colour, expected):
    image = Image.new(mode, (3, 2), colour)
    np.testing.assert_array_equal(images.decode(image, name="x"), np.full((2, 3, 3), expected))


def test_palette_with_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putpixel((1, 0), 1)
    data = encode(image, format="PNG", transparency=b"\x00\xff")  # entry 0 is transparent
    np.testing.assert_array_equal(images.decode(data, name="x"), [[(255, 255, 255), (200, 100, 0)]])


def test_sixteen_bits_are_scaled_not_clipped():
    grey = png(3, 1, 16, 0, [struct.pack(">HHH", 0, 32896, 65535)])
    np.testing.assert_array_equal(images.decode(grey, name="x")[0, :, 0], [0, 128, 255])
    colour = png(1, 1, 16, 2, [struct.pack(">HHH", 65535, 32896, 0)])
    np.testing.assert_array_equal(images.decode(colour, name="x"), [[(255, 128, 0)]])
    array = np.array([[0, 32896, 65535]], np.uint16)
    np.testing.assert_array_equal(images.decode(array, name="x")[0, :, 0], [0, 128, 255])


def tiff(values):
    """A greyscale TIFF file of one row."""
    values = np.array([values[0]], values[1])
    kind, size = {"u": 1, "i": 2, "f": 3}[values.dtype.kind], values.nbytes
    tags = [
        (256, values.shape[1]), (257, 1), (258, 8 * values.itemsize), (259, 1), (262, 1),
        (273, 8), (277, 1), (278, 1), (279, size), (339, kind),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + size) + values.tobytes()
    return head + struct.pack("<H", len(tags)) + directory + bytes(4)


@pytest.mark.parametrize(
    ("values", "grey"),
    [
        (([0, 2048, 4095], "uint16"), [0, 128, 255]),  # 12 bits in 16
        (([0, 32896, 65535], "uint16"), [0, 128, 255]),
        (([0, 100, 200], "uint16"), [0, 100, 200]),
        (([0, 128, 255], "uint32"), [0, 128, 255]),
        (([0, 2**31, 2**32 - 1], "uint32"), [0, 128, 255]),
        (([-1000, 0, 1000], "int16"), [0, 128, 255]),  # Hounsfield units
        (([-1000, 0, 1000], "int32"), [0, 128, 255]),
        (([0.0, 0.2, 0.4], "float32"), [0, 51, 102]),
        (([0.0, 127.5, 255.0], "float32"), [0, 128, 255]),
        (([0.0, 5e-4, 1e-3], "float32"), [0, 128, 255]),
        (([0.0, np.nan, 4.0, np.inf], "float32"), [0, 0, 255, 255]),
        (([np.nan, np.nan], "float32"), [0, 0]),
        (([0.0, 0.2, 0.4], "<f8"), [0, 51, 102]),
    ],
)
def test_the_range_of_wide_pixels_is_scaled_to_8_bits(values, grey):
    np.testing.assert_array_equal(images.decode(tiff(values), name="x")[0, :, 0], grey)


def test_the_depth_of_pixels_that_are_not_read_is_named():
    with pytest.raises(InputError, match=r"not read: .* \(64 bits a pixel; convert it to 8 or 16"):
        images.decode(tiff(([1, 2], "uint64")), name="x")


def test_a_pixel_far_outside_does_not_darken_the_others():
    row = [*np.linspace(0, 2, 1001), 1e30]
    grey = images.decode(tiff((row, "float32")), name="x")[0, :, 0]
    np.testing.assert_array_equal(grey[[0, 500, 1000, 1001]], [0, 127, 255, 255])


def test_cmyk_jpeg_is_read_as_adobe_stores_it_inverted():
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow: red
    adobe = encode(ink, format="JPEG", quality=100)
    start = adobe.index(b"\xff\xee")
    assert adobe[start + 4 : start + 9] == b"Adobe"
    (length,) = struct.unpack(">H", adobe[start + 2 : start + 4])
    plain = adobe[:start] + adobe[start + 2 + length :]
    np.testing.assert_allclose(images.decode(adobe, name="x")[8, 8], (255, 0, 0), atol=3)
    # Files without Adobe's marker follow the same convention, as Pillow and browsers hold.
    np.testing.assert_allclose(images.decode(plain, name="x")[8, 8], (255, 0, 0), atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    """Rotate an upright image as a camera would, and expect it upright again."""
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[0, :] = (255, 0, 0)
    upright[:, 0] = (0, 255, 0)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), format="PNG", exif=exif)
    np.testing.assert_array_equal(images.decode(data, name="x"), upright)


def test_damaged_exif_is_ignored():
    data = encode(Image.fromarray(RED), format="JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert images.decode(data, name="x").shape == (16, 24, 3)


def test_size_lets_a_jpeg_be_smaller_but_never_below_it():
    data = encode(Image.fromarray(RED).resize((800, 480)), format="JPEG")
    decoded = images.decode(data, name="x", size=100)
    assert decoded.shape == (120, 200, 3)  # a quarter; an eighth would be 60 high
    np.testing.assert_allclose(decoded[60, 100], RED[0, 0], atol=4)
    assert images.decode(data, name="x", size=2000).shape == (480, 800, 3)


def test_one_pixel_and_very_many():
    assert images.decode(encode(Image.new("L", (1, 1)), format="PNG"), name="x").shape == (1, 1, 3)
    wide = images.decode(encode(Image.new("1", (20_000, 500)), format="PNG"), name="x")
    assert wide.shape == (500, 20_000, 3)


JPEG = encode(Image.fromarray(RED), format="JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html>404</html>", "HTML page"),
        (b"no image at all", "not an image.* begins with b'no image at all'"),
        (JPEG[:-6], "truncated"),
        (JPEG[:20], "this JPEG file is damaged, or of a kind that is not read: "),
        (png(100_000, 100_000, 8, 0, []), r"too many pixels to decode \(100000×100000\)"),
        (encode(Image.fromarray(NOISE), format="PNG")[:-2000], "truncated"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
    ],
)
def test_undecodable_data_is_an_error_that_names_the_image(data, reason):
    with pytest.raises(InputError, match=rf"(?s)^holiday\.jpg: .*{reason}"):
        images.decode(data, name="holiday.jpg")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"a\.jpg: cannot read the file"):
        images.decode(tmp_path / "a.jpg", name="a.jpg")


def test_pillow_does_not_warn_even_in_threads(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # 384 pixels: Pillow warns, not refuses
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        threads = [
            threading.Thread(target=images.decode, args=(JPEG,), kwargs={"name": "x"})
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not heard


def test_resize_keeps_the_whole_image_and_antialiases():
    halves = np.zeros((40, 100, 3), np.uint8)
    halves[:, 50:] = 255
    small = images.resize(halves, 10)
    assert small.shape == (10, 10, 3)
    assert (small[:, :4] < 8).all()
    assert (small[:, 6:] > 247).all()
    checkerboard = np.indices((64, 64)).sum(0) % 2 * 255
    grey = images.resize(np.repeat(checkerboard[:, :, None], 3, 2).astype(np.uint8), 8)
    assert np.abs(grey.astype(int) - 127).max() < 12  # sampled without a filter: 0 or 255
    assert images.resize(small, 10) is small


def test_random_crop_draws_the_documented_area_and_aspect():
    """If pixels hold their own position, a crop shows where it was taken."""
    height, width = 200, 240
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.arange(width)
    ramp[..., 1] = np.arange(height)[:, None]
    rng = np.random.default_rng(0)
    shares, aspects = [], []
    for _ in range(400):
        crop = images.random_crop(ramp, 48, rng, min_scale=0.25).astype(float)
        # From the first pixel's centre to the last's is 47/48 of the crop.
        w = (crop[24, 40, 0] - crop[24, 8, 0]) * 48 / 32 / width
        h = (crop[40, 24, 1] - crop[8, 24, 1]) * 48 / 32 / height
        shares.append(w * h)
        aspects.append(w / h)
    assert 0.23 < min(shares) < 0.29
    assert 0.96 < max(shares) < 1.03
    assert abs(np.mean(shares) - 0.625) < 0.03  # uniform in [0.25, 1]
    assert 0.72 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.4


def test_random_crop_depends_only_on_its_generator():
    image = np.random.default_rng(1).integers(0, 256, (30, 20, 3), np.uint8)
    first, second = (
        images.random_crop(image, 16, np.random.default_rng(7), min_scale=0.3) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    whole = images.random_crop(image, 16, np.random.default_rng(7), min_scale=1.0)
    np.testing.assert_array_equal(whole, images.resize(image, 16))
    one = images.random_crop(image[:1, :1], 16, np.random.default_rng(7), min_scale=0.1)
    np.testing.assert_array_equal(one, np.broadcast_to(image[0, 0], (16, 16, 3)))
    with pytest.raises(ValueError, match="min_scale"):
        images.random_crop(image, 16, np.random.default_rng(7), min_scale=0.0)


def test_color_jitter_changes_brightness_contrast_and_saturation_but_no_hue():
    image = np.full((4, 4, 3), (120, 60, 60), np.uint8)
    image[:2] = (90, 45, 45)
    seen = []
    for seed in range(50):
        found = images.color_jitter(image, np.random.default_rng(seed), strength=0.3)
        again = images.color_jitter(image, np.random.default_rng(seed), strength=0.3)
        np.testing.assert_array_equal(found, again)
        bright, dark = found[3, 3].astype(float), found[0, 0].astype(float)
        assert bright[0] > bright[1] == bright[2]  # still red
        seen.append((bright.mean(), (bright[0] - bright[1]) / bright[0], bright[0] / dark[0]))
    for values in np.transpose(seen):
        assert max(values) > 1.1 * min(values)
    untouched = images.color_jitter(image, np.random.default_rng(0), strength=0.0)
    np.testing.assert_array_equal(untouched, image)
    with pytest.raises(ValueError, match="strength"):
        images.color_jitter(image, np.random.default_rng(0), strength=1.0)


def test_flip():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(
        images.flip(image), [[(3, 4, 5), (0, 1, 2)], [(9, 10, 11), (6, 7, 8)]]
    )


def test_arrays_that_would_fill_the_memory_are_refused() -> None:
    huge = np.broadcast_to(np.uint8(0), (10**6, 10**6, 3))
    with pytest.raises(InputError, match=r"shape .* takes 3,000,000,000,000 bytes; at most"):
        images.decode(huge, name="x")
