"""Captioning with a finished run: any image, any batch, and what cannot be captioned."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcap.data.prepare import Records, load_source
from jaxcap.errors import InputError
from jaxcap.inference import Captioned, Run, load


@pytest.fixture(scope="module")
def run(tiny_run) -> Run:
    return load(tiny_run)


@pytest.fixture(scope="module")
def scenes(tiny_data) -> Records:
    return load_source("shapes", "dev", tiny_data)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def texts(results: list[Captioned]) -> list[list[str]]:
    return [[caption.text for caption in each.captions] for each in results]


def log_probs(results: list[Captioned]) -> np.ndarray:
    return np.array([[caption.log_prob for caption in each.captions] for each in results])


def test_captions_are_sentences_best_first(run, scenes):
    results = list(run.caption([record["image"] for record in scenes]))
    assert len(results) == 6
    for each in results:
        assert each.error is None
        assert len(each.captions) == 2  # search.beam_size
        best = each.captions[0]
        assert best.text.split()
        assert not set(best.text.split()) & {"<pad>", "<bos>", "<eos>", "<unk>"}
        assert all(caption.log_prob < 0 for caption in each.captions)


def test_batches_and_neighbours_change_nothing(run, scenes):
    images = [record["image"] for record in scenes]
    alone = [next(run.caption([image], batch_size=1)) for image in images]
    for batch_size in (4, 8):
        together = list(run.caption(images, batch_size=batch_size))
        assert texts(together) == texts(alone)
        np.testing.assert_allclose(log_probs(together), log_probs(alone), atol=1e-4)
    backward = list(run.caption(images[::-1], batch_size=4))
    assert texts(backward[::-1]) == texts(alone)


def test_one_image_in_every_form_has_one_caption(run, scenes, tmp_path):
    data = scenes[0]["image"]
    path = tmp_path / "Föto 東京.png"
    path.write_bytes(data)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    sideways = image.transpose(Image.Transpose.ROTATE_90)  # upright again by its orientation
    exif = Image.Exif()
    exif[0x0112] = 6
    forms = {
        "path": path,
        "str": str(path),
        "bytes": data,
        "pillow": image,
        "array": np.asarray(image),
        "alpha": encoded(image.convert("RGBA")),
        "sideways": encoded(sideways, exif=exif),
    }
    results = list(run.caption(forms.values()))
    assert texts(results) == texts(results[:1]) * len(forms)
    np.testing.assert_allclose(log_probs(results), log_probs(results[:1] * len(forms)), atol=1e-4)
    names = [each.name for each in results]
    assert names[:5] == [str(path), str(path), "image 2", "image 3", "image 4"]


def test_odd_images_are_captioned(run):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (40, 30), np.uint8)
    colour = Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8))
    images = [
        grey,
        grey[..., None],
        grey.astype(np.uint16) * 257,
        encoded(Image.fromarray(grey)),
        encoded(Image.fromarray(grey.astype(np.uint16) * 257)),
        encoded(colour.convert("CMYK"), "JPEG"),
        encoded(colour.convert("P"), "GIF"),
        encoded(colour.convert("1")),
        encoded(Image.new("RGB", (1, 1), "red")),
        encoded(Image.new("RGB", (5000, 4000), "blue"), "JPEG"),
        np.zeros((3, 2000, 3), np.uint8),
    ]
    results = list(run.caption(images, batch_size=4))
    assert [each.error for each in results] == [None] * len(images)
    assert texts(results[:1]) == texts(results[1:2]) == texts(results[2:3])


def test_bad_images_are_named_and_neither_stop_nor_shift_the_others(run, scenes, tmp_path):
    good = [record["image"] for record in scenes]
    jpeg = encoded(Image.new("RGB", (64, 64), "red"), "JPEG")
    bad: dict[str, bytes] = {
        "text.jpg": b"not an image",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "empty.png": b"",
        "page.jpg": b"<!DOCTYPE html><html>404</html>",
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    paths = [tmp_path / name for name in bad] + [tmp_path / "missing.jpg", tmp_path]
    mixed = [paths[0], good[0], *paths[1:4], good[1], good[2], *paths[4:], good[3]]
    expected = [None, 0, None, None, None, 1, 2, None, None, 3]
    alone = texts(list(run.caption(good)))
    for batch_size in (1, 4, 8):
        results = list(run.caption(mixed, batch_size=batch_size))
        assert len(results) == len(mixed)
        for item, result, number in zip(mixed, results, expected, strict=True):
            if number is None:
                assert isinstance(item, Path)
                assert result.captions == ()
                assert result.name == str(item)
                assert result.error is not None
                assert result.error.startswith(f"{item}: ")
                assert len(result.error.removeprefix(str(item))) > 10
            else:
                assert result.error is None
                assert texts([result]) == alone[number : number + 1]


def test_arrays_that_are_no_images_are_bad_images(run):
    arrays = [np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8), np.zeros(5, np.uint8)]
    for number, result in enumerate(run.caption(arrays)):
        assert result.error is not None
        assert result.error.startswith(f"image {number}: ")


def test_captioning_is_lazy_and_of_nothing_gives_nothing(run, scenes):
    assert list(run.caption([])) == []

    def endless():
        while True:
            yield scenes[0]["image"]

    results = run.caption(endless(), batch_size=4)
    assert [next(results).error for _ in range(6)] == [None] * 6
    with pytest.raises(InputError, match="batch_size is 0"):
        next(run.caption([], batch_size=0))


def test_another_search(run, scenes):
    images = [record["image"] for record in scenes][:4]
    greedy = list(run.with_search(beam_size=1).caption(images, batch_size=4))
    assert [len(each.captions) for each in greedy] == [1] * 4
    for beam_size in (0, -1, len(run.vocabulary) + 1):
        with pytest.raises(InputError, match=f"beam size {beam_size}: give 1"):
            run.with_search(beam_size=beam_size)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "no config.json"),
        ("vocabulary.json", None, "no vocabulary.json"),
        ("config.json", "{", "config.json: no readable configuration"),
        ("config.json", '{"data": {"nam": "shapes"}}', "no option 'nam'.*Did you mean 'name'"),
        ("config.json", "[]", "config.json: expected a table"),
        ("config.json", '{"encoder": {"name": "resnet18"}}', "another model"),
        ("vocabulary.json", "{", "vocabulary.json: no readable vocabulary"),
        ("vocabulary.json", '{"words": ["a"]}', "begins with <pad>"),
    ],
)
def test_a_damaged_run_says_what_is_wrong(tiny_run, tmp_path, name, content, message):
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    (copy / name).unlink() if content is None else (copy / name).write_text(content)
    with pytest.raises(InputError, match=f"(?s){message}"):
        load(copy)


def test_a_run_that_is_none(tiny_run, tmp_path):
    with pytest.raises(InputError, match="there is no such run directory"):
        load(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no config\.json and no vocabulary\.json and no c"):
        load(tmp_path)
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    for step in (copy / "checkpoints").iterdir():
        shutil.rmtree(step)
    with pytest.raises(InputError, match="no checkpoint yet"):
        load(str(copy))


def test_loading_writes_nothing(tiny_run, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    before = sorted((p, p.stat().st_mtime_ns) for p in copy.rglob("*"))
    load(copy)
    assert sorted((p, p.stat().st_mtime_ns) for p in copy.rglob("*")) == before
