"""The results of captioning: images with their captions, and captions with their words."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxcap.captioning import drawing
from jaxcap.data.images import decode
from jaxcap.messages.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGE, _SMALL = 320, 160
"""Longest side in pixels of the image in a notebook, and of the same image below each word."""


@dataclass(frozen=True)
class Word:
    """A word of a caption.

    Attributes:
      text: the word as written in the vocabulary.
      probability: p(word | the words before it).
      attention: the attention while the word was chosen, `[rows, columns]` over the whole image.
        It sums to 1, or to less if the `adaptive` decoder relied on its sentinel. None if the
        decoder has no attention or it was not requested.
    """

    text: str
    probability: float
    attention: np.ndarray | None = field(default=None, compare=False, repr=False)

    def attention_map(self, width: int, height: int) -> Float[np.ndarray, "height width"]:
        """Resize `attention` to the size of the image; the largest value is 1.

        The model sees the whole image stretched to a square, so the grid covers the whole image.
        Between the centres of its cells the map is bilinear.

        Raises:
          ValueError: the word has no attention.
        """
        if self.attention is None:
            raise ValueError(f"the word '{self.text}' has no attention")
        grid = Image.fromarray(np.asarray(self.attention, np.float32))
        enlarged = np.asarray(grid.resize((width, height), Image.Resampling.BILINEAR))
        return enlarged / max(float(enlarged.max()), np.finfo(np.float32).tiny)


@dataclass(frozen=True, repr=False)
class Caption:
    """A generated sentence.

    Attributes:
      text: the words, separated by spaces.
      log_prob: log p of the words and of `<eos>`, in nats.
      word_log_probs: log p of each word given the words before it, then of `<eos>`.
      attention: the attention while each word was chosen, `[words, P]`. None if it was not
        requested or the decoder has none.
      tokens: the words as written in the vocabulary, without `<eos>`.
      satisfied: whether the caption contains all required words.
      calibrated: the probability that the caption is good, of a model that was calibrated (see
        `calibration`); otherwise None.
    """

    text: str
    log_prob: float
    word_log_probs: tuple[float, ...] = ()
    attention: np.ndarray | None = field(default=None, compare=False)
    tokens: tuple[str, ...] = field(default=(), compare=False)
    satisfied: bool = True
    calibrated: float | None = None

    def __repr__(self) -> str:
        return f"<Caption {self.text!r}: confidence {self.confidence:.2f}>"

    @property
    def confidence(self) -> float:
        """The probability that the caption is good, if the model was calibrated.

        For other models: the geometric mean of the probabilities of the words and of `<eos>`.
        Unlike the probability of the caption, it does not shrink with every further word.
        """
        if self.calibrated is not None:
            return self.calibrated
        return math.exp(self.log_prob / max(1, len(self.word_log_probs)))

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the attention over the image; None without attention."""
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


@dataclass(frozen=True, repr=False)
class Captioned:
    """An image with its captions, best first, or with the reason why it has none.

    Attributes:
      name: the path as given, or "image 7" for an image without a path.
      error: None if and only if there is a caption.
      image: the path, bytes, Pillow image or array that was captioned; None if it has an error.
      features: the mean of the encoder's features over the image, `[D]`.
      familiarity: how similar the image is to the training photographs, from 0 to 1: the share of
        held-out photographs that are less similar. None if the model was not calibrated.
      recognised: the words that the model recognises in the image, each with the probability that
        people use it, in falling order. Empty for a model that recognises none.
      unsaid: recognised things that `search.guide` is sure enough of to require, but the best
        caption does not name.
    """

    name: str
    captions: tuple[Caption, ...] = ()
    error: str | None = None
    image: Path | bytes | Image.Image | np.ndarray | None = field(default=None, compare=False)
    features: np.ndarray | None = field(default=None, compare=False)
    familiarity: float | None = None
    recognised: Mapping[str, float] = field(default_factory=dict, hash=False)
    unsaid: tuple[str, ...] = ()

    def __repr__(self) -> str:
        if self.error is not None:
            return f"<Captioned {self.name}: error={self.error!r}>"
        return f"<Captioned {self.name}: {self.captions[0].text!r}>"

    def plot(self) -> Figure:
        """Draw the image, its best caption, and the attention of each word, with matplotlib.

        Returns:
          A figure of pyplot: `result.plot().savefig("captioned.png")`. In a notebook, which shows
          it already, end the line with a semicolon.

        Raises:
          InputError: the image has an error, or matplotlib is not installed.
        """
        if self.error is not None:
            raise InputError(self.error)
        return drawing.plot(self.captions[0].text, self._panels())

    def _repr_html_(self) -> str:
        """Return the image, its best caption, and the attention of each word, for notebooks."""
        if self.error is not None:
            return f"<p>{html.escape(self.error)}</p>"
        return drawing.html(self.captions[0].text, self._panels())

    def _panels(self) -> list[drawing.Panel]:
        if self.image is None:
            return []
        photo = Image.fromarray(decode(self.image, name=self.name, size=2 * _LARGE))
        photo.thumbnail((_LARGE, _LARGE))
        small = photo.copy()
        small.thumbnail((_SMALL, _SMALL))
        return [("", photo)] + [
            (f"{word.text}  {word.probability:.2f}", drawing.overlay(small, word.attention))
            for word in self.captions[0].words
            if word.attention is not None
        ]


class Results(Iterator[Captioned]):
    """One `Captioned` for each image, in order, computed when it is asked for."""

    def __init__(self, results: Iterator[Captioned]) -> None:
        """Take the results from an iterator."""
        self._results = results

    def __next__(self) -> Captioned:
        return next(self._results)

    def close(self) -> None:
        """Stop; images that were read ahead are dropped."""
        self._results = iter(())

    def __repr__(self) -> str:
        return "<Results: for result in …, or next(…) for the first>"

    def __getattr__(self, name: str) -> Any:
        if hasattr(Captioned, name) or name in Captioned.__dataclass_fields__:
            raise AttributeError(
                f"caption returns one result for each image, and each has a '{name}'. Take the "
                f"first with next(…): next(model.caption(image)).{name}"
            )
        raise AttributeError(f"'Results' object has no attribute '{name}'")
