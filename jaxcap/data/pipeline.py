"""From records to batches, by the step number alone.

Which images make up a step, how they are cropped, flipped and coloured, and how long their
captions are padded is a pure function of (seed, step). So the position in the data *is* the step:
a resumed run reads on exactly where it stopped, however many threads read ahead. And so are the
shares of several hosts: each reads its own rows of every batch, and needs to ask no other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxcap.config import DataConfig
from jaxcap.data import images
from jaxcap.data.batch import Batch
from jaxcap.data.captions import Captions, SplitCaptions, split_captions
from jaxcap.errors import InputError
from jaxcap.text.units import WORDS, TextUnits
from jaxcap.text.vocabulary import PAD

_WINDOW = 16
"""Batches that are sorted by length together; more would tell long captions apart by step."""


@runtime_checkable
class Source(Protocol):
    """A split of a data set with random access.

    A record holds `image` (an encoded file), `captions` (raw text) and `image_id`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@runtime_checkable
class CaptionSource(Protocol):
    """A source that has its captions at hand, without reading the images."""

    def all_captions(self) -> Iterator[list[str]]:
        """The captions of every record, in order."""
        ...


def all_captions(source: Source) -> Iterator[list[str]]:
    """The captions of every record as they were written, in order."""
    if isinstance(source, CaptionSource):
        return source.all_captions()
    return (source[i]["captions"] for i in range(len(source)))


def tokenised_captions(source: Source, units: TextUnits = WORDS) -> SplitCaptions:
    """The captions of every record as words (or other units); those without any are left out."""
    return split_captions(all_captions(source), units)


def pad_tokens(
    captions: Sequence[Sequence[Sequence[int] | np.ndarray]],
    *,
    config: DataConfig,
    longest: int | None = None,
) -> Int[np.ndarray, "B N T"]:
    """Captions of several images in one array, as short as the buckets allow.

    Args:
      longest: the length to make room for, where that is not the longest of `captions`.
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
    longest: Int[np.ndarray, " images"], *, batch_size: int, seed: int, epoch: int
) -> Int[np.ndarray, "steps B"]:
    """Which images each step of an epoch sees, images of similar caption length together.

    Images are shuffled, windows of a few batches sorted by length, and the batches shuffled
    again: an epoch is a random one to the optimizer, with far less padding. Every image
    comes once, but for those that do not fill the last batch; another few each epoch.
    """
    rng = np.random.default_rng((seed, epoch))
    steps = len(longest) // batch_size
    order = rng.permutation(len(longest))[: steps * batch_size]
    window = _WINDOW * batch_size
    for begin in range(0, len(order), window):
        part = order[begin : begin + window]
        order[begin : begin + window] = part[np.argsort(longest[part], kind="stable")]
    batches = order.reshape(steps, batch_size)
    return batches[rng.permutation(steps)]


def share_of_batch(batch_size: int, shard: tuple[int, int]) -> slice:
    """The rows of every batch that one host reads.

    Args:
      shard: the host's number, from 0, and how many there are. One after another in this order,
        their shares are the batch of a single host.

    Raises:
      InputError: the batch does not divide into as many equal shares.
    """
    index, count = shard
    if not 0 <= index < count:
        raise InputError(f"shard {index} of {count}: expected a number from 0 to {count - 1}.")
    rows, rest = divmod(batch_size, count)
    if rest:
        sizes = [str(n * count) for n in (rows, rows + 1) if n]
        raise InputError(
            f"train.batch_size is {batch_size}, which {count} hosts cannot share equally; give "
            f"{' or '.join(sizes)}, or another multiple of {count}."
        )
    return slice(index * rows, (index + 1) * rows)


def load_image(
    record: dict[str, Any], *, config: DataConfig, rng: np.random.Generator | None
) -> UInt8[np.ndarray, "S S 3"]:
    """The record's image as a square of `config.image_size`, augmented if there is an `rng`."""
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


