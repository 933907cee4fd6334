"""Captioning with a finished run: any image, any batch, and what cannot be captioned."""

from __future__ import annotations

import gzip
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jaxcap.captioning import image_reading
from jaxcap.captioning.image_reading import read_image
from jaxcap.captioning.loaded_model import LoadedModel, caption, load
from jaxcap.captioning.results import Captioned, Word
from jaxcap.data.images import decode, resize
from jaxcap.datasets.prepare import Records, load_source
from jaxcap.messages.errors import InputError
from jaxcap.model.captioner import create_captioner, init_variables
from jaxcap.storage import manifest, published
from jaxcap.storage.trained import TrainedCaptioner
from jaxcap.text.vocabulary import BOS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_programs")]


@pytest.fixture(scope="module")
def run(tiny_run) -> LoadedModel:
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
    forms: dict[str, Any] = {
        "path": path,
        "str": str(path),
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "file": io.BytesIO(data),
        "pillow": image,
        "array": np.asarray(image),
        "alpha": encoded(image.convert("RGBA")),
        "sideways": encoded(sideways, exif=exif),
    }
    results = list(run.caption(forms.values()))
    forms["file"].seek(0)
    for each, together in zip(forms.values(), results, strict=True):
        (alone,) = run.caption(each)  # without a list around it
        assert texts([alone]) == texts([together])
        assert alone.image is not None
        assert np.array_equal(decode(alone.image, name="x"), decode(together.image, name="x"))
    assert texts(results) == texts(results[:1]) * len(forms)
    np.testing.assert_allclose(log_probs(results), log_probs(results[:1] * len(forms)), atol=1e-4)
    names = [each.name for each in results]
    assert names[:4] == [str(path), str(path), "image 2", "image 3"]


