"""Images to captions, in batches: reading, computing and fetching go on at the same time.

Images are read and decoded in threads ahead of the device, a few batches at most; the next batch
is handed to the device before the results of the last are fetched. So memory stays the same
however many images there are, and the device waits for nothing that could have been done before.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, cast

import jax
import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from jaxcap.captioning.decoding import Decode
from jaxcap.data.batch import Batch
from jaxcap.search import NEVER, SearchResult
from jaxcap.text.vocabulary import EOS, PAD, Vocabulary

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Word:
    """A word of a caption.

    Attributes:
      text: the word, as it stands in the vocabulary.
      probability: p of it given the words before.
      attention: where the model looked as it chose the word, `[rows, columns]` over the whole
        image, the sum 1, or less where the decoder `adaptive` did not need to look; None where the
        decoder has no attention or it was not asked for.
    """

    text: str
    probability: float
    attention: np.ndarray | None = field(default=None, compare=False, repr=False)

    def attention_map(self, width: int, height: int) -> Float[np.ndarray, "height width"]:
        """`attention` at the size of an image, to lay over it; its largest value is 1.

        The model sees the whole image stretched to a square, so its grid stretches back over the
        whole image. Between the centres of the grid's cells the map is bilinear.

        Raises:
          ValueError: there is no attention.
        """
        if self.attention is None:
            raise ValueError(f"no attention is known of the word '{self.text}'")
        grid = Image.fromarray(np.asarray(self.attention, np.float32))
        enlarged = np.asarray(grid.resize((width, height), Image.Resampling.BILINEAR))
        return enlarged / max(float(enlarged.max()), np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Caption:
    """A generated sentence.

    Attributes:
      text: its words, separated by spaces.
      log_prob: log p of the words and of the end, in nats.
      word_log_probs: log p of each word given those before it, and of the end.
      attention: where the model looked as it chose each word, `[words, P]`; None where it was not
        asked for or the decoder has none.
      tokens: the words as they stand in the vocabulary, without the end.
      satisfied: whether it holds all words that were required.
    """

    text: str
    log_prob: float
    word_log_probs: tuple[float, ...] = ()
    attention: np.ndarray | None = field(default=None, compare=False, repr=False)
    tokens: tuple[str, ...] = field(default=(), compare=False, repr=False)
    satisfied: bool = True

    @property
    def confidence(self) -> float:
        """The geometric mean of the probabilities of its words and of the end, from 0 to 1.

        Unlike the probability of the whole it does not fall with every further word. It is the
        model's own opinion, and not calibrated.
        """
        return math.exp(self.log_prob / max(1, len(self.word_log_probs)))

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the attention over the image, None where there is none."""
        if self.attention is None:
            return None
        side = math.isqrt(self.attention.shape[-1])  # every encoder's features are square
        return side, side

    @property
    def words(self) -> tuple[Word, ...]:
        """The words with their probabilities and attention."""
        maps: Iterable[np.ndarray | None] = itertools.repeat(None)
        if self.attention is not None and self.grid is not None:
            maps = self.attention.reshape(-1, *self.grid)
        return tuple(
            Word(text, math.exp(log_prob), attention)
            for text, log_prob, attention in zip(
                self.tokens, self.word_log_probs, maps, strict=False
            )
        )


@dataclass(frozen=True)
class Captioned:
    """An image with its captions, best first, or with the reason why there are none.

    Attributes:
      name: the path as given, or "image 7" for what has none.
    """

    name: str
    captions: tuple[Caption, ...] = ()
    error: str | None = None


class _Found(Generic[T]):
    """The results of a batch that the device may still be computing."""

    def __init__(self, key: T, result: SearchResult, *, attention: bool):
        # Attention can outweigh all else: what is not asked for stays on the device.
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
        """The captions of each row of the batch; waits for the device."""
        tokens, word_log_probs, scores, satisfied, weights = jax.device_get(self._waiting)
        # As in `SearchResult`, but here, where nothing has to be compiled for it.
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
        # A copy, or the weights of the whole batch would stay as long as this caption does.
        None if weights is None else weights[:words].copy(),
        tuple(vocabulary.words_of(ids.tolist())),
        satisfied,
    )


def _decoded(
    decode: Decode,
    variables: Any,
    batches: Iterable[tuple[T, Any] | None],
    vocabulary: Vocabulary,
    *,
    attention: bool,
) -> Iterator[tuple[T, list[tuple[Caption, ...]]]]:
    """`(key, captions of each row)` of batches `(key, images)`, one of them always under way.

    Args:
      batches: those whose images are None have nothing to compute and no rows. None in place of a
        batch stands for "the next is not there yet": what is computed is then delivered instead
        of being kept back until it is.
    """
    under_way: _Found[T] | None = None
    for batch in batches:
        found = None
        if batch is not None and batch[1] is not None:
            found = _Found(batch[0], decode(variables, batch[1]), attention=attention)
        if under_way is not None and (batch is not None or under_way.is_ready()):
            yield under_way.key, under_way.captions(vocabulary)
            under_way = None
        if found is not None:
            under_way = found
        elif batch is not None:
            yield batch[0], []
    if under_way is not None:
        yield under_way.key, under_way.captions(vocabulary)