class _Steps:
    """Grain's view of training: element `step` is that step's image numbers."""

    def __init__(self, order: Callable[[int], np.ndarray], steps_per_epoch: int, steps: int):
        self._order, self._per_epoch, self._steps = order, steps_per_epoch, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> tuple[int, np.ndarray]:
        epoch, position = divmod(int(step), self._per_epoch)
        return int(step), self._order(epoch)[position]


def training_batches(
    source: Source,
    captions: Captions,
    *,
    config: DataConfig,
    batch_size: int,
    seed: int,
    first_step: int,
    steps: int,
    features: Float[np.ndarray, "images P D"] | None = None,
    threads: int = 2,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """The batches of steps `first_step` to `steps` − 1, or one host's share of each.

    Args:
      batch_size: images of a step, of all hosts together.
      steps: how many steps the whole training has.
      features: what the encoder makes of each image of `source`, which is then not read:
        the batches bring these instead of pixels, and are otherwise the same.
      threads: how many read and decode ahead of the device.
      shard: the number of this host, from 0, and how many there are; `share_of_batch` says which
        rows are its. Other rows are not read. All hosts pad to the same length.

    Raises:
      InputError: the batch does not divide into equal shares; while iterating, an image that
        cannot be decoded.
    """
    share = share_of_batch(batch_size, shard)

    # Sorting by length sorts by content a little, which batch statistics feel: with one bucket
    # there is nothing to gain by it, so a data set that it harms can be trained without.
    lengths = captions.longest if len(config.length_buckets) > 1 else captions.longest * 0

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return epoch_order(lengths, batch_size=batch_size, seed=seed, epoch=epoch)

    def load(element: tuple[int, np.ndarray]) -> Batch:
        step, together = element
        numbers = together[share]
        if features is None:
            loaded = [
                load_image(record, config=config, rng=np.random.default_rng((seed, step, i)))
                for i, record in enumerate(source_items(source, numbers), start=share.start)
            ]
        else:
            loaded = [features[i] for i in numbers]
        return Batch(
            pixels=np.stack(loaded) if features is None else None,
            features=None if features is None else np.stack(loaded),
            tokens=pad_tokens(
                [captions.rows.of(int(i)) for i in numbers],
                config=config,
                longest=int(captions.longest[together].max()),
            ),
            valid=np.ones(len(numbers), bool),
            numbers=numbers.astype(np.int32),
        )

    plan = _Steps(order, len(captions) // batch_size, steps)
    return _read_ahead(plan, load, first=first_step, threads=threads)


def evaluation_batches(
    source: Source,
    *,
    config: DataConfig,
    batch_size: int,
    numbers: Int[np.ndarray, " images"] | None = None,
    features: Float[np.ndarray, "images P D"] | None = None,
    threads: int = 2,
) -> Iterator[Batch]:
    """Every image of a split once and in order; the last batch is filled up, never dropped.

    Args:
      numbers: those records only, in this order.
      features: what the encoder makes of each image, in the place of pixels.
    """
    numbers = np.arange(len(source)) if numbers is None else numbers
    batches = [numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)]

    def load(numbers: np.ndarray) -> Batch:
        filled = np.pad(numbers, (0, batch_size - len(numbers)), mode="edge")
        if features is None:
            records = source_items(source, numbers)
            loaded = [load_image(record, config=config, rng=None) for record in records]
        else:
            loaded = [features[i] for i in numbers]
        loaded += loaded[-1:] * (batch_size - len(numbers))
        return Batch(
            pixels=np.stack(loaded) if features is None else None,
            features=None if features is None else np.stack(loaded),
            tokens=np.full((batch_size, config.captions_per_image, 1), PAD, np.int32),
            valid=np.arange(batch_size) < len(numbers),
            numbers=filled.astype(np.int32),
        )

    return _read_ahead(batches, load, first=0, threads=threads)


def source_items(source: Source, numbers: np.ndarray) -> list[dict[str, Any]]:
    """The records with these numbers."""
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
        # Grain's reading threads go on until they are told to stop.
        iterator.close()
