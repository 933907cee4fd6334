"""Caption a stream of images in batches, while other threads read the next images.

Each batch is handed to the device before the results of the previous one are fetched, so the
device never waits for the host. Memory does not grow with the number of images.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxcap.captioning.decoding import Decode, Decoded, ImageInput
from jaxcap.captioning.image_reading import ImageLike, ReadImage, read_ahead, read_image
from jaxcap.captioning.results import Caption, Captioned
from jaxcap.data.batch import Batch
from jaxcap.search import NEVER
from jaxcap.text.vocabulary import EOS, PAD, Vocabulary

T = TypeVar("T")
Inputs = tuple[ImageInput, ...]


def caption_images(
    images: Iterable[ImageLike],
    decode: Decode,
    variables: Sequence[Any],
    vocabulary: Vocabulary,
    *,
    sizes: Sequence[int],
    batch_size: int,
    threads: int,
    attention: bool,
) -> Iterator[Captioned]:
    """Yield one `Captioned` for each image, in order.

    Args:
      images: consumed in a thread of its own, at most three batches ahead.
      variables: the variables of each model.
      sizes: the image size of each model.
      threads: how many threads decode images.
      attention: whether to fetch the attention of the best caption of each image.
    """
    read = functools.partial(read_image, sizes=sizes)
    with read_ahead(images, read, threads=threads, ahead=3 * batch_size) as reading:
        batches = _batches(reading, batch_size)
        for members, captions in _decoded(
            decode, variables, batches, vocabulary, attention=attention
        ):
            rows = iter(captions)
            for image in members:
                found = () if image.error is not None else next(rows)
                error = image.error
                if error is None and not found:
                    error = f"{image.name}: {NO_CAPTION}"
                yield Captioned(image.name, found, error)


NO_CAPTION = (
    "the search found no caption, because the model's scores are not finite; use another "
    "checkpoint or model"
)
"""Why an image has no caption although it could be read."""


def caption_batches(
    decode: Decode,
    variables: Sequence[Any],
    batches: Iterable[Batch],
    vocabulary: Vocabulary,
    *,
    attention: bool = False,
) -> Iterator[tuple[int, tuple[Caption, ...]]]:
    """Yield `(record number, captions, best first)` for each valid image, in order.

    Args:
      variables: the variables of the one model, in a tuple.
      batches: batches with `valid` and `numbers`.
      attention: whether to fetch the attention of the best caption of each image.
    """
    inputs = ((batch, (ImageInput(batch.pixels, batch.features),)) for batch in batches)
    for batch, captions in _decoded(decode, variables, inputs, vocabulary, attention=attention):
        assert batch.valid is not None
        assert batch.numbers is not None
        for row in np.flatnonzero(batch.valid):
            yield int(batch.numbers[row]), captions[row]


class _Pending(Generic[T]):
    """The results of a batch that the device may still be computing."""

    def __init__(self, key: T, decoded: Decoded, *, attention: bool):
        result = decoded.captions
        # Attention can outweigh everything else: it stays on the device unless requested.
        weights = result.weights[:, 0] if attention and result.weights.shape[-1] else None
        self.key = key
        self._waiting = (
            result.tokens,
            result.word_log_probs,
            result.scores,
            result.satisfied,
            weights,
        )

    def is_ready(self) -> bool:
        return all(x.is_ready() for x in jax.tree.leaves(self._waiting))

    def captions(self, vocabulary: Vocabulary) -> list[tuple[Caption, ...]]:
        """Wait for the device and return the captions of each row of the batch."""
        tokens, word_log_probs, scores, satisfied, weights = jax.device_get(self._waiting)
        # `SearchResult` has these as properties, but NumPy needs no compilation.
        log_probs, exists = word_log_probs.sum(axis=-1), scores > NEVER / 2
        return [
            tuple(
                _caption(
                    tokens[row, n],
                    word_log_probs[row, n],
                    float(log_probs[row, n]),
                    vocabulary,
                    weights=None if weights is None or n else weights[row],
                    satisfied=bool(satisfied[row, n]),
                )
                for n in np.flatnonzero(exists[row])
            )
            for row in range(len(tokens))
        ]


def _caption(
    ids: Int[np.ndarray, " T"],
    word_log_probs: Float[np.ndarray, " T"],
    log_prob: float,
    vocabulary: Vocabulary,
    *,
    weights: Float[np.ndarray, "T P"] | None,
    satisfied: bool,
) -> Caption:
    length, words = np.count_nonzero(ids != PAD), np.count_nonzero(ids > EOS)
    return Caption(
        vocabulary.decode(ids.tolist()),
        log_prob,
        tuple(word_log_probs[:length].tolist()),
        # A view would keep the weights of the whole batch alive.
        None if weights is None else weights[:words].copy(),
        tuple(vocabulary.words_of(ids.tolist())),
        satisfied,
    )


def _decoded(
    decode: Decode,
    variables: Sequence[Any],
    batches: Iterable[tuple[T, Inputs | None] | None],
    vocabulary: Vocabulary,
    *,
    attention: bool,
) -> Iterator[tuple[T, list[tuple[Caption, ...]]]]:
    """Yield `(key, captions of each row)` for batches `(key, inputs)`, one of them in flight.

    Args:
      batches: a batch without inputs has no rows. None means that the next batch is not ready;
        finished results are then yielded at once instead of with the next batch.
    """
    variables = tuple(variables)
    in_flight: _Pending[T] | None = None
    for batch in batches:
        started = None
        if batch is not None and batch[1] is not None:
            started = _Pending(batch[0], decode(variables, batch[1]), attention=attention)
        if in_flight is not None and (batch is not None or in_flight.is_ready()):
            yield in_flight.key, in_flight.captions(vocabulary)
            in_flight = None
        if started is not None:
            in_flight = started
        elif batch is not None:
            yield batch[0], []
    if in_flight is not None:
        yield in_flight.key, in_flight.captions(vocabulary)


def _batches(
    reading: Iterable[ReadImage | None], batch_size: int
) -> Iterator[tuple[list[ReadImage], Inputs | None] | None]:
    """Yield batches of one shape, each with the images it covers, unreadable ones included.

    The last batch is padded. None is passed through from `reading`.
    """
    members: list[ReadImage] = []
    good: list[ReadImage] = []

    def batch() -> tuple[list[ReadImage], Inputs | None]:
        # Only the names are needed from here on.
        names = [replace(image, pixels=()) for image in members]
        rows = good + good[-1:] * (batch_size - len(good))
        pixels = map(np.stack, zip(*(row.pixels for row in rows), strict=True))
        return names, tuple(map(ImageInput, pixels)) or None

    for image in reading:
        if image is None:
            yield None
            continue
        members.append(image)
        if image.error is None:
            good.append(image)
        # If most images are unreadable, errors must not wait until a batch is full.
        if len(good) == batch_size or len(members) == 4 * batch_size:
            yield batch()
            members, good = [], []
    if members:
        yield batch()
