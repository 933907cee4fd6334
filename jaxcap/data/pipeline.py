"""Turn records into batches, as a pure function of the seed and the step.

The images of a step, their augmentation and the padded length of their captions depend only on
(seed, step), so the position in the data *is* the step. A resumed run continues exactly where it
stopped, however many threads read ahead. Each host reads its own rows of every batch, without
communication.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Int, UInt8

from jaxcap.config import DataConfig
from jaxcap.data import images
from jaxcap.data.batch import Batch
from jaxcap.data.captions import Captions, SplitCaptions, split_captions
from jaxcap.data.feature_cache import EncodedImages
from jaxcap.data.mixture import Turns
from jaxcap.data.simulated_words import SimulatedWords
from jaxcap.messages.errors import InputError
from jaxcap.text.units import WORDS, TextUnits
from jaxcap.text.vocabulary import PAD

_THREADS = max(2, (os.cpu_count() or 2) // 2)
# Sets these random numbers apart from those of augmentation, which are also drawn for each row.
_RANDOM_IMAGES = 2**32 - 2
_WINDOW = 16
"""The number of batches that are sorted by length together; more would make epochs less random."""


@runtime_checkable
class Source(Protocol):
    """A split of a data set with random access.

    A record holds `image` (an encoded file; absent from data sets of text alone), `captions` (raw
    text) and `image_id`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """A data set to train on.

    Attributes:
      source: the records.
      captions: their encoded captions.
      features: the encoded images, which replace pixels in batches; `source` is then not read.
      words: the recognised words of captions without images, for a data set of text alone.
      first_number: the number of its first image among those of all data sets.
    """

    source: Source
    captions: Captions
    features: EncodedImages | None = None
    words: SimulatedWords | None = None
    first_number: int = 0


def has_images(source: Source) -> bool:
    """Return whether a data set has images, or captions alone."""
    return "image" in source[0]


def all_captions(source: Source) -> Iterator[list[str]]:
    """Yield the original captions of every record, in order."""
    return (source[i]["captions"] for i in range(len(source)))


def tokenised_captions(source: Source, units: TextUnits = WORDS) -> SplitCaptions:
    """Split the captions of every record into text units, leaving out captions without any."""
    return split_captions(all_captions(source), units)


def pad_tokens(
    captions: Sequence[Sequence[Sequence[int] | np.ndarray]],
    *,
    config: DataConfig,
    longest: int | None = None,
) -> Int[np.ndarray, "B N T"]:
    """Pad the captions of several images to the shortest bucket that holds them.

    Args:
      captions: the token ids of each caption of each image.
      config: gives the buckets, and the number of captions per image `N`.
      longest: the length to pad for; by default the longest caption.
    """
    if longest is None:
        longest = max((len(c) for of_image in captions for c in of_image), default=0)
    length = next((b for b in config.length_buckets if b >= longest), config.length_buckets[-1])
    tokens = np.full((len(captions), config.captions_per_image, length), PAD, np.int32)
    for row, of_image in enumerate(captions):
        for n, caption in enumerate(of_image):
            tokens[row, n, : len(caption)] = caption
    return tokens


def epoch_order(
    longest: Int[np.ndarray, " images"], *, batch_size: int, seed: int, epoch: int, stream: int = 0
) -> Int[np.ndarray, "steps B"]:
    """Choose the images of each step of an epoch, grouping images by caption length.

    Images are shuffled, windows of a few batches are sorted by length, and the batches are shuffled
    again. The order is still random to the optimizer, with far less padding. Every image occurs
    once, except for those that do not fill the last batch, which differ between epochs.

    Args:
      longest: the length of the longest caption of each image.
      batch_size: the number of images in a batch.
      seed, epoch, stream: determine the order.
    """
    # NumPy pads seeds with zeros, so stream 0 is the order of (seed, epoch).
    rng = np.random.default_rng((seed, epoch, 0, stream))
    steps = len(longest) // batch_size
    order = rng.permutation(len(longest))[: steps * batch_size]
    window = _WINDOW * batch_size
    for begin in range(0, len(order), window):
        part = order[begin : begin + window]
        order[begin : begin + window] = part[np.argsort(longest[part], kind="stable")]
    batches = order.reshape(steps, batch_size)
    return batches[rng.permutation(steps)]


