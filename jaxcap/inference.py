"""From a trained run to captions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxcap.captioner import Captioner, create_captioner, init_variables
from jaxcap.checkpoint import Checkpoints
from jaxcap.config import Config, SearchConfig, load_config
from jaxcap.data import images as image_files
from jaxcap.data.batch import Batch
from jaxcap.errors import InputError
from jaxcap.report import scale_attention
from jaxcap.search import SearchResult, beam_search
from jaxcap.vocabulary import EOS, PAD, Vocabulary

ImageLike = Path | str | bytes | Image.Image | np.ndarray
Decode = Callable[[dict[str, Any], Any], SearchResult]


@dataclass(frozen=True)
class Caption:
    """A generated sentence.

    Attributes:
      text: its words, separated by spaces.
      log_prob: log p of the words and of the end, in nats.
      word_log_probs: log p of each word given those before it, and of the end.
      attention: where the model looked as it chose each word, uint8 `[words, P]`, each word's
        largest weight 255; None where it was not asked for or the decoder has none.
    """

    text: str
    log_prob: float
    word_log_probs: tuple[float, ...] = ()
    attention: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Captioned:
    """An image with its captions, best first, or with the reason why there are none."""

    name: str
    captions: tuple[Caption, ...] = ()
    error: str | None = None


def create_decode(model: Captioner, config: SearchConfig) -> Decode:
    """The jitted `(variables, images uint8 [B, S, S, 3]) -> SearchResult`, by beam search.

    Features `[B, P, D]` may stand in for the images, as in a `Batch`.
    """

    def decode(variables: dict[str, Any], images: Any) -> SearchResult:
        features = model.apply(variables, images, method="encode")
        carry, context = model.apply(variables, features, method="start")
        return beam_search(
            lambda carry, tokens: model.apply(variables, carry, tokens, context, method="step"),
            carry,
            beam_size=config.beam_size,
            max_length=config.max_length + 1,  # room for <eos>
            length_penalty=config.length_penalty,
        )

    return jax.jit(decode)


def caption_batches(
    decode: Decode,
    variables: dict[str, Any],
    batches: Iterable[Batch],
    vocabulary: Vocabulary,
    *,
    attention: bool = False,
) -> Iterator[tuple[int, tuple[Caption, ...]]]:
    """`(record number, captions best first)` for every valid image of the batches, in order.

    Args:
      attention: fetch where the model looked, for the best caption of each image.
    """
    for batch in batches:
        result = decode(variables, batch.images)
        # Attention can outweigh all else: what is not asked for stays on the device.
        weights = result.weights[:, 0] if attention and result.weights.shape[-1] else None
        tokens, log_probs, word_log_probs, weights = jax.device_get(
            (result.tokens, result.log_probs, result.word_log_probs, weights)
        )
        for row in np.flatnonzero(batch.valid):
            captions = [
                _caption(ids, log_prob, of_words, vocabulary)
                for ids, log_prob, of_words in zip(
                    tokens[row], log_probs[row], word_log_probs[row], strict=True
                )
            ]
            if weights is not None:
                words = np.count_nonzero(tokens[row, 0] > EOS)
                scaled = scale_attention(weights[row, :words])
                captions[0] = replace(captions[0], attention=scaled)
            yield int(batch.numbers[row]), tuple(captions)


def _caption(
    ids: np.ndarray, log_prob: Any, word_log_probs: np.ndarray, vocabulary: Vocabulary
) -> Caption:
    length = np.count_nonzero(ids != PAD)
    return Caption(
        vocabulary.decode(ids.tolist()),
        float(log_prob),
        tuple(word_log_probs[:length].tolist()),
    )


def load(run: str | os.PathLike[str], *, best: bool = True) -> Run:
    """Opens a run directory for captioning; nothing else is needed.

    Args:
      run: `runs/NAME`, as training left it.
      best: the checkpoint with the best score, or the latest.

    Raises:
      InputError: the directory is no run, or holds no checkpoint yet.
    """
    directory = Path(run)
    if not directory.is_dir():
        raise InputError(f"{directory}: there is no such run directory. Train one with train.py.")
    missing = [
        name
        for name in ("config.json", "vocabulary.json", "checkpoints")
        if not (directory / name).exists()
    ]
    if missing:
        raise InputError(
            f"{directory}: this is no run directory, it has no {' and no '.join(missing)}. "
            "Give the --workdir of a training (runs/NAME)."
        )
    config = load_config(directory / "config.json")
    vocabulary = Vocabulary.load(directory / "vocabulary.json")
    model = create_captioner(config, len(vocabulary))
    like = jax.eval_shape(
        lambda: init_variables(model, jax.random.key(0), image_size=config.data.image_size)
    )
    with Checkpoints(
        directory / "checkpoints", metric=config.evaluation.metric, reading_only=True
    ) as checkpoints:
        step = checkpoints.best_step if best else checkpoints.latest_step
        if step is None:
            raise InputError(f"{directory}: no checkpoint yet; training saves one every epoch.")
        variables = checkpoints.restore_variables(step, like)
    return Run(directory, config, vocabulary, model, variables, step)


@dataclass(frozen=True)
class Run:
    """A trained captioner with all that it needs.

    Attributes:
      directory: where it was loaded from.
      variables: `{"params": …, "batch_stats": …}`.
      step: the optimizer step that they were saved at.
    """

    directory: Path
    config: Config
    vocabulary: Vocabulary
    model: Captioner
    variables: dict[str, Any]
    step: int

    def with_search(self, **options: Any) -> Run:
        """The same run, decoded otherwise: any field of `SearchConfig`."""
        search = replace(self.config.search, **options)
        choices = len(self.vocabulary) - 3  # <pad>, <bos> and <unk> are never chosen
        if search.beam_size < 1 or search.beam_size > choices:
            raise InputError(
                f"beam size {search.beam_size}: give 1 (greedy) to {choices} "
                "(the vocabulary); 3 to 5 is usual."
            )
        return replace(self, config=replace(self.config, search=search))

    @cached_property
    def decode(self) -> Decode:
        """Jitted beam search over batches of images."""
        return create_decode(self.model, self.config.search)

    def caption(self, images: Iterable[ImageLike], *, batch_size: int = 8) -> Iterator[Captioned]:
        """Captions images in batches of one fixed shape, yielding results in order.

        Args:
          images: paths, the bytes of image files, Pillow images, or arrays uint8 [H, W, 3].
          batch_size: images encoded at once.

        Yields:
          One `Captioned` per image. One that cannot be decoded has an `error` and no
          captions, and does not stop the others.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1.")
        pending: list[tuple[str, UInt8[np.ndarray, "S S 3"] | str]] = []
        for number, image in enumerate(images):
            pending.append(self._read(image, number))
            if len(pending) == batch_size:
                yield from self._caption_pending(pending, batch_size)
                pending = []
        yield from self._caption_pending(pending, batch_size)

    def _read(self, image: ImageLike, number: int) -> tuple[str, Any]:
        size = self.config.data.image_size
        source = Path(image) if isinstance(image, str) else image
        name = str(source) if isinstance(source, Path) else f"image {number}"
        try:
            return name, image_files.resize(image_files.decode(source, name=name), size)
        except InputError as error:
            return name, str(error)

    def _caption_pending(
        self, pending: list[tuple[str, Any]], batch_size: int
    ) -> Iterator[Captioned]:
        good = [number for number, (_, image) in enumerate(pending) if not isinstance(image, str)]
        captions: dict[int, tuple[Caption, ...]] = {}
        if good:
            rows = good + good[-1:] * (batch_size - len(good))
            batch = Batch(
                images=np.stack([pending[number][1] for number in rows]),
                tokens=np.zeros((batch_size, 1, 1), np.int32),
                valid=np.arange(batch_size) < len(good),
                numbers=np.array(rows, np.int32),
            )
            captions = dict(caption_batches(self.decode, self.variables, [batch], self.vocabulary))
        for number, (name, image) in enumerate(pending):
            error = image if isinstance(image, str) else None
            yield Captioned(name, captions.get(number, ()), error)