def test_a_file_that_cannot_be_read_is_a_bad_image(scenes, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(scenes[0]["image"])
    with path.open(encoding="utf-8") as as_text:
        assert "codec can't decode" in str(read_image(as_text, 0, sizes=[32]).error)
    assert "closed file" in str(read_image(as_text, 0, sizes=[32]).error)


def test_a_damaged_or_endless_file_of_an_archive_is_a_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zipfile, gzip, and http raise exceptions that are no OSError, and expand without limit."""
    cut = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(encoded(Image.new("RGB", (4, 4))))[:-9]))
    assert "ended before" in str(read_image(cut, 0, sizes=[4]).error)
    monkeypatch.setattr(image_reading, "MAX_FILE_BYTES", 1000)
    bomb = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(bytes(10**6))))
    assert read_image(bomb, 0, sizes=[4]).error == "image 0: more than 1,000 bytes"
    assert bomb.tell() == 1001


def test_paths_may_be_bytes(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (entry,) = os.scandir(os.fsencode(tmp_path))
    assert read_image(entry, 0, sizes=[4]).error is None


def test_texts_are_paths_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    read = read_image("~/a.png", 0, sizes=[4])
    assert (read.name, read.error, len(read.pixels)) == (str(tmp_path / "a.png"), None, 1)
    address = "https://example.org/a.png"
    assert str(read_image(address, 0, sizes=[4]).error).startswith(f"{address}: an address, not a")


def test_an_array_of_pictures_is_several_images(run):
    pictures = np.zeros((3, 8, 8, 3), np.uint8)
    assert [each.error for each in run.caption(pictures)] == [None] * 3


def test_few_images_take_a_small_batch(run, scenes):
    shapes: list[int] = []
    model = replace(run)

    def decode(variables, images):
        shapes.append(len(images[0].pixels))
        return run.decode(variables, images)

    model.__dict__["decode"] = decode
    for count in (1, 2, 8, 9, 16, 17):
        list(model.caption([scenes[0]["image"]] * count, batch_size=16))
    assert shapes == [1, 8, 8, 16, 16, 16, 16]
    shapes.clear()
    model.warm_up((1, 4))
    assert shapes == [1, 4]
    with pytest.raises(InputError, match="batch_size is 0"):
        model.warm_up([0])


def test_loading_keeps_programs_for_the_next_process(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    script = f"""
import jaxcap, numpy as np
model = jaxcap.load({str(tiny_run)!r})
print(next(model.caption(np.zeros((8, 8, 3), "uint8"))).captions[0].text)
"""
    cache, found = tmp_path / "jaxcap", []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
        )
        assert done.stderr == ""
        found.append(done.stdout)
        programs = [path for path in (cache / "programs").iterdir() if path.stat().st_size > 1000]
        assert len(programs) == 1
        assert list((cache / "xla").iterdir())
    assert found[0] == found[1]
    assert load(tiny_run, cache=False).store is None


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
    nowhere = [tmp_path / name for name in ("missing.jpg", "x" * 300 + ".jpg", "a\0b.jpg")]
    paths = [tmp_path / name for name in bad] + [*nowhere, tmp_path]
    mixed = [paths[0], good[0], *paths[1:4], good[1], good[2], *paths[4:], good[3]]
    expected = [None, 0, None, None, None, 1, 2, *[None] * 4, 3]
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
                named = str(item).replace("\0", r"\x00")
                assert result.error.startswith(f"{named}: ")
                assert len(result.error.removeprefix(named)) > 10
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
        run.caption([], batch_size=0)


def test_captions_that_nobody_fetches_are_dropped_quietly_when_python_ends(tiny_run):
    script = f"""
import jaxcap, numpy as np
images = [np.zeros((32, 32, 3), "uint8")] * 9
captions = jaxcap.load({str(tiny_run)!r}).caption(images, batch_size=2)
print(next(captions).error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("None\n", "", 0)


@pytest.mark.parametrize("bad", [False, True])
def test_reading_is_three_batches_ahead_at_most(run, scenes, bad):
    taken = 0

    def counted():
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b"no image" if bad else scenes[0]["image"]

    results = run.caption(counted(), batch_size=2)
    for number in range(1, 60):
        next(results)
        time.sleep(0.002)  # for the thread to take what it may
        # Of bad images a batch may have four for each place in it.
        assert taken <= number + (2 + 1) * (8 if bad else 2) + 3 * 2
    results.close()
    time.sleep(0.05)
    before = taken
    time.sleep(0.05)
    assert taken == before


def test_an_error_of_the_iterator_comes_after_the_images_before_it(run, scenes):
    def breaking():
        yield from [scenes[0]["image"]] * 3
        raise KeyError("no such record")

    results = run.caption(breaking(), batch_size=2)
    assert [next(results).error for _ in range(3)] == [None] * 3
    with pytest.raises(KeyError, match="no such record"):
        next(results)


def test_what_is_computed_does_not_wait_for_a_slow_iterator(run, scenes):
    list(run.caption([scenes[0]["image"]] * 2, batch_size=2))  # compiles
    seen = threading.Event()

    def slow():
        yield from [scenes[0]["image"]] * 2
        assert seen.wait(timeout=60)
        yield scenes[1]["image"]

    results = run.caption(slow(), batch_size=2)
    assert [next(results).name for _ in range(2)] == ["image 0", "image 1"]
    seen.set()
    assert [each.name for each in results] == ["image 2"]


def test_a_large_photograph_looks_the_same_decoded_at_a_fraction_of_its_size(run):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    large = encoded(coarse.resize((1600, 1200), Image.Resampling.BICUBIC), "JPEG", quality=95)
    (pixels,) = read_image(large, 0, sizes=[32]).pixels
    difference = pixels.astype(int) - resize(decode(large, name="x"), 32)
    assert np.abs(difference).mean() < 0.5
    assert np.abs(difference).max() <= 4


def test_bad_images_alone(run):
    results = list(run.caption(iter([b"bad", 5, None, b""]), batch_size=1))
    assert [each.captions for each in results] == [()] * 4
    assert "expected a path, bytes or pixels, found int" in str(results[1].error)


def test_another_search(run, scenes):
    images = [record["image"] for record in scenes][:4]
    greedy = list(run.with_search(beam_size=1).caption(images, batch_size=4))
    assert [len(each.captions) for each in greedy] == [1] * 4
    for beam_size in (0, -1, len(run.vocabulary) + 1):
        with pytest.raises(InputError, match=f"beam size {beam_size}: give 1"):
            run.with_search(beam_size=beam_size)
    for method, option in [
        ("beam", "temperature"),
        ("beam", "seed"),
        ("greedy", "beam_size"),
        ("sample", "length_penalty"),
        ("beam", "groups"),
    ]:
        with pytest.raises(
            InputError, match=rf"search\.{option} has no effect .* '{method}'; leave"
        ):
            run.with_search(method=method, **{option: 1})
    with pytest.raises(InputError, match=r"no option 'beamsize'\. Did you mean 'beam_size'\?"):
        run.with_search(beamsize=3)
    with pytest.raises(InputError, match=r"search\.beam_size is 'three' \(str\); expected int"):
        run.with_search(beam_size="three")
    with pytest.raises(InputError, match=r"search\.banned_words is 'dog'; expected a list of str"):
        run.with_search(banned_words="dog")
    with pytest.raises(InputError, match=r"n_best is 4, but search\.beam_size is 3"):
        run.with_search(beam_size=3, n_best=4)
    mean = run.with_search(length_normalisation="average", n_best=2)
    with pytest.raises(
        InputError, match=r"length_penalty has no effect .* 'average'; leave it out"
    ):
        mean.with_search(length_penalty=0.5)
    assert [len(each.captions) for each in mean.with_search(beam_size=1).caption(images[:1])] == [1]
    sampled = run.with_search(method="sample", temperature=0.5, max_length=3)
    assert sampled.with_search(top_k=2, banned_words=()).config.search.temperature == 0.5


def test_words_multiply_to_the_caption_and_say_where_the_model_looked(run, scenes):
    images = [Image.open(io.BytesIO(record["image"])) for record in scenes]
    for image, each in zip(images, run.caption(images), strict=True):
        best, second = each.captions
        assert [word.text for word in best.words] == best.text.split()
        product = np.prod([word.probability for word in best.words])
        product *= np.exp(sum(best.word_log_probs[len(best.words) :]))  # and the end
        assert product == pytest.approx(np.exp(best.log_prob), rel=1e-4)
        assert best.confidence == pytest.approx(product ** (1 / len(best.word_log_probs)))
        assert best.grid is not None
        for word in best.words:
            assert word.attention is not None
            assert word.attention.shape == best.grid
            assert word.attention.sum() == pytest.approx(1, abs=1e-5)
            assert word.attention_map(*image.size).shape == (image.height, image.width)
        assert second.grid is None
    (without,) = run.caption(images[:1], attention=False)
    assert without.captions[0].words[0].attention is None
    with pytest.raises(ValueError, match=r"the word '.*' has no attention"):
        without.captions[0].words[0].attention_map(8, 8)


def test_an_attention_map_lies_over_the_image():
    word = Word("dog", 0.5, np.array([[0.6, 0.0], [0.0, 0.0]], np.float32))
    # The cells' centres are at 0 and 1, those of four pixels at -0.25, 0.25, 0.75 and 1.25.
    of_four = np.array([1, 0.75, 0.25, 0])
    np.testing.assert_allclose(word.attention_map(4, 4), np.outer(of_four, of_four), atol=1e-6)
    np.testing.assert_allclose(word.attention_map(4, 2), np.outer([1, 0], of_four), atol=1e-6)


def sibling(run: LoadedModel, image_size: int) -> TrainedCaptioner:
    """Return an untrained captioner with the same vocabulary for images of another size."""
    config = replace(run.config, data=replace(run.config.data, image_size=image_size))
    variables = init_variables(run.model, jax.random.key(7), image_size=image_size)
    return replace(run.single, config=config, variables=variables, directory=Path("sibling"))


def ensemble(*members: TrainedCaptioner) -> LoadedModel:
    return LoadedModel(members)


def test_an_ensemble_of_equals_is_each_of_them(run, tiny_run, scenes):
    images = [record["image"] for record in scenes][:4]
    alone = list(run.caption(images, batch_size=4))
    for together in (load(tiny_run, tiny_run), load([tiny_run, str(tiny_run)])):
        assert len(together.members) == 2
        found = list(together.caption(images, batch_size=4))
        assert texts(found) == texts(alone)
        np.testing.assert_allclose(log_probs(found), log_probs(alone), atol=1e-4)


def test_an_ensemble_shows_each_member_images_of_its_own_size(run, scenes):
    other = sibling(run, 48)
    together = ensemble(run.single, other).with_search(beam_size=1)
    images = [record["image"] for record in scenes][:3]
    found = list(together.caption(images, batch_size=4))
    arrays = [decode(image, name="x") for image in images]
    pixels = [np.stack([resize(array, size) for array in arrays]) for size in (32, 48)]
    # The first word by hand: the mean of both models' probabilities, without <pad>, <bos>, <unk>.
    tokens = np.full((3, 1, 2), BOS, np.int32)
    mean = np.mean(
        [
            jax.nn.softmax(jax.jit(r.model.apply)(r.variables, p, tokens).logits[:, 0, 0])
            for r, p in zip(together.members, pixels, strict=True)
        ],
        axis=0,
    )
    mean[:, [0, 1, 3]] = 0
    for row, each in enumerate(found):
        first = each.captions[0].word_log_probs[0]
        assert first == pytest.approx(np.log(mean[row].max()), abs=1e-4)
        assert each.captions[0].words[0].text == run.vocabulary.words[mean[row].argmax()]


def test_the_mean_of_trainings_of_one_captioner_is_a_captioner(run, scenes):
    rng = np.random.default_rng(0)
    noise = jax.tree.map(
        lambda x: 0.01 * np.std(x) * rng.standard_normal(np.shape(x)), run.variables
    )
    above, below = (
        replace(
            run.single,
            directory=Path(name),
            variables=jax.tree.map(lambda x, e, s=sign: x + s * e, run.variables, noise),
        )
        for name, sign in (("runs/above", 1), ("runs/below", -1))
    )
    mean = ensemble(above, below).averaged()
    assert len(mean.members) == 1
    assert mean.directory == Path("runs/above+below")
    for found, expected in zip(
        jax.tree.leaves(mean.variables), jax.tree.leaves(run.variables), strict=True
    ):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    images = [record["image"] for record in scenes][:4]
    assert texts(list(mean.caption(images))) == texts(list(run.caption(images)))
    assert run.averaged() is run
    here = ensemble(replace(above, directory=Path(".")), below).averaged()  # the folder one is in
    assert here.directory == Path(f"{Path.cwd().name}+below")


def test_the_mean_of_captioners_that_began_apart_is_refused(run):
    apart = ensemble(run.single, sibling(run, 32))
    with pytest.raises(InputError, match=r"sibling and .* did not start from the same captioner"):
        apart.averaged()
    config = replace(run.config, decoder=replace(run.config.decoder, hidden_size=16))
    model = create_captioner(config, len(run.vocabulary))
    variables = init_variables(model, jax.random.key(0), image_size=32)
    smaller = replace(run.single, variables=variables)
    with pytest.raises(InputError, match="parameters of different shapes"):
        ensemble(run.single, smaller).averaged()


def test_an_ensemble_has_one_vocabulary(tiny_run, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "other")
    vocabulary = json.loads((copy / "vocabulary.json").read_text())
    vocabulary["words"][-1] = "zebra"
    (copy / "vocabulary.json").write_text(json.dumps(vocabulary))
    for step in (copy / "checkpoints").iterdir():
        shutil.copyfile(copy / "vocabulary.json", step / "vocabulary.json")
        manifest.write_manifest(step, manifest.read_content(step) or manifest.Content(0))
    with pytest.raises(InputError, match=r"different vocabularies.*zebra"):
        load(tiny_run, copy)
    with pytest.raises(InputError, match="No model given"):
        load([])


def test_a_published_model_captions_as_its_run(run, scenes, tmp_path):
    images = [record["image"] for record in scenes][:4]
    published.write(run.single, tmp_path / "model.safetensors")
    found = list(load(tmp_path / "model.safetensors").caption(images, batch_size=4))
    assert found == list(run.caption(images, batch_size=4))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "no config.json"),
        ("vocabulary.json", None, "no vocabulary.json"),
        ("config.json", "{", "config.json: not a readable configuration"),
        ("config.json", '{"data": {"nam": "shapes"}}', "no option 'nam'.*Did you mean 'name'"),
        ("config.json", "[]", "config.json: expected a table"),
        ("config.json", '{"encoder": {"name": "resnet18"}}', "is not the one that config"),
        ("vocabulary.json", "{", "vocabulary.json: not a readable vocabulary"),
        ("vocabulary.json", '{"words": ["a"]}', "begins with <pad>"),
    ],
)
def test_a_damaged_run_says_what_is_wrong(tiny_run, tmp_path, name, content, message):
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    (copy / name).unlink() if content is None else (copy / name).write_text(content)
    with pytest.raises(InputError, match=f"(?s){message}"):
        load(copy)


