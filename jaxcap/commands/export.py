"""`jaxcap export`: a trained captioner as a file for others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from jaxcap.commands import given
from jaxcap.errors import InputError

_FORMATS = {".safetensors": "safetensors", ".stablehlo": "stablehlo"}


@dataclass(frozen=True)
class ExportArguments:
    """Writes a trained captioner to a file, in one of two forms.

    FILE.safetensors holds the weights and all that belongs to them, without the optimizer's state.
    jaxcap loads it in the place of a run: this is how models are published.

    FILE.stablehlo holds encoder and search as a program for CPU, GPU and TPU, for any number of
    images, and FILE.json its vocabulary. To run it takes JAX alone; docs/export.md shows how.
    """

    run: tyro.conf.Positional[Path]
    """Directory of a run, as train.py left it, or a captioner in a .safetensors file."""
    file: tyro.conf.Positional[Path]
    """What to write; its suffix says in which form."""
    average_with: tuple[Path, ...] = ()
    """Further runs with the same train.start_from: the file holds the mean of all their parameters,
    which often captions better than each of them."""
    format: Literal["safetensors", "stablehlo"] | None = None
    """The form, for names with another suffix."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What weights are stored in. float32 keeps every bit. bfloat16 halves the file, and changes a
    word here and there; what is computed in is left as it was trained."""
    beam_size: int | None = None
    """Beams kept in search; default as in training. This and the next are what the file is told;
    whoever loads a .safetensors file may still choose otherwise."""
    max_length: int | None = None
    """Longest caption, in words; default as in training."""
    length_penalty: float | None = None
    """Exponent a of score = log p / length**a; default as in training."""
    attention: bool = False
    """stablehlo: return where the model looked at each word, too."""
    platforms: tuple[Literal["cpu", "cuda", "rocm", "tpu"], ...] = ("cpu", "cuda", "rocm", "tpu")
    """stablehlo: where the program can run."""
    note: str | None = None
    """safetensors: a line for users, such as data and licence; jaxcap caption says that of the
    model in the package."""
    force: bool = False
    """Replace files that exist."""


def run(arguments: ExportArguments, console: Console) -> int:
    """Writes the file, or files, and prints their names and sizes."""
    format = arguments.format or _FORMATS.get(arguments.file.suffix)
    if format is None:
        raise InputError(
            f"{arguments.file}: which form? Let the name end in .safetensors (to be loaded by "
            "jaxcap) or .stablehlo (to be run by JAX alone), or give --format."
        )
    if format == "safetensors" and arguments.attention:
        raise InputError("--attention: only for .stablehlo; leave it out.")
    if format == "stablehlo" and arguments.note is not None:
        raise InputError("--note: only for .safetensors; leave it out.")
    if not arguments.platforms:
        raise InputError("--platforms: name one or more of cpu, cuda, rocm and tpu.")
    files = [arguments.file]
    if format == "stablehlo":
        files.append(arguments.file.with_suffix(".json"))
    for file in files:
        _check_target(file, files, force=arguments.force)
    from jaxcap.captioning import export
    from jaxcap.captioning.loaded_model import load
    from jaxcap.storage import published

    search = given(
        beam_size=arguments.beam_size,
        max_length=arguments.max_length,
        length_penalty=arguments.length_penalty,
    )
    captioner = load(arguments.run, *arguments.average_with).averaged().with_search(**search).single
    if format == "safetensors":
        published.write(captioner, arguments.file, dtype=arguments.dtype, note=arguments.note)
    else:
        export.write_program(
            captioner,
            arguments.file,
            dtype=arguments.dtype,
            platforms=arguments.platforms,
            attention=arguments.attention,
        )
    for file in files:
        print(f"{file}\t{file.stat().st_size / 1e6:.1f} MB")
    return 0


def _check_target(file: Path, files: list[Path], *, force: bool) -> None:
    """Before minutes are spent: the file could be written, and nothing would be lost."""
    if len(set(files)) < len(files):
        raise InputError(f"{file}: the description goes there; call the program otherwise.")
    if file.is_dir() or not file.parent.is_dir():
        raise InputError(f"{file}: a folder is there, or none to write into.")
    if file.exists() and not force:
        raise InputError(f"{file}: there is such a file; --force replaces it.")
