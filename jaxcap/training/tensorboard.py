"""Show training metrics and captioned images in TensorBoard."""

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
from jaxcap.evaluation import Evaluation, LogLine
from jaxcap.files import no_link, read_bytes, replacing
from jaxcap.messages.errors import InputError
from jaxcap.training import event_files

SAMPLES = 8
"""The number of evaluation images to show, the same ones after each epoch."""

_WIDTH, _HEIGHT, _MARGIN, _SIZE = 320, 240, 8, 15
"""Pixels: width of a picture, largest height of the image in it, margin and font size."""
_MAX_BYTES = 1 << 30
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")
"""Fonts to try if Pillow's own font, which covers plain English, lacks a letter."""


class TensorBoard:
    """The event file of a run, shared by all its sessions.

    A resumed run gets a new file with its whole past: the metrics from the log, so that no point is
    missing or doubled, and the samples of the previous file, which is then emptied. Training does
    not depend on this file: a failure to write is reported once.
    """

    def __init__(
        self,
        directory: Path,
        lines: Sequence[LogLine],
        *,
        split: str,
        report: Callable[[str], None],
    ):
        """Create the file with the lines of the log so far.

        Args:
          lines: the lines of `metrics.jsonl`.
          split: the evaluated split.
          report: called with a message when the file cannot be written.
        """
        self._directory, self._split, self._report = directory, split, report
        self._path: Path | None = None
        try:
            self._path = self._create_file(lines)
        except (OSError, InputError) as error:
            self._give_up(error)

    def write(self, line: LogLine) -> None:
        """Write the metrics of a log line."""
        self._append(self._encode_line(line, time.time()))

    def samples(self, evaluation: Evaluation, source: Source, step: int) -> None:
        """Write some images with their captions, as pictures and as text."""
        if self._path is None:
            return
        numbers = np.unique(np.linspace(0, len(source) - 1, SAMPLES).astype(int))
        values, rows = [], ["| image | caption | references |", "|---|---|---|"]
        names = list(evaluation.captions)
        for number in map(int, numbers):
            record, name = source[number], names[number]
            references = record["captions"]
            caption = evaluation.captions[name][0].text
            try:
                picture = captioned(record["image"], caption, references, name=name)
            except InputError:
                continue  # evaluation has reported it already
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=85)
            tag = f"{self._split} captions/{name}"
            width, height = picture.size
            values.append(event_files.image(tag, buffer.getvalue(), width=width, height=height))
            cells = (markdown(name), markdown(caption), "<br>".join(map(markdown, references)))
            rows.append(f"| {' | '.join(cells)} |")
        values.append(event_files.text(f"{self._split} captions", "\n".join(rows)))
        self._append(event_files.event(values, step=step, wall_time=time.time()))

    def _create_file(self, lines: Sequence[LogLine]) -> Path:
        """Write the past of the run into a new file."""
        if self._directory.is_symlink():  # earlier event files are removed, maybe another run's
            raise InputError(f"{self._directory}: a link, not a folder. Remove it.")
        self._directory.mkdir(exist_ok=True)
        found = sorted(self._directory.glob("events.out.tfevents.*"))
        # A link could lead to any file, and the last of these is emptied.
        there = [path for path in found if path.is_file() and not path.is_symlink()]
        # If a session was killed between writing its file and emptying the previous one, the
        # newer file is complete.
        last = next((path for path in reversed(there) if path.stat().st_size), None)
        data = b"" if last is None else read_bytes(last, at_most=_MAX_BYTES)
        kept = [
            record
            for record in event_files.records(data)
            if any(tag.startswith(f"{self._split} captions") for tag in record.tags)
            and any(record.step == line["step"] and self._scores(line) for line in lines)
        ]
        # Wall times as if the sessions had run without a break.
        elapsed = [line.get("elapsed_s", 0.0) for line in lines]
        begin = time.time() - max(elapsed, default=0.0)
        kept += [
            self._encode_line(line, begin + seconds)
            for line, seconds in zip(lines, elapsed, strict=True)
        ]
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
        if last is not None:  # an open TensorBoard needs the file to exist to move on
            os.truncate(last, 0)
        return path

    def _scores(self, line: LogLine) -> bool:
        return any(key.startswith(f"{self._split}/") for key in line)

    def _encode_line(self, line: LogLine, wall_time: float) -> event_files.Record:
        """Encode a log line. Scores already carry the name of their split; the rest is training."""
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
            with open(self._path, "ab", opener=no_link) as file:
                file.write(record.content)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError | InputError) -> None:
        reason = error.strerror if isinstance(error, OSError) else error
        self._report(
            f"{self._directory}: cannot write there ({reason}). TensorBoard will show "
            "nothing from here on; metrics.jsonl has all metrics."
        )
        self._path = None


def captioned(image: bytes, caption: str, references: Sequence[str], *, name: str) -> Image.Image:
    """Draw an image with its caption below, and the references in grey.

    Args:
      image: an encoded image file.
      name: the name of the image in messages.

    Raises:
      InputError: the image cannot be decoded.
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
    """Wrap text to the width of a picture, breaking words that are too long for a line."""
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
    """Return the first font with all letters of a text, or the last font."""
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
    """Escape text for Markdown."""
    return "".join(
        c if c.isalnum() or c in " .,'-" or ord(c) > 127 else f"&#{ord(c)};"
        for c in " ".join(text.split())
    )