def share_of_batch(batch_size: int, shard: tuple[int, int]) -> slice:
    """Return the rows of every batch that one host reads.

    Args:
      batch_size: the number of images in a batch, over all hosts.
      shard: the index of the host and the number of hosts. Concatenated in this order, the shares
        are the batch of a single host.

    Raises:
      InputError: the batch size is not a multiple of the number of hosts.
    """
    index, count = shard
    if not 0 <= index < count:
        raise InputError(f"shard {index} of {count}: expected an index from 0 to {count - 1}.")
    rows, rest = divmod(batch_size, count)
    if rest:
        sizes = [str(n * count) for n in (rows, rows + 1) if n]
        raise InputError(
            f"train.batch_size is {batch_size}, but {count} hosts need equal shares; expected "
            f"{' or '.join(sizes)}, or another multiple of {count}."
        )
    return slice(index * rows, (index + 1) * rows)


def load_image(
    record: dict[str, Any], *, config: DataConfig, rng: np.random.Generator | None
) -> UInt8[np.ndarray, "S S 3"]:
    """Decode a record's image to a square of `config.image_size`, augmented if `rng` is given."""
    image = images.decode(record["image"], name=record["image_id"])
    if rng is None:
        return images.resize(image, config.image_size)
    if config.crop_min_scale < 1:
        image = images.random_crop(image, config.image_size, rng, min_scale=config.crop_min_scale)
    else:
        image = images.resize(image, config.image_size)
    if config.flip and rng.random() < 0.5:
        image = images.flip(image)
    if config.color_jitter > 0:
        image = images.color_jitter(image, rng, strength=config.color_jitter)
    return image


@dataclass(frozen=True)
class _Place:
    """The place of a step: the batch `number` of the data set `chosen`."""

    step: int
    chosen: int
    number: int


class _Steps:
    """A random-access source for Grain: element `step` is the place of that step."""

    def __init__(self, turns: Turns, steps: int):
        self._first, self._steps = turns.first_step, steps
        self._chosen, self._numbers = turns.up_to(steps)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> _Place:
        at = int(step) - self._first
        return _Place(int(step), int(self._chosen[at]), int(self._numbers[at]))


