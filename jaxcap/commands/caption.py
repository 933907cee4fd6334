"""`jaxcap caption`: what a trained captioner says of photographs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from jaxcap.commands import given
from jaxcap.errors import InputError
from jaxcap.files import IMAGE_SUFFIXES, images_below


@dataclass(frozen=True)
class CaptionArguments:
    """Captions photographs: files, and all images in folders."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    model: Path
    """Directory of a run, as train.py left it."""
    beam_size: int | None = None
    """Beams kept in search, and captions given with --json; default as in training."""
    json: bool = False
    """One JSON object per image and line, with all captions and their log probabilities."""


def run(arguments: CaptionArguments, console: Console) -> int:
    """Prints a line for every image; status 1 if some could not be captioned."""
    if not arguments.paths:
        raise InputError("Which images? Give files or folders: jaxcap caption PHOTO.jpg …")
    paths = list(_image_paths(arguments.paths))
    from jaxcap.inference import load

    captioner = load(arguments.model).with_search(**given(beam_size=arguments.beam_size))
    failed = 0
    for result in captioner.caption(paths, batch_size=min(16, len(paths))):
        if result.error is not None:
            failed += 1
            console.print(f"skipped: {_one_line(result.error)}", soft_wrap=True)
        if arguments.json:
            line = {
                "image": result.name,
                "captions": [
                    {"caption": c.text, "log_prob": round(c.log_prob, 4)} for c in result.captions
                ],
            }
            if result.error is not None:
                line["error"] = result.error
            print(json.dumps(line, ensure_ascii=False), flush=True)
        elif result.captions:
            print(f"{_one_line(result.name)}\t{result.captions[0].text}", flush=True)
    if failed:
        console.print(f"{failed} of {len(paths)} images could not be captioned.")
    return 1 if failed else 0


def _one_line(text: str) -> str:
    """Line breaks, tabs and other control characters written as escapes, as in `\\n`."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: repr(found[0])[1:-1], text)


def _image_paths(paths: Sequence[Path]) -> Iterator[Path]:
    """Files as given, folders as the images in them (and below), in order of name."""
    for path in paths:
        if path.is_dir():
            found = images_below(path)
            if not found:
                raise InputError(
                    f"{path}: no image in this folder (looked for {', '.join(IMAGE_SUFFIXES)})."
                )
            yield from found
        elif path.exists():
            yield path
        else:
            raise InputError(f"{path}: there is no such file or folder.")
