"""`jaxcap export`: write a trained captioner to a file for others."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from jaxcap.commands.search_options import SearchGroup, SearchOptions, given_search
from jaxcap.errors import InputError

_FORMATS = {".safetensors": "safetensors", ".stablehlo": "stablehlo"}


@dataclass(frozen=True)
class ExportArguments:
    """Write a trained captioner to a file, in one of two formats.

    FILE.safetensors holds the weights and all that the model needs, without the optimizer's state.
    jaxcap loads it like a run: use it to publish a model.

    FILE.stablehlo holds encoder and search as one program for CPU, GPU and TPU and any number of
    images; FILE.json holds its vocabulary. JAX alone runs it.
    """

    run: tyro.conf.Positional[Path]
    """Directory of a run, or a captioner in a .safetensors file."""
    file: tyro.conf.Positional[Path]
    """The file to write; its suffix selects the format."""
    average_with: tuple[Path, ...] = ()
    """More runs with the same train.start_from: write the mean of their parameters, which often
    captions better than each of them."""
    format: Literal["safetensors", "stablehlo"] | None = None
    """The format, for names with another suffix."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the stored weights. float32 keeps every bit. bfloat16 halves the file and changes a
    word here and there; the type of computation stays as it was trained."""
    attention: bool = False
    """stablehlo: also return the attention weights of each word."""
    platforms: tuple[Literal["cpu", "cuda", "rocm", "tpu"], ...] = ("cpu", "cuda", "rocm", "tpu")
    """stablehlo: platforms that the program supports."""
    note: str | None = None
    """safetensors: a line for users, such as data and licence; jaxcap caption prints it for the
    model in the package."""
    force: bool = False
    """Replace existing files."""
    search: SearchGroup = field(default_factory=SearchOptions)


def run(arguments: ExportArguments, console: Console) -> int:
    """Write the file, or files, and print their names and sizes."""
    format = arguments.format or _FORMATS.get(arguments.file.suffix)
    if format is None:
        raise InputError(
            f"{arguments.file}: unknown format. Let the name end in .safetensors (for jaxcap) or "
            ".stablehlo (for JAX alone), or give --format."
        )
    if format == "safetensors" and arguments.attention:
        raise InputError("--attention is for .stablehlo only; leave it out.")
    if format == "stablehlo" and arguments.note is not None:
        raise InputError("--note is for .safetensors only; leave it out.")
    if not arguments.platforms:
        raise InputError("--platforms is empty; give one or more of cpu, cuda, rocm and tpu.")
    files = [arguments.file]
    if format == "stablehlo":
        files.append(arguments.file.with_suffix(".json"))
    for file in files:
        _check_target(file, files, force=arguments.force)
    from jaxcap.captioning import export
    from jaxcap.captioning.loaded_model import load
    from jaxcap.storage import published

    captioner = load(arguments.run, *arguments.average_with).averaged()
    single = captioner.with_search(**given_search(arguments.search)).single
    if format == "safetensors":
        published.write(single, arguments.file, dtype=arguments.dtype, note=arguments.note)
    else:
        export.write_program(
            single,
            arguments.file,
            dtype=arguments.dtype,
            platforms=arguments.platforms,
            attention=arguments.attention,
        )
    for file in files:
        print(f"{file}\t{file.stat().st_size / 1e6:.1f} MB")
    return 0


def _check_target(file: Path, files: list[Path], *, force: bool) -> None:
    """Refuse a file that cannot be written or would replace another, before the work starts."""
    if len(set(files)) < len(files):
        raise InputError(f"{file}: this is the name of the description; give another name.")
    if file.is_dir():
        raise InputError(f"{file}: this is a folder; give the name of a file.")
    if not file.parent.is_dir():
        raise InputError(f"{file}: the folder {file.parent} does not exist; create it first.")
    if file.exists() and not force:
        raise InputError(f"{file}: the file exists; --force replaces it.")