@pytest.mark.parametrize(
    ("section", "option", "value", "message"),
    [
        ("decoder", "dtype", "bfloat16", "decoder.dtype: 'bfloat16', expected 'float32'"),
        ("data", "image_size", 64, "data.image_size: 64, expected 32"),
        ("data", "normalisation", "NFKC", "data.normalisation: 'NFKC', expected 'NFC'"),
        ("search", "beam_size", 5, None),
        ("evaluation", "split", "train", None),
        ("data", "data_dir", "/moved", None),
        ("encoder", "learning_rate_factor", 0.5, None),
        ("data", "captions_per_image", 4, None),
        ("encoder", "dtype", "bfloat16", "encoder.dtype: 'bfloat16', expected 'float32'"),
        ("data", "name", "coco", "data.name: 'coco', expected 'shapes'"),
        ("evaluation", "metric", "CIDEr-E", "evaluation.metric: 'CIDEr-E', expected 'CIDEr-D'"),
        ("recognition", "people_share", 0.5, "recognition.people_share: 0.5, expected 0.0"),
        (
            "recognition",
            "detected_words",
            ("dog",),
            "recognition.detected_words: ('dog',), expected ()",
        ),
    ],
)
def test_a_configuration_is_compared_with_that_of_the_checkpoint(
    tiny_run, tmp_path, section, option, value, message
):
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    config[section][option] = value
    (copy / "config.json").write_text(json.dumps(config))
    if message is None:
        assert getattr(getattr(load(copy).config, section), option) == value
        return
    with pytest.raises(InputError) as caught:
        load(copy)
    first, found, way_out = str(caught.value).split("\n")
    assert first.startswith(f"{copy / 'config.json'} is not the one that the checkpoint")
    assert found == f"  {message}"
    assert way_out.endswith("config.json over it.")
    shutil.copyfile(way_out.split(", or copy ")[1].removesuffix(" over it."), copy / "config.json")
    load(copy)


