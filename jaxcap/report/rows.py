"""What a report shows of one image, and the compact form in which the page holds it."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxcap.report.pictures import Embedded, Linked, Unreadable


@dataclass(frozen=True)
class ReportCaption:
    """One caption of an image.

    Attributes:
      text: its words, separated by single spaces; `words` tells them where it is otherwise.
      log_prob: natural log-probability of the whole caption, where it is known.
      word_log_probs: log p of each word given those before it. What goes beyond the words of
        `text` (the end of the sentence) is not shown; fewer than the words are not shown at all.
      attention: where the model looked while it chose each word, `[T, P]` with P a square
        number (the grid covers the whole image) and T at least the number of words. uint8 holds
        weights already scaled (`scale_attention`); floats are scaled here. None, or a P that is
        no square, as P = 0 of a decoder without attention: no overlays.
      words: the words one by one, or the characters or pieces that the caption was made of; what
        SentencePiece writes for a space is shown as one. None: those that spaces separate.
    """

    text: str
    log_prob: float | None = None
    word_log_probs: Sequence[float] = ()
    attention: np.ndarray | None = None
    words: Sequence[str] | None = None


@dataclass(frozen=True)
class ReportRow:
    """One image with its captions.

    Attributes:
      image_id: how the image is called; searched and shown.
      image: the bytes of an image file, its path, a `PIL.Image.Image`, or an array as in
        `jaxcap.data.images.decode`; None where there is no picture to show.
      captions: generated captions, best first.
      references: what people wrote.
      scores: of the best caption, by any names, shown as they come (×100, by convention);
        higher is better, for "best first" means largest first.
      verdict: whether the best caption is true and complete, where that is known.
    """

    image_id: str
    image: bytes | Path | Image.Image | np.ndarray | None
    captions: Sequence[ReportCaption]
    references: Sequence[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    verdict: bool | None = None


def scale_attention(weights: np.ndarray) -> np.ndarray:
    """Attention weights `[…, P]` as uint8, the largest of each word 255: as bright as it gets.

    A word that looks everywhere alike is bright everywhere; one without weights is dark.
    """
    peak = weights.max(axis=-1, keepdims=True, initial=0.0)
    scaled = np.divide(weights, peak, out=np.zeros_like(weights), where=peak > 0)
    return np.rint(255 * scaled).astype(np.uint8)


def packed_row(row: ReportRow, picture: Embedded | Linked | Unreadable | None) -> dict[str, Any]:
    """The row as the page's script reads it; absent keys stand for nothing to show.

    Keys: `id`; `captions`, pairs of text and log p; `words`, p of each word of the best caption;
    `units`, these words themselves where they are not what spaces separate;
    `attention`, base64 of its T×P bytes; `references`; `scores`; `verdict`; and of the picture
    `size` (embedded: width and height; its bytes lie elsewhere), `link` or `note`.
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
        packed["scores"] = {name: _rounded(value, 4) for name, value in row.scores.items()}
    if row.verdict is not None:
        packed["verdict"] = bool(row.verdict)
    if isinstance(picture, Embedded):
        packed["size"] = [picture.width, picture.height]
    elif isinstance(picture, Linked):
        packed["link"] = picture.address
    elif isinstance(picture, Unreadable):
        packed["note"] = picture.reason
    return packed


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
    """None for what JSON cannot hold: nan and the infinities."""
    return None if value is None or not math.isfinite(value) else round(float(value), digits)
