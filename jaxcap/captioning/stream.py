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
from jaxcap.devices.promotion import standard_promotion
from jaxcap.model.recogniser.words import group_of_word
from jaxcap.search import NEVER
from jaxcap.text.vocabulary import EOS, PAD, Vocabulary

T = TypeVar("T")
Inputs = tuple[ImageInput, ...]
ReadBatch = tuple[Sequence[ReadImage], Inputs | None]
"""Images, unreadable ones included, and the pixels of the readable ones for each model."""


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
    guide: float = 0.0,
) -> Iterator[Captioned]:
    """Yield one `Captioned` for each image, in order.

    Args:
      images: consumed in a thread of its own, at most three batches ahead.
      variables: the variables of each model.
      sizes: the image size of each model.
      threads: how many threads decode images.
      attention: whether to fetch the attention of the best caption of each image.
      guide: the probability from which `decode` requires recognised words; 0 if it requires none.
    """
    read = functools.partial(read_image, sizes=sizes)
    with read_ahead(images, read, threads=threads, ahead=3 * batch_size) as reading:
        yield from caption_read(
            _batches(reading, batch_size),
            decode,
            variables,
            vocabulary,
            attention=attention,
            guide=guide,
        )


def caption_read(
    batches: Iterable[ReadBatch | None],
    decode: Decode,
    variables: Sequence[Any],
    vocabulary: Vocabulary,
    *,
    attention: bool,
    guide: float = 0.0,
) -> Iterator[Captioned]:
    """Yield one `Captioned` for each image of batches that `padded` made, in order.

    Args:
      batches: None means that the next batch is not ready.
      variables: the variables of each model.
      attention: whether to fetch the attention of the best caption of each image.
      guide: the probability from which `decode` requires recognised words; 0 if it requires none.
    """
    for members, found in _decoded(decode, variables, batches, vocabulary, attention=attention):
        rows = iter(found)
        for image in members:
            if image.error is not None:
                yield Captioned(image.name, error=image.error)
                continue
            row = replace(next(rows), name=image.name)
            if not row.captions:
                yield replace(row, error=f"{image.name}: {NO_CAPTION}")
                continue
            yield replace(row, image=image.source, unsaid=_unsaid(row, guide))


def _unsaid(result: Captioned, guide: float) -> tuple[str, ...]:
    """Return the things that are recognised with probability `guide` and not named."""
    group_of = group_of_word()
    named = {group_of.get(token) for token in result.captions[0].tokens}
    left: dict[int, str] = {}  # the first word of each group
    for word, probability in result.recognised.items():
        group = group_of.get(word)
        if probability >= guide > 0 and group is not None and group not in named:
            left.setdefault(group, word)
    return tuple(left.values())


_FEW = 8
"""The batch size of 2 to 8 images. Each size is compiled, so there are few."""

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
) -> Iterator[tuple[int, Captioned]]:
    """Yield `(record number, result)` for each valid image, in order; results have no names.

    Args:
      variables: the variables of the one model, in a tuple.
      batches: batches with `valid` and `numbers`.
      attention: whether to fetch the attention of the best caption of each image.
    """
    inputs = (
        (batch, (ImageInput(batch.pixels, batch.features, batch.words),)) for batch in batches
    )
    for batch, rows in _decoded(decode, variables, inputs, vocabulary, attention=attention):
        assert batch.valid is not None
        assert batch.numbers is not None
        for row in np.flatnonzero(batch.valid):
            yield int(batch.numbers[row]), rows[row]


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
            decoded.words,
            decoded.features,
        )

    def is_ready(self) -> bool:
        return all(x.is_ready() for x in jax.tree.leaves(self._waiting))

    def rows(self, vocabulary: Vocabulary) -> list[Captioned]:
        """Wait for the device and return each row of the batch, without a name."""
        tokens, word_log_probs, scores, satisfied, weights, words, features = jax.device_get(
            self._waiting
        )
        # `SearchResult` has these as properties, but NumPy needs no compilation.
        log_probs, exists = word_log_probs.sum(axis=-1), scores > NEVER / 2
        return [
            Captioned(
                "",
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
                ),
                features=features[row].copy(),
                recognised={
                    vocabulary.words[id]: float(probability)
                    for id, probability in zip(
                        words.ids[row], words.probabilities[row], strict=True
                    )
                    if id != PAD
                },
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
) -> Iterator[tuple[T, list[Captioned]]]:
    """Yield `(key, rows)` for batches `(key, inputs)`, one of them in flight.

    Args:
      batches: a batch without inputs has no rows. None means that the next batch is not ready;
        finished results are then yielded at once instead of with the next batch.
    """
    variables = tuple(variables)
    in_flight: _Pending[T] | None = None
    for batch in batches:
        started = None
        if batch is not None and batch[1] is not None:
            with standard_promotion():
                started = _Pending(batch[0], decode(variables, batch[1]), attention=attention)
        if in_flight is not None and (batch is not None or in_flight.is_ready()):
            yield in_flight.key, in_flight.rows(vocabulary)
            in_flight = None
        if started is not None:
            in_flight = started
        elif batch is not None:
            yield batch[0], []
    if in_flight is not None:
        yield in_flight.key, in_flight.rows(vocabulary)


def padded(members: Sequence[ReadImage], batch_size: int) -> ReadBatch:
    """Stack the pixels of the readable images; repeat the last up to `batch_size` rows."""
    good = [image for image in members if image.error is None]
    rows = good + good[-1:] * (batch_size - len(good))
    pixels = map(np.stack, zip(*(row.pixels for row in rows), strict=True))
    # The pixels are not needed from here on.
    return [replace(image, pixels=()) for image in members], tuple(map(ImageInput, pixels)) or None


def _batches(reading: Iterable[ReadImage | None], batch_size: int) -> Iterator[ReadBatch | None]:
    """Yield batches, each with the images it covers, unreadable ones included.

    The last batch is padded: to `batch_size`, or to 1 or `_FEW` if it is the only one. None is
    passed through from `reading`.
    """
    sizes = [size for size in (1, _FEW) if size < batch_size]
    members: list[ReadImage] = []
    good = 0
    for image in reading:
        if image is None:
            yield None
            continue
        members.append(image)
        good += image.error is None
        # If most images are unreadable, errors must not wait until a batch is full.
        if good == batch_size or len(members) == 4 * batch_size:
            sizes = []  # the program for whole batches is compiled already
            yield padded(members, batch_size)
            members, good = [], 0
    if members:
        yield padded(members, next((size for size in sizes if size >= good), batch_size))
