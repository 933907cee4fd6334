"""What TensorBoard shows of a training: every figure of its log, and captions on their images."""

from __future__ import annotations

import functools
import io
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxcap.data import images
from jaxcap.data.pipeline import Source
from jaxcap.errors import InputError
from jaxcap.evaluation import Evaluation, LogLine
from jaxcap.files import replacing
from jaxcap.training import event_files

SAMPLES = 8
"""Images of the evaluated split that are shown, the same ones after each epoch."""

_WIDTH, _HEIGHT, _MARGIN, _SIZE = 320, 240, 8, 15
"""Pixels: of a picture, the image in it at most, and its letters."""
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
"""Looked for where Pillow's own font, which is of plain English, lacks a letter."""


class TensorBoard:
    """The event file of a run, one for all of its sessions.

    A run that goes on gets a new file with what belongs to its past: the figures as the log has
    them, so no point is doubled or lost, and the samples of the file before, which is then emptied.
    Nothing of training depends on it: when it cannot be written, that is said once.
    """

    def __init__(
        self,
        directory: Path,
        lines: Sequence[LogLine],
        *,
        split: str,
        say: Callable[[str], None],
    ):
        """Begins where the log is.

        Args:
          lines: what `metrics.jsonl` holds already.
          split: the one that is evaluated.
          say: told of what goes wrong.
        """
        self._directory, self._split, self._say = directory, split, say
        self._path: Path | None = None
        try:
            self._path = self._begun(lines)
        except OSError as error:
            self._give_up(error)

    def write(self, line: LogLine) -> None:
        """Shows the figures of a line of the log."""
        self._append(self._of_line(line, time.time()))

    def samples(self, evaluation: Evaluation, source: Source, step: int) -> None:
        """Shows some images with their captions, as pictures and as text."""
        if self._path is None:
            return
        numbers = np.unique(np.linspace(0, len(source) - 1, SAMPLES).astype(int))
        values, rows = [], ["| image | caption | written by people |", "|---|---|---|"]
        for record in (source[int(number)] for number in numbers):
            name, references = record["image_id"], record["captions"]
            caption = evaluation.captions[name][0].text
            try:
                picture = captioned(record["image"], caption, references, name=name)
            except InputError:
                continue  # evaluation has met it before, and has said what there is to say
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=85)
            tag = f"{self._split} captions/{name}"
            width, height = picture.size
            values.append(event_files.image(tag, buffer.getvalue(), width=width, height=height))
            cells = (markdown(name), markdown(caption), "<br>".join(map(markdown, references)))
            rows.append(f"| {' | '.join(cells)} |")
        values.append(event_files.text(f"{self._split} captions", "\n".join(rows)))
        self._append(event_files.event(values, step=step, wall_time=time.time()))

    def _begun(self, lines: Sequence[LogLine]) -> Path:
        """Writes what is past into a new file."""
        self._directory.mkdir(exist_ok=True)
        there = sorted(self._directory.glob("events.out.tfevents.*"))
        # Where a session was lost between writing its file and emptying the one before, the new
        # one has it all.
        last = next((path for path in reversed(there) if path.stat().st_size), None)
        kept = [
            record
            for record in event_files.records(b"" if last is None else last.read_bytes())
            if any(tag.startswith(f"{self._split} captions") for tag in record.tags)
            and any(record.step == line["step"] and self._scores(line) for line in lines)
        ]
        # Time as if the sessions had followed each other without a break.
        begin = time.time() - (lines[-1]["elapsed_s"] if lines else 0.0)
        kept += [self._of_line(line, begin + line["elapsed_s"]) for line in lines]
        kept.sort(key=lambda record: record.step)
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9}.{now % 10**9:09}.{socket.gethostname()}"
        path = self._directory / name
        with replacing(path) as beside:
            content = event_files.header(begin) + b"".join(record.content for record in kept)
            beside.write_bytes(content)
        halves = self._directory.glob(".events.out.tfevents.*.part")  # of sessions killed here
        for each in (*there, *halves):
            if each != last:
                each.unlink()
        if last is not None:  # an open TensorBoard goes on to the next file only while it is there
            os.truncate(last, 0)
        return path

    def _scores(self, line: LogLine) -> bool:
        return any(key.startswith(f"{self._split}/") for key in line)

    def _of_line(self, line: LogLine, wall_time: float) -> event_files.Record:
        """Scores have their split's name already; the rest is of training."""
        values = [
            event_files.scalar(key if "/" in key else f"train/{key}", float(value))
            for key, value in line.items()
            if key not in ("step", "epoch", "elapsed_s")
        ]
        return event_files.event(values, step=int(line["step"]), wall_time=wall_time)

    def _append(self, record: event_files.Record) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("ab") as file:
                file.write(record.content)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._say(
            f"{self._directory}: cannot write there ({error.strerror}); TensorBoard will not see "
            "what comes from here on. metrics.jsonl has all figures."
        )
        self._path = None


def captioned(image: bytes, caption: str, references: Sequence[str], *, name: str) -> Image.Image:
    """A picture of the image, its caption below, and in grey what people wrote.

    Raises:
      InputError: `image`, which messages call `name`, cannot be decoded.
    """
    photograph = Image.fromarray(images.decode(image, name=name, size=_WIDTH))
    scale = min(_WIDTH / photograph.width, _HEIGHT / photograph.height)
    size = tuple(max(1, round(scale * side)) for side in photograph.size)
    photograph = photograph.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    font = _font("".join((caption, *references)))
    texts = [(line, "black") for line in _wrapped(caption, font)]
    texts += [(line, "dimgray") for each in references for line in _wrapped(f"- {each}", font)]
    spacing = round(1.3 * _SIZE)
    height = photograph.height + 2 * _MARGIN + spacing * len(texts)
    picture = Image.new("RGB", (_WIDTH, height), "white")
    picture.paste(photograph, ((_WIDTH - photograph.width) // 2, 0))
    draw = ImageDraw.Draw(picture)
    for number, (line, colour) in enumerate(texts):
        place = (_MARGIN, photograph.height + _MARGIN + spacing * number)
        draw.text(place, line, font=font, fill=colour)
    return picture


def _wrapped(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """Lines that fit into a picture; words that do not, and scripts without spaces, are broken."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= _WIDTH - 2 * _MARGIN:
            lines[-1] = joined
            continue
        lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > _WIDTH - 2 * _MARGIN:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line]


def _font(text: str) -> ImageFont.FreeTypeFont:
    """The first font that has all letters of a text; without any, some are drawn as boxes."""
    fonts = _fonts()
    return next((font for font in fonts if all(_draws(font, each) for each in text)), fonts[-1])


@functools.cache
def _fonts() -> tuple[ImageFont.FreeTypeFont, ...]:
    default = ImageFont.load_default(_SIZE)
    assert isinstance(default, ImageFont.FreeTypeFont)
    fonts = [default]
    for name in _FONTS:
        try:
            fonts.append(ImageFont.truetype(name, _SIZE))
        except OSError:  # not installed
            continue
    return tuple(fonts)


@functools.lru_cache(maxsize=10_000)
def _draws(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    absent = font.getmask("\U0010fffe")  # no character has this number
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(absent)


def markdown(text: str) -> str:
    """As Markdown that shows the text as it is."""
    return "".join(
        c if c.isalnum() or c in " .,'-" or ord(c) > 127 else f"&#{ord(c)};"
        for c in " ".join(text.split())
    )
