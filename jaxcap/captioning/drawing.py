"""Draw captioned images for notebooks: the photograph, and the attention of each word over it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxcap.messages.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ORANGE, _OPACITY = (255, 140, 0), 190
"""The colour of attention, and its opacity (of 255) where the weight is largest."""
_COLUMNS = 5
_INCHES = 2.2
"""Width of one panel of a plot."""

Panel = tuple[str, Image.Image]
"""A title and the picture below it."""


def overlay(photo: Image.Image, attention: Float[np.ndarray, "h w"]) -> Image.Image:
    """Colour a photograph orange where the attention weights are high."""
    scaled = attention / max(float(attention.max()), np.finfo(np.float32).tiny)
    mask = Image.fromarray(np.uint8(_OPACITY * scaled))
    mask = mask.resize(photo.size, Image.Resampling.BICUBIC)
    return Image.composite(Image.new("RGB", photo.size, _ORANGE), photo.convert("RGB"), mask)


def plot(caption: str, panels: Sequence[Panel]) -> Figure:
    """Draw panels with matplotlib below a caption.

    Raises:
      InputError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError:
        raise InputError(
            "plot needs matplotlib, which is not installed: pip install 'jaxcap[plot]'"
        ) from None
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        rows,
        columns,
        squeeze=False,
        figsize=(max(4.0, _INCHES * columns), 0.6 + 1.2 * _INCHES * rows),
        layout="constrained",
    )
    figure.suptitle(caption, wrap=True)
    for each in axes.flat:
        each.axis("off")
    for each, (title, picture) in zip(axes.flat, panels, strict=False):
        each.imshow(picture)
        each.set_title(title, fontsize="medium")
    return figure


def html(caption: str, panels: Sequence[Panel]) -> str:
    """Return a fragment of HTML with the caption and the panels, in the page's own colours."""
    figures = "".join(
        f'<figure style="margin:0"><img alt="" src="{_address(picture)}">'
        f"<figcaption>{escape(title)}</figcaption></figure>"
        for title, picture in panels
    )
    return (
        f'<div><p style="font-size:1.2em;margin:.4em 0" dir="auto">{escape(caption)}</p>'
        '<div style="display:flex;flex-wrap:wrap;gap:.6em;align-items:flex-end">'
        f"{figures}</div></div>"
    )


def _address(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
