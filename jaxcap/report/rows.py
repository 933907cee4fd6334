"""The content of a report for one image, and its compact form in the page."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from jaxcap.report.pictures import Embedded, Linked, Unreadable

if TYPE_CHECKING:
    from jaxcap.captioning.results import Caption


@dataclass(frozen=True)
class ReportCaption:
    """One caption of an image.

    Attributes:
      text: words separated by single spaces, or any text if `words` is given.
      log_prob: natural log probability of the whole caption, if known.
      word_log_probs: log p of each word given the words before it. Values beyond the words of
        `text`, such as that of `<eos>`, are ignored. With fewer values than words, none is shown.
      attention: attention weights for each word, `[T, P]`, with P a square number (the grid
        covers the whole image) and T at least the number of words. uint8 weights are already
        scaled (`scale_attention`); floats are scaled here. Without overlays: None, or a P that
        is not a square number, such as P = 0 of a decoder without attention.
      words: the words, characters, or pieces of the caption. SentencePiece's mark for a space is
        shown as a space. None: split `text` at spaces.
    """

    text: str
    log_prob: float | None = None
    word_log_probs: Sequence[float] = ()
    attention: np.ndarray | None = None
    words: Sequence[str] | None = None

    @classmethod
    def of(cls, caption: Caption) -> ReportCaption:
        """Take over a caption that `LoadedModel.caption` returned."""
        return cls(
            caption.text,
            caption.log_prob,
            caption.word_log_probs,
            caption.attention,
            caption.tokens or None,
        )


@dataclass(frozen=True)
class OtherCaption:
    """A caption of another model, to compare with.

    Attributes:
      model: the name of that model, shown before the caption.
      text: the caption.
      scores: its scores, with the names of `ReportRow.scores`.
    """

    model: str
    text: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class OtherScores:
    """Scores of another model on the whole set, to compare with.

    Attributes:
      scores: its scores, with the names of the first model's.
      differences: name to the first model's score minus this one's, and the 95 % interval of that:
        (difference, low, high).
    """

    scores: Mapping[str, float]
    differences: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class ReportRow:
    """One image with its captions.

    Attributes:
      image_id: the image's name, shown and searched.
      image: the bytes of an image file, its path, a `PIL.Image.Image`, or an array as in
        `jaxcap.data.images.decode`; None for no image.
      captions: generated captions, best first.
      references: captions by people.
      scores: scores of the best caption, by any name, shown unchanged (×100 by convention).
        Higher is better: "best first" sorts the largest first.
      verdict: whether the best caption is true and complete, if known.
      other: a caption to compare the best one with. The differences of the scores can be sorted by.
    """

    image_id: str
    image: bytes | Path | Image.Image | np.ndarray | None
    captions: Sequence[ReportCaption]
    references: Sequence[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    verdict: bool | None = None
    other: OtherCaption | None = None


def scale_attention(weights: np.ndarray) -> np.ndarray:
    """Scale attention weights `[…, P]` to uint8, with 255 for the largest weight of each word.

    Uniform weights are 255 everywhere. Weights of zero stay zero.
    """
    peak = weights.max(axis=-1, keepdims=True, initial=0.0)
    scaled = np.divide(weights, peak, out=np.zeros_like(weights), where=peak > 0)
    return np.rint(255 * scaled).astype(np.uint8)


def packed_row(row: ReportRow, picture: Embedded | Linked | Unreadable | None) -> dict[str, Any]:
    """Return the row as the page's script reads it. Keys without content are omitted.

    Keys: `id`; `other`, model, text, and scores; `captions`, pairs of text and log p; `words`,
    p of each word of the best caption; `units`, these words, if splitting at spaces does not
    give them; `attention`, base64 of its T×P bytes; `references`; `scores`; `verdict`. The
    image has `size` (embedded: width and height; the bytes are in another block), `link`, or
    `note`.
    """
    packed: dict[str, Any] = {
        "id": row.image_id,
        "captions": [[c.text.strip(), _rounded(c.log_prob, 4)] for c in row.captions],
    }
    if row.captions:
        packed |= _packed_words(row.captions[0])
    if row.references:
        packed["references"] = [str(reference) for reference in row.references]
    if row.scores:
        packed["scores"] = _packed_scores(row.scores)
    if row.other is not None:
        other = row.other
        packed["other"] = [other.model, other.text.strip(), _packed_scores(other.scores)]
    if row.verdict is not None:
        packed["verdict"] = bool(row.verdict)
    if isinstance(picture, Embedded):
        packed["size"] = [picture.width, picture.height]
    elif isinstance(picture, Linked):
        packed["link"] = picture.address
    elif isinstance(picture, Unreadable):
        packed["note"] = picture.reason
    return packed


def _packed_scores(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _rounded(value, 4) for name, value in scores.items()}


def _packed_words(caption: ReportCaption) -> dict[str, Any]:
    text = caption.text.strip()
    words = text.split(" ") if text else []  # a no-break space is part of its word
    packed: dict[str, Any] = {}
    if caption.words is not None and list(caption.words) != words:
        words = [word.replace("\u2581", " ").strip() or "\u2423" for word in caption.words]
        packed["units"] = words
    count = len(words)
    if count and len(caption.word_log_probs) >= count:
        packed["words"] = [
            _rounded(math.exp(min(0.0, p)), 4) for p in caption.word_log_probs[:count]
        ]
    weights = caption.attention
    if weights is not None and count and len(weights) >= count:
        positions = weights.shape[-1]
        if positions > 0 and math.isqrt(positions) ** 2 == positions:
            if weights.dtype != np.uint8:
                weights = scale_attention(np.asarray(weights, np.float32))
            packed["attention"] = base64.b64encode(weights[:count].tobytes()).decode("ascii")
    return packed


def _rounded(value: float | None, digits: int) -> float | None:
    """Round a number; return None for nan and infinities, which JSON lacks."""
    return None if value is None or not math.isfinite(value) else round(float(value), digits)