def test_a_vocabulary_is_compared_with_that_of_the_checkpoint(tiny_run, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    path = copy / "vocabulary.json"
    vocabulary = json.loads(path.read_text())
    words = vocabulary["words"]
    expected = f"word 4: {words[5]!r}, expected {words[4]!r}"
    words[4:6] = words[5], words[4]  # as many words: the weights still fit
    path.write_text(json.dumps(vocabulary))
    with pytest.raises(InputError, match=re.escape(f"{path} is not the one")) as caught:
        load(copy)
    assert expected in str(caught.value)
    words[4:6] = words[5], words[4]
    path.write_text(json.dumps(vocabulary, indent=3))  # other white space, the same words
    load(copy)


def test_a_run_that_is_none(tiny_run, tmp_path):
    with pytest.raises(InputError, match="no such run directory"):
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


@pytest.mark.parametrize("nothing", [None, 3])
def test_what_is_no_image_is_refused_at_once(run, nothing) -> None:
    untyped = inspect.unwrap(LoadedModel.caption)  # outside the tests, nothing checks types
    with pytest.raises(InputError, match=f"an image, or several in a list .* not {nothing}"):
        untyped(run, nothing)


def test_a_folder_stands_for_its_images(run, scenes, tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}: no images in this folder"):
        run.caption(tmp_path)
    (tmp_path / "b").mkdir()
    paths = [tmp_path / "a.png", tmp_path / "b" / "c.png"]
    for path, record in zip(paths, scenes, strict=False):
        path.write_bytes(encoded(Image.fromarray(decode(record["image"], name="x"))))
    (tmp_path / "notes.txt").write_text("notes")
    found = list(run.caption(str(tmp_path)))
    assert [result.name for result in found] == list(map(str, paths))
    assert texts(found) == texts(list(run.caption(paths)))
    with pytest.raises(InputError, match="takes one image"):
        caption(tmp_path)


def test_who_takes_the_results_for_one_result_is_told(run, scenes):
    results = run.caption(scenes[0]["image"])
    assert repr(results) == "<Results: for result in …, or next(…) for the first>"
    with pytest.raises(AttributeError, match=r"next\(model.caption\(image\)\)\.plot"):
        results.plot()
    with pytest.raises(AttributeError, match=r"has a 'captions'"):
        _ = results.captions
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = results.colour
    assert next(results).captions
