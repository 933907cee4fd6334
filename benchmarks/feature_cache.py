"""Compare training a decoder from cached features with training from pixels.

    python benchmarks/feature_cache.py
    python benchmarks/feature_cache.py --decoder.name lstm

Time optimizer steps of a decoder on a frozen encoder (ResNet-50 at 224 pixels, random weights),
including reading and decoding. The two modes alternate every few steps, so that other load affects
both. Processor time is reported because it is less sensitive to load. Each image has five captions
of 20 tokens, padded or cut. The images are the first of a prepared data set, and the vocabulary is
that of its training split. Without a data set, they are noise and random words.
"""

from __future__ import annotations

import functools
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import tyro
from PIL import Image
from rich.console import Console

from jaxcap.config import Config, DataConfig, DecoderConfig, EncoderConfig, TrainConfig, validate
from jaxcap.data.captions import Captions, SplitCaptions
from jaxcap.data.feature_cache import EncodedImages
from jaxcap.data.pipeline import Source, TrainingSet, tokenised_captions, training_batches
from jaxcap.datasets.prepare import load_source
from jaxcap.devices.huge_pages import restart_with_huge_pages
from jaxcap.messages.errors import InputError
from jaxcap.model.captioner import Captioner, create_captioner, init_variables
from jaxcap.text.vocabulary import Vocabulary
from jaxcap.training.frozen_features import cached_features
from jaxcap.training.step import optimizer
from jaxcap.training.step.losses import cross_entropy
from jaxcap.training.step.state import TrainState
from jaxcap.training.step.train_step import train_step


@dataclass(frozen=True)
class Arguments:
    """Time training steps from pixels and from cached features."""

    encoder: str = "resnet50"
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    data: str = "flickr8k"
    images: int = 320
    image_size: int = 224
    batch_size: int = 32
    steps: int = 2
    """Steps per turn."""
    turns: int = 5
    """Turns of each mode."""


def main(arguments: Arguments) -> None:
    """Print the images per second of both modes, and their ratio."""
    with tempfile.TemporaryDirectory() as cache:
        config = validate(
            Config(
                data=DataConfig(
                    name=arguments.data, image_size=arguments.image_size, length_buckets=(20,)
                ),
                encoder=EncoderConfig(
                    name=arguments.encoder,
                    trainable=False,
                    cache_features=True,
                    cache_dir=cache,
                ),
                decoder=arguments.decoder,
                train=TrainConfig(batch_size=arguments.batch_size),
            )
        )
        source, texts = _data(config, arguments.images)
        vocabulary = Vocabulary.from_captions(
            (words for of_image in texts for words in of_image), min_count=config.data.min_count
        )
        captions = Captions.encode(texts[: len(source)], vocabulary, config=config.data)
        model = create_captioner(config, len(vocabulary))
        variables = init_variables(model, jax.random.key(0), image_size=config.data.image_size)
        print(
            f"{arguments.encoder} at {arguments.image_size} pixels, {config.decoder.name} decoder, "
            f"{len(vocabulary)} words, {arguments.batch_size} images a step"
        )
        began = time.perf_counter()
        features = cached_features(
            source,
            "train",
            model=model,
            variables=variables,
            config=config,
            console=Console(stderr=True),
        )
        seconds = time.perf_counter() - began
        print(f"extracted once: {len(source) / seconds:.1f} images/s, compiling included")
        _compare(arguments, config, model, variables, source, captions, features)


def _compare(
    arguments: Arguments,
    config: Config,
    model: Captioner,
    variables: Any,
    source: Source,
    captions: Captions,
    features: EncodedImages,
) -> None:
    tx = optimizer.create_optimizer(config.train, config.encoder, steps_per_epoch=1000)
    step = jax.jit(
        functools.partial(train_step, model=model, tx=tx, objective=cross_entropy),
        donate_argnums=0,
    )
    total = 1 + arguments.steps * arguments.turns
    rng = jax.random.key(0)

    def run(features: EncodedImages | None) -> Iterator[float]:
        """Return the loss after each step."""
        state = TrainState.create(jax.tree.map(jax.numpy.array, variables), tx)
        for batch in training_batches(
            [TrainingSet(source, captions, features)],
            config=config.data,
            batch_size=arguments.batch_size,
            seed=0,
            first_step=0,
            steps=total,
        ):
            state, metrics = step(state, batch, rng)
            jax.block_until_ready(state)
            yield float(metrics.loss / metrics.words)

    ways = {"pixels": run(None), "features": run(features)}
    losses = {name: [next(way)] for name, way in ways.items()}  # compiles
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(arguments.turns):
        for name, way in ways.items():
            began = time.perf_counter(), time.process_time()
            losses[name] += [next(way) for _ in range(arguments.steps)]
            seconds[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    images = arguments.steps * arguments.batch_size
    for name, turns in seconds.items():
        rates = [images / clock for clock, _ in turns]
        print(
            f"from {name}: median {statistics.median(rates):.1f} images/s "
            f"(of {', '.join(f'{rate:.1f}' for rate in rates)}), "
            f"{1000 * statistics.median(cpu for _, cpu in turns) / images:.0f} ms of processor "
            "time an image"
        )
    for kind, number in (("clock", 0), ("processor time", 1)):
        ratios = [
            p[number] / f[number]
            for p, f in zip(seconds["pixels"], seconds["features"], strict=True)
        ]
        print(
            f"ratio by {kind}: median {statistics.median(ratios):.2f} "
            f"(of {', '.join(f'{ratio:.2f}' for ratio in ratios)})"
        )
    gap = max(abs(a - b) / a for a, b in zip(losses["pixels"], losses["features"], strict=True))
    print(f"largest relative difference of losses over {total} steps: {gap:.1e}")


def _data(config: Config, images: int) -> tuple[Source, SplitCaptions]:
    """Return the first records, and the words of all captions of the split."""
    try:
        source = load_source(config.data.name, f"train[:{images}]")
        everything = load_source(config.data.name, "train")
    except InputError as error:
        print(f"Random images instead of a data set: {error}")
        rng = np.random.default_rng(0)
        source = _Noise(_noise(rng, config.data.image_size) for _ in range(images))
        return source, tokenised_captions(source)
    return source, tokenised_captions(everything)


class _Noise(list[dict[str, Any]]):
    def __repr__(self) -> str:
        return "Noise"


def _noise(rng: np.random.Generator, side: int) -> dict[str, Any]:
    """Return a smooth random image and five captions of 9 to 13 words out of 500."""
    coarse = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8))
    file = io.BytesIO()
    coarse.resize((side, side)).save(file, "JPEG")
    captions = [
        " ".join(f"word{n}" for n in rng.integers(0, 500, rng.integers(9, 14))) for _ in range(5)
    ]
    return {"image": file.getvalue(), "image_id": "noise", "captions": captions}


if __name__ == "__main__":
    restart_with_huge_pages()  # as train.py does
    main(tyro.cli(Arguments))