def training_batches(
    sets: Sequence[TrainingSet],
    *,
    config: DataConfig,
    batch_size: int,
    seed: int,
    first_step: int,
    steps: int,
    turns: Turns = Turns(),  # noqa: B008 (frozen)
    threads: int = _THREADS,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Yield the batches of steps `first_step` to `steps` − 1, or one host's share of each.

    Each batch comes from one data set. Each data set is read in passes of its own.

    Args:
      sets: the data sets.
      config: the augmentation and the padding.
      batch_size: the number of images in a batch, over all hosts.
      seed: with the step, determines the order and the augmentation.
      first_step: the first step to yield, of those that `turns` orders.
      steps: the number of steps in the whole run.
      turns: which data set each step reads.
      threads: the number of threads that read and decode ahead.
      shard: the index of this host and the number of hosts (`share_of_batch`). Only its rows are
        read. All hosts pad to the same length.

    Raises:
      InputError: the batch size is not a multiple of the number of hosts; while iterating, an image
        that cannot be decoded.
    """
    share = share_of_batch(batch_size, shard)

    @functools.lru_cache(maxsize=2 * len(sets))
    def order(chosen: int, epoch: int) -> np.ndarray:
        # Length correlates with content, which affects batch statistics. With one bucket, sorting
        # gains nothing, so a data set that it harms can be trained without it.
        longest = sets[chosen].captions.longest
        lengths = longest if len(config.length_buckets) > 1 else longest * 0
        return epoch_order(lengths, batch_size=batch_size, seed=seed, epoch=epoch, stream=chosen)

    with_images = [
        each
        for each, share_of_steps in zip(sets, turns.shares, strict=True)
        if each.words is None and share_of_steps > 0
    ]

    def load(place: _Place) -> Batch:
        step, of = place.step, sets[place.chosen]
        epoch, position = divmod(place.number, len(of.captions) // batch_size)
        together = order(place.chosen, epoch)[position]
        numbers = together[share]
        pixels = features = words = None
        shown, shown_numbers = of, numbers
        if of.words is not None and config.random_images:
            rng = np.random.default_rng((seed, step, _RANDOM_IMAGES))
            shown = with_images[rng.integers(len(with_images))]
            shown_numbers = rng.integers(len(shown.source), size=batch_size)[share]
        if shown.features is not None:
            features, words = shown.features.take(shown_numbers)
        elif shown.words is None:
            records = enumerate(source_items(shown.source, shown_numbers), start=share.start)
            pixels = np.stack(
                [
                    load_image(record, config=config, rng=np.random.default_rng((seed, step, i)))
                    for i, record in records
                ]
            )
        if of.words is not None:
            words = of.words.draw(
                numbers, seed=seed, step=step, first_row=share.start, of_image=words
            )
        return Batch(
            pixels=pixels,
            features=features,
            words=words,
            tokens=pad_tokens(
                [of.captions.rows[int(i)] for i in numbers],
                config=config,
                longest=int(of.captions.longest[together].max()),
            ),
            valid=np.ones(len(numbers), bool),
            numbers=(of.first_number + numbers).astype(np.int32),
        )

    return _read_ahead(_Steps(turns, steps), load, first=first_step, threads=threads)


def evaluation_batches(
    source: Source,
    *,
    config: DataConfig,
    batch_size: int,
    numbers: Int[np.ndarray, " images"] | None = None,
    features: EncodedImages | None = None,
    threads: int = _THREADS,
) -> Iterator[Batch]:
    """Yield every image of a split once and in order; the last batch is padded, never dropped.

    Args:
      source: the records.
      config: gives the image size and the shape of the empty `tokens`.
      batch_size: the number of images in a batch.
      numbers: the records to read, in this order; by default all.
      features: the encoded images, which replace pixels in batches.
      threads: the number of threads that read and decode ahead.
    """
    numbers = np.arange(len(source)) if numbers is None else numbers
    batches = [numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)]

    def load(numbers: np.ndarray) -> Batch:
        filled = np.pad(numbers, (0, batch_size - len(numbers)), mode="edge")
        pixels = encoded = words = None
        if features is None:
            records = source_items(source, numbers)
            loaded = [load_image(record, config=config, rng=None) for record in records]
            pixels = np.stack(loaded + loaded[-1:] * (batch_size - len(numbers)))
        else:
            encoded, words = features.take(filled)
        return Batch(
            pixels=pixels,
            features=encoded,
            words=words,
            tokens=np.full((batch_size, config.captions_per_image, 1), PAD, np.int32),
            valid=np.arange(batch_size) < len(numbers),
            numbers=filled.astype(np.int32),
        )

    return _read_ahead(batches, load, first=0, threads=threads)


def source_items(source: Source, numbers: np.ndarray) -> list[dict[str, Any]]:
    """Read the records with these numbers."""
    return [source[int(i)] for i in numbers]


def _read_ahead(
    plan: Any, load: Callable[[Any], Batch], *, first: int, threads: int
) -> Iterator[Batch]:
    elements = grain.MapDataset.source(plan).slice(slice(first, len(plan)))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(elements.map(load).to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        # Grain's threads keep reading until the iterator is closed.
        iterator.close()
