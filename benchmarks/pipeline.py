"""Measure how many images per second the input pipeline delivers, without a model."""

from __future__ import annotations

import statistics
import time

from jaxcap.config import DataConfig
from jaxcap.data.captions import Captions
from jaxcap.data.pipeline import TrainingSet, tokenised_captions, training_batches
from jaxcap.datasets.prepare import load_source
from jaxcap.text.vocabulary import Vocabulary


def images_per_second(data: str, side: int, batch_size: int, rounds: int) -> float:
    """Return the median over turns of ten batches, decoded, cropped, and flipped by two threads.

    Args:
        data: a prepared data set; its first 2,000 training images are read.
        side: side of the cropped squares, in pixels.
    """
    config = DataConfig(
        name=data, image_size=side, crop_min_scale=0.7, flip=True, length_buckets=(20,)
    )
    source = load_source(config.name, "train[:2000]")
    texts = tokenised_captions(source)
    words = Vocabulary.from_captions((w for of_image in texts for w in of_image), min_count=1)
    batches = training_batches(
        [TrainingSet(source, Captions.encode(texts, words, config=config))],
        config=config,
        batch_size=batch_size,
        seed=0,
        first_step=0,
        steps=10**6,
    )
    rates = []
    for _ in range(1 + rounds):  # the first finds batches that were read ahead
        began = time.perf_counter()
        for _ in range(10):
            next(batches)
        rates.append(10 * batch_size / (time.perf_counter() - began))
    return statistics.median(rates[1:])


if __name__ == "__main__":
    print(f"{images_per_second('flickr8k', 224, 32, 5):.0f} images/s")
