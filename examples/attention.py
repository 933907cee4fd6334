"""Draw where the model in the package looks while it writes each word of a caption.

python examples/attention.py examples/sheep.jpg attention.jpg
python examples/attention.py photo.jpg attention.jpg --words sheep running grass
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import jaxcap
from jaxcap.captioning.drawing import overlay

SIDE = 224  # pixels of one panel, both ways


def draw(path: Path, *, words: list[str]) -> Image.Image:
    """Draw the photograph with its caption, then a panel for each of `words` (default: all).

    Text is inside the panels, so the picture looks the same on light and dark pages.
    """
    (result,) = jaxcap.load().caption([path], attention=True)
    caption = result.captions[0]
    shown = [word for word in caption.words if not words or word.text in words]
    photo = Image.open(path).convert("RGB").resize((SIDE, SIDE))
    panels = [photo, *(overlay(photo, word.attention) for word in shown)]
    titles = [f"{word.text}  {word.probability:.2f}" for word in shown]

    sheet = Image.new("RGB", (len(panels) * SIDE, SIDE))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for i, (panel, title) in enumerate(zip(panels, [caption.text, *titles], strict=True)):
        sheet.paste(panel, (i * SIDE, 0))
        text, below = textwrap.fill(title, 24), (i * SIDE + 8, SIDE - 8)
        pen.multiline_text(below, text, "white", font, "ld", stroke_width=2, stroke_fill="black")
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photograph", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--words", nargs="*", default=[], help="words to draw; default: all")
    arguments = parser.parse_args()
    draw(arguments.photograph, words=arguments.words).save(arguments.output, quality=88)
