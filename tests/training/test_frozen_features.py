"""Cached features: the same losses and captions as from pixels, and never stale ones."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from configurations import changed
from PIL import Image
from rich.console import Console

from jaxcap.captioning.loaded_model import load
from jaxcap.config import Config, load_config, save_config, validate
from jaxcap.data import images, pipeline
from jaxcap.datasets.prepare import load_source
from jaxcap.evaluation import evaluate_source, read_metrics
from jaxcap.messages.errors import InputError
from jaxcap.model.captioner import Captioner, create_captioner, init_variables
from jaxcap.text.vocabulary import SPECIALS
from jaxcap.training import experiment, frozen_features, train
from jaxcap.training.frozen_features import cached_features

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_programs")]

VOCABULARY = 9


@pytest.fixture(scope="module")
def run(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of two epochs: frozen, without augmentation, from cached features."""
    directory = tmp_path_factory.mktemp("features")
    config = changed(
        tiny_config,
        data__crop_min_scale=1.0,
        encoder__trainable=False,
        encoder__cache_features=True,
        encoder__cache_dir=str(directory / "cache"),
        train__epochs=2,
        train__log_every=1,
    )
    quietly(config, directory / "run")
    return directory / "run"


@pytest.fixture
def config(run: Path, tmp_path: Path) -> Config:
    """The configuration of that training, with an empty cache."""
    return changed(load_config(run / "config.json"), encoder__cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set with 13 training images."""
    monkeypatch.setattr(frozen_features, "CHUNK", 4)


def model_of(config: Config) -> tuple[Captioner, dict[str, Any]]:
    model = create_captioner(config, VOCABULARY)
    return model, init_variables(model, jax.random.key(0), image_size=config.data.image_size)


def extract(config: Config) -> tuple[np.ndarray, str]:
    """Return the features of the training split under random weights, and the output."""
    model, variables = model_of(config)
    console = Console(file=io.StringIO(), width=100)
    found = cached_features(
        load_source("shapes", "train", config.data.directory),
        "train",
        model=model,
        variables=variables,
        config=config,
        console=console,
    )
    return found.rows, console.file.getvalue()


def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the numbers of the images encoded from now on."""
    numbers: list[int] = []

    def watched(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for batch in pipeline.evaluation_batches(*args, **kwargs):
            numbers.extend(batch.numbers[batch.valid].tolist())
            yield batch

    monkeypatch.setattr(frozen_features, "evaluation_batches", watched)
    return numbers


def losses(workdir: Path) -> np.ndarray:
    return np.array([x["loss"] for x in read_metrics(workdir / "metrics.jsonl") if "loss" in x])


def quietly(config: Config, workdir: Path) -> None:
    train(config, workdir, console=Console(quiet=True))


def test_cached_features_are_those_of_the_encoder_and_are_computed_once(
    config, small_chunks, monkeypatch
):
    numbers = encoded(monkeypatch)
    found, printed = extract(config)
    assert numbers == list(range(50))
    assert f"{found.nbytes / 1000:.1f} kB in {config.encoder.cache_dir}" in printed
    assert "0 images done" in printed
    model, variables = model_of(config)
    records = load_source("shapes", "train", config.data.directory)
    pixels = np.stack([pipeline.load_image(r, config=config.data, rng=None) for r in records])
    expected = model.apply(variables, jax.numpy.asarray(pixels), method="encode")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    again, printed = extract(config)
    assert len(numbers) == 50
    assert "images done" not in printed
    np.testing.assert_array_equal(again, found)


def test_recognised_words_are_cached_with_the_features(config, small_chunks):
    words = (*SPECIALS, "red", "circle", "dog", "cat", "square")
    config = changed(config, recognition__words=3, recognition__detected=4)
    model = create_captioner(config, len(words), words=words)
    size = config.data.image_size
    variables = init_variables(model, jax.random.key(0), image_size=size)
    records = load_source("shapes", "train", config.data.directory)
    found = cached_features(
        records,
        "train",
        model=model,
        variables=variables,
        config=config,
        console=Console(quiet=True),
    )
    numbers = [17, 0]
    features, recognised = found.take(np.array(numbers))
    pixels = np.stack(
        [pipeline.load_image(records[i], config=config.data, rng=None) for i in numbers]
    )
    recognise = jax.jit(functools.partial(model.apply, method="encode_and_recognise"))
    expected, seen = recognise(variables, pixels)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(recognised.probabilities, seen.probabilities, rtol=1e-4)
    np.testing.assert_array_equal(recognised.ids, seen.ids)


def test_a_killed_extraction_resumes_where_it_stopped(config, small_chunks, tmp_path, monkeypatch):
    save_config(config, tmp_path / "config.json")
    program = f"""
import sys, time
from pathlib import Path
import jax
from rich.console import Console
from jaxcap.training import frozen_features
from jaxcap.model.captioner import create_captioner, init_variables
from jaxcap.config import load_config
from jaxcap.datasets.prepare import load_source

whole = frozen_features.evaluation_batches
def slowly(*args, **kwargs):
    for number, batch in enumerate(whole(*args, **kwargs)):
        print(number, flush=True)  # so many chunks are written
        time.sleep(0.1)
        yield batch

frozen_features.evaluation_batches, frozen_features.CHUNK = slowly, 4
config = load_config(Path({str(tmp_path / "config.json")!r}))
model = create_captioner(config, {VOCABULARY})
frozen_features.cached_features(
    load_source("shapes", "train", config.data.directory), "train", model=model,
    variables=init_variables(model, jax.random.key(0), image_size=config.data.image_size),
    config=config, console=Console(quiet=True),
)
"""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": jax.default_backend(),
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    with process:
        while process.stdout.readline() not in ("5\n", ""):
            pass
        process.kill()
    assert process.returncode == -signal.SIGKILL

    numbers = encoded(monkeypatch)
    resumed, printed = extract(config)
    first = numbers[0]
    assert first >= 20  # five chunks of four, at least, were not computed again
    assert numbers == list(range(first, 50))
    assert f"; {first} images done" in printed
    whole, _ = extract(changed(config, encoder__cache_dir=str(tmp_path / "other")))
    np.testing.assert_array_equal(resumed, whole)


class Records(list[dict[str, Any]]):
    """A source with the same name whatever it holds."""

    def __repr__(self) -> str:
        return "Records('shapes/1.0.0', 'train')"


def directory_of(config: Config, records: Records, model: Captioner, variables: Any) -> Path:
    cache = frozen_features.find_cache(
        Path("cache"),
        records,
        "train",
        model=model,
        encoder={name: {"encoder": tree["encoder"]} for name, tree in variables.items()},
        encode=jax.jit(lambda variables, images: model.apply(variables, images, method="encode")),
        config=config,
    )
    return cache.directory


def test_whatever_features_depend_on_changes_the_key(config, monkeypatch):
    records = Records(list(load_source("shapes", "train", config.data.directory))[:6])
    model, variables = model_of(config)
    same = directory_of(config, records, model, variables)
    assert same.name.startswith("shapes-train-resnet_small-")

    def of_weights(name: str) -> Path:
        tree = jax.tree.map(np.array, variables)
        leaf = jax.tree.leaves(tree[name]["encoder"])[-1]
        leaf.flat[0] = np.nextafter(leaf.flat[0], np.float32(9))
        return directory_of(config, records, model, tree)

    def of_config(**options: Any) -> Path:
        other = changed(config, **options)
        return directory_of(other, records, create_captioner(other, VOCABULARY), variables)

    def of_model(**options: Any) -> Path:
        return directory_of(config, records, model.clone(**options), variables)

    def of_architecture(name: str) -> Path:
        other = changed(config, encoder__name=name)
        model = create_captioner(other, VOCABULARY)
        shapes = jax.eval_shape(lambda: init_variables(model, jax.random.key(0), image_size=32))
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        return directory_of(other, records, model, zeros)

    def of_records(other: list[dict[str, Any]]) -> Path:
        return directory_of(config, Records(other), model, variables)

    def of_resize() -> Path:
        """Code that makes other pixels of the same file."""
        with monkeypatch.context() as patch:
            patch.setattr(
                images, "resize", lambda x, s: np.array(Image.fromarray(x).resize((s, s), 0))
            )
            return directory_of(config, records, model, variables)

    scale = dataclasses.replace(model.preprocessing, scale=(60.0, 60.0, 60.0))
    others = {
        "one parameter in the last bit": of_weights("params"),
        "one batch statistic in the last bit": of_weights("batch_stats"),
        "image size": of_config(data__image_size=40),
        "type of computation": of_config(encoder__dtype="bfloat16"),
        "architecture": of_architecture("resnet18"),
        "preprocessing": of_model(preprocessing=scale),
        "order": of_records(records[::-1]),
        "number": of_records(records[:5]),
        "another photograph": of_records([*records[:3], records[0], *records[4:]]),
        "resizing": of_resize(),
    }
    assert len({same, *others.values()}) == 1 + len(others), others
    # What they do not depend on: the decoder, the captions, where things lie.
    for options in (
        {"decoder__hidden_size": 8},
        {"train__seed": 5},
        {"encoder__cache_dir": "elsewhere"},
    ):
        assert of_config(**options) == same
    assert of_records([{**record, "captions": ["other"]} for record in records]) == same


def test_the_program_is_part_of_the_key(config):
    """The same weights in a network with, for example, another activation."""
    records = Records(list(load_source("shapes", "train", config.data.directory))[:2])
    model, variables = model_of(config)
    encoder = {name: {"encoder": tree["encoder"]} for name, tree in variables.items()}

    def directory(encode: Any) -> Path:
        cache = frozen_features.find_cache(
            Path("cache"),
            records,
            "train",
            model=model,
            encoder=encoder,
            encode=jax.jit(encode),
            config=config,
        )
        return cache.directory

    def encode(variables: Any, images: Any) -> Any:
        return model.apply(variables, images, method="encode")

    assert directory(encode) == directory(encode)
    assert directory(encode) != directory(lambda v, x: jax.nn.relu6(encode(v, x)))


def test_losses_and_scores_are_those_of_pixels(run, config, tmp_path):
    quietly(changed(config, encoder__cache_features=False), tmp_path / "plain")
    assert not (tmp_path / "cache").exists()
    cached, plain = losses(run), losses(tmp_path / "plain")
    assert len(cached) == 12
    assert cached[-1] < 0.8 * cached[0]
    # Not bit for bit: XLA compiles the encoder by itself here, and as a part of the step there,
    # and Adam makes a rounding error of a gradient near zero as large as any other step.
    np.testing.assert_allclose(cached[0], plain[0], rtol=1e-6)
    np.testing.assert_allclose(cached, plain, rtol=1e-4)
    scores = [
        [x["dev/CIDEr-D"] for x in read_metrics(each / "metrics.jsonl") if "dev/CIDEr-D" in x]
        for each in (run, tmp_path / "plain")
    ]
    assert len(scores[0]) == 2
    assert scores[0] == pytest.approx(scores[1])
    # The encoder is in both checkpoints, and as it was.
    encoders = [
        [tree["encoder"] for tree in load(each, best=False).variables.values()]
        for each in (run, tmp_path / "plain")
    ]
    for one, other in zip(*map(jax.tree.leaves, encoders), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_directory_of_the_run_captions_pixels_as_training_did_features(run, tmp_path):
    moved = load(shutil.copytree(run, tmp_path / "moved"), best=False)
    evaluation = evaluate_source(
        load_source("shapes", "dev", moved.config.data.directory),
        decode=moved.decode,
        variables=moved.variables,
        vocabulary=moved.vocabulary,
        config=moved.config,
        report=lambda *_: None,
    )
    logged = [x for x in read_metrics(run / "metrics.jsonl") if "dev/CIDEr-D" in x][-1]
    assert evaluation.corpus == pytest.approx(
        {name: logged[f"dev/{name}"] for name in evaluation.corpus}
    )


def test_a_second_run_decodes_no_image_and_is_the_same(run, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "load_image", lambda *_, **__: pytest.fail("decoded"))
    quietly(load_config(run / "config.json"), tmp_path / "second")
    np.testing.assert_array_equal(losses(tmp_path / "second"), losses(run))


def test_training_resumes_without_its_cache_and_with_the_option_changed(
    run, config, tmp_path, monkeypatch
):
    class KilledError(Exception):
        pass

    def killed(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for step, batch in enumerate(pipeline.training_batches(*args, **kwargs), start=1):
            if step == 9:
                raise KilledError
            yield batch

    monkeypatch.setattr(experiment, "training_batches", killed)
    with pytest.raises(KilledError):
        quietly(config, tmp_path / "run")
    monkeypatch.undo()
    shutil.copytree(tmp_path / "run", tmp_path / "uncached")
    shutil.rmtree(tmp_path / "cache")

    quietly(config, tmp_path / "run")
    np.testing.assert_array_equal(losses(tmp_path / "run"), losses(run))
    plain = changed(config, encoder__cache_features=False, encoder__cache_dir=None)
    quietly(plain, tmp_path / "uncached")
    np.testing.assert_allclose(losses(tmp_path / "uncached"), losses(run), rtol=1e-4)
    assert not load_config(tmp_path / "uncached" / "config.json").encoder.cache_features


def test_a_finished_training_needs_no_cache(run, config, tmp_path):
    quietly(config, shutil.copytree(run, tmp_path / "run"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder__trainable": True}, r"trainable is true; give --encoder\.no-trainable, or"),
        ({"data__flip": True}, r"data\.flip is true; give --data\.no-flip, or --encoder\.no-cache"),
        (
            {"data__crop_min_scale": 0.5, "encoder__trainable": True},
            r"true and data\.crop_min_scale is 0\.5; give --encoder\.no-trainable --data\.crop-min",
        ),
        ({"data__crop_min_scale": 0.5}, r"crop_min_scale is 0\.5; give --data\.crop-min-scale 1"),
        ({"data__color_jitter": 0.2}, r"color_jitter is 0\.2; give --data\.color-jitter 0"),
    ],
)
def test_features_that_change_are_not_cached(config, tmp_path, options, message):
    other = changed(config, **options)
    with pytest.raises(InputError, match=message):
        validate(other)
    with pytest.raises(InputError, match=message):
        quietly(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    validate(changed(other, encoder__cache_features=False))