def caption_batches(
    decode: Decode,
    variables: Any,
    batches: Iterable[Batch],
    vocabulary: Vocabulary,
    *,
    attention: bool = False,
) -> Iterator[tuple[int, tuple[Caption, ...]]]:
    """`(record number, captions best first)` for every valid image of the batches, in order.

    Args:
      attention: fetch where the model looked, for the best caption of each image.
    """
    for batch, captions in _decoded(
        decode,
        variables,
        ((batch, batch.images) for batch in batches),
        vocabulary,
        attention=attention,
    ):
        for row in np.flatnonzero(batch.valid):
            yield int(batch.numbers[row]), captions[row]


@dataclass(frozen=True)
class ReadImage:
    """An image as the models want it, or why it cannot be had.

    Attributes:
      pixels: uint8 `[S, S, 3]` for each model, of its own size S; empty with an error.
    """

    name: str
    pixels: tuple[np.ndarray, ...] = ()
    error: str | None = None


def caption_images(
    images: Iterable[T],
    read: Callable[[T, int], ReadImage],
    decode: Callable[[tuple[np.ndarray, ...]], SearchResult],
    vocabulary: Vocabulary,
    *,
    batch_size: int,
    threads: int,
    attention: bool,
) -> Iterator[Captioned]:
    """One `Captioned` for each image, in order.

    Args:
      images: taken from in a thread of its own, three batches ahead at most.
      read: `(image, its number)` to pixels, called in several threads.
      decode: one array `[B, S, S, 3]` for each model to the captions of the B images.
      attention: fetch where the models looked, for the best caption of each image.
    """
    with _read_ahead(images, read, threads=threads, ahead=3 * batch_size) as reading:
        for members, captions in _decoded(
            lambda _, pixels: decode(pixels),
            None,
            _batches(reading, batch_size),
            vocabulary,
            attention=attention,
        ):
            rows = iter(captions)
            for each in members:
                of_image = () if each.error is not None else next(rows)
                yield Captioned(each.name, of_image, each.error)


def _batches(
    reading: Iterable[ReadImage | None], batch_size: int
) -> Iterator[tuple[list[ReadImage], tuple[np.ndarray, ...] | None] | None]:
    """Batches of one shape, and the images that each stands for, those with errors among them.

    The last is filled up. None where `reading` has None.
    """
    members: list[ReadImage] = []
    good: list[ReadImage] = []

    def batch() -> tuple[list[ReadImage], tuple[np.ndarray, ...] | None]:
        # The pixels go into the batch; what follows needs the names alone.
        names = [replace(each, pixels=()) for each in members]
        rows = good + good[-1:] * (batch_size - len(good))
        pixels = tuple(map(np.stack, zip(*(row.pixels for row in rows), strict=True)))
        return names, pixels or None

    for image in reading:
        if image is None:
            yield None
            continue
        members.append(image)
        if image.error is None:
            good.append(image)
        # Where hardly any image can be read, the errors shall not wait for a batch to fill.
        if len(good) == batch_size or len(members) == 4 * batch_size:
            yield batch()
            members, good = [], []
    if members:
        yield batch()


@contextlib.contextmanager
def _read_ahead(
    images: Iterable[T], read: Callable[[T, int], R], *, threads: int, ahead: int
) -> Iterator[Iterator[R | None]]:
    """The results of `read`, in order, made in threads; None where the next is not there yet.

    Args:
      ahead: how many images are taken from `images` and not yet given on, at most.

    Raises:
      Exception: what the iterator `images` raised, after the results of all before it.
    """
    room, stop = threading.Semaphore(ahead), threading.Event()
    results: queue.SimpleQueue[Future[R] | None] = queue.SimpleQueue()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    failure: list[BaseException] = []

    def take() -> None:
        numbered = enumerate(images)
        try:
            while room.acquire() and not stop.is_set():
                number, image = next(numbered, (None, None))
                if number is None:
                    break
                results.put(pool.submit(read_on, cast(T, image), number))
        except BaseException as error:  # of the caller's iterator: raised where the caller sees it
            failure.append(error)
        finally:
            results.put(None)

    # Instead of `cancel_futures`, which fails where a generator is dropped as Python ends.
    def read_on(image: T, number: int) -> R:
        if stop.is_set():
            raise futures.CancelledError
        return read(image, number)

    def give() -> Iterator[R | None]:
        while True:
            try:
                result = results.get(timeout=_PATIENCE)
            except queue.Empty:
                yield None
                continue
            if result is None:
                return
            while not futures.wait([result], timeout=_PATIENCE).done:
                yield None
            room.release()
            yield result.result()

    # A daemon: an iterator may block for ever, and the program shall end all the same.
    threading.Thread(target=take, daemon=True, name="take").start()
    try:
        yield give()
    finally:
        stop.set()
        room.release()
        pool.shutdown(wait=False)
    if failure:
        raise failure[0]


_PATIENCE = 0.02
"""Seconds to wait for the next image before results that are there are given on."""
