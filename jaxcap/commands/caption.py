"""`jaxcap caption`: caption photographs with a trained model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import tyro
from rich.console import Console

from jaxcap.commands import parsing
from jaxcap.commands.caption_page import write_page
from jaxcap.commands.engine import EngineOptions, caption_on_engine
from jaxcap.commands.search_options import (
    SEARCH_OPTIONS_WITH_VALUE,
    SearchGroup,
    SearchOptions,
    given_search,
)
from jaxcap.commands.shares import choose_part, join_parts, name_unfinished
from jaxcap.commands.tally import Tally
from jaxcap.files import check_target
from jaxcap.messages.errors import InputError, ignore, one_line
from jaxcap.messages.progress import Display, print_out

if TYPE_CHECKING:
    from jaxcap.caption_files.beside import BesideWriter
    from jaxcap.caption_files.output_formats import Format, Key
    from jaxcap.caption_files.shard_writing import ShardWriter
    from jaxcap.caption_files.writing import CaptionStream, CaptionWriter
    from jaxcap.captioning.image_reading import ImageLike
    from jaxcap.captioning.loaded_model import LoadedModel
    from jaxcap.data.image_paths import ImagePath, Part


@dataclass(frozen=True)
class CaptionArguments:
    """Caption photographs.

    PATH is a file, a folder with all its subfolders, a quoted pattern ("*.jpg", or "**" for any
    folders), or - for a list on standard input, one path per line.

    Captions go to standard output or to a file. Repeat an interrupted command to continue its file.
    Images that cannot be captioned are listed at the end, and the exit status is then 1.

        jaxcap caption photo.jpg holiday/
        jaxcap caption holiday/ --output captions.jsonl --words
        jaxcap caption holiday/ --output page.html --model runs/NAME
        find holiday/ -name '*.jpg' | jaxcap caption - --beam-size 5
    """

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PATH…")]
    """Photographs, folders, .tar and .parquet files of photographs, patterns, or - for a list."""
    model: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")] = ()
    """Directory of a run, or a published model. Several, each with its own --model, form an
    ensemble. Default: the model in the package."""
    output: Path | None = None
    """File for the captions. Images that it already holds are not captioned again, and
    FILE.made-with beside it records the model and the options. A name that ends in .html makes
    a page with the images and where the model looked for each word. A name that ends in .tar or
    .parquet is for the captions of a shard, which are written as a whole."""
    restart: bool = False
    """Caption all images again, and replace the captions in --output."""
    beside: Literal["txt", "caption", "json", "xmp"] | None = None
    """Write each caption into a file beside its image: photo.txt or photo.caption, for trainers of
    image generators; photo.json; or photo.jpg.xmp, for photo managers. Any other content of the
    file is kept."""
    prefix: str = ""
    """--beside: text before each caption."""
    suffix: str = ""
    """--beside: text after each caption."""
    existing: Literal["skip", "replace", "append"] = "skip"
    """--beside: what to do with an existing caption. skip: leave the image out, so that repeating
    the command continues it; replace it; or append a line."""
    format: Literal["text", "jsonl", "csv", "coco"] | None = None
    """text: NAME<TAB>CAPTION. jsonl: one object per line, with all captions. csv: a table. coco:
    COCO results, one JSON array. Default: by the suffix of --output, else text."""
    json: bool = False
    """Short for --format jsonl."""
    words: bool = False
    """jsonl: add the probability and the attention weights of each word."""
    min_confidence: float = 0.0
    """Leave out images whose best caption has a confidence below this, from 0 to 1. Their number is
    printed at the end."""
    part: str | None = None
    """Caption one share of the images: 2/4 is the second of four, for several processes or
    machines, each with its own --output. Processes started by srun or mpirun take one part each."""
    join: bool = False
    """Join the files of all parts, given as PATHs, into --output. No image is captioned."""
    batch_size: int = 32
    """Images captioned at once."""
    engine: tyro.conf.OmitArgPrefixes[EngineOptions] = field(default_factory=EngineOptions)
    search: SearchGroup = field(default_factory=SearchOptions)


def parse(argv: list[str]) -> CaptionArguments:
    """Parse the arguments of `jaxcap caption`."""
    return parsing.parse(CaptionArguments, "jaxcap caption", paths_last(argv))


def paths_last(arguments: Sequence[str]) -> list[str]:
    """Reorder command-line arguments so that paths may also stand before or between options."""
    own = {
        each.name
        for options in (CaptionArguments, EngineOptions)
        for each in dataclasses.fields(options)
        if each.type != "bool"
    }
    with_value = {f"--{name.replace('_', '-')}" for name in own | SEARCH_OPTIONS_WITH_VALUE}
    paths: list[str] = []
    others: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--":
            paths += left
        elif argument == "-" or not argument.startswith("-"):
            paths.append(argument)
        else:
            others.append(argument)
            if argument.replace("_", "-") in with_value:
                others += itertools.islice(left, 1)
    return [*others, "--", *paths] if paths else others


def run(arguments: CaptionArguments, console: Console) -> int:
    """Print or write the captions of every image; return 1 if some could not be captioned."""
    if arguments.output is not None and arguments.engine.engine is None:
        check_target(arguments.output, "--output")
    if arguments.join:
        if arguments.output is None:
            raise InputError("--join needs --output, the file to write.")
        join_parts(
            arguments.paths,
            arguments.output,
            _format(arguments),
            console,
            restart=arguments.restart,
        )
        return 0
    if arguments.restart and arguments.output is None:
        raise InputError("--restart replaces the captions in a file; give --output.")
    _check_beside(arguments)
    if arguments.batch_size < 1:
        raise InputError(f"--batch-size is {arguments.batch_size}; it must be at least 1.")
    if not 0 <= arguments.min_confidence <= 1:
        raise InputError(f"--min-confidence is {arguments.min_confidence}; it must be from 0 to 1.")
    arguments.engine.check()
    if arguments.engine.engine is not None:
        return _on_engine(arguments, console)
    from jaxcap.caption_files.beside import BesideWriter
    from jaxcap.caption_files.output_formats import Text
    from jaxcap.caption_files.shard_writing import ShardWriter
    from jaxcap.caption_files.writing import CaptionStream, CaptionWriter
    from jaxcap.captioning.identity import identity
    from jaxcap.data.image_names import SHARD_SUFFIXES
    from jaxcap.data.image_paths import LIST, image_paths

    is_page = _suffix(arguments.output) in (".html", ".htm") and not (
        arguments.format or arguments.json
    )
    if is_page and arguments.output is not None and not arguments.restart:
        from jaxcap.report.assets import check_page

        check_page(arguments.output, "--output", ", or replace it with --restart")
    is_shard = _suffix(arguments.output) in SHARD_SUFFIXES and not (
        arguments.format or arguments.json or arguments.words
    )
    format = Text() if is_page or is_shard else _format(arguments)
    part, output = choose_part(arguments.part, arguments.paths, arguments.output, console)
    if is_page and part is not None:
        raise InputError("A page cannot be joined from parts; use one process, without --part.")
    listed = _standard_input() if Path(LIST) in arguments.paths else io.BytesIO()
    tally = Tally(console, arguments.min_confidence)
    found = image_paths(
        arguments.paths, listed=listed, unreadable=tally.fail, left_out=tally.hidden.append
    )
    captioner = _load(arguments, console)
    if is_page:
        assert output is not None
        write_page(captioner, found, output, tally, batch_size=arguments.batch_size)
        return tally.close()
    if output is not None or arguments.beside is not None:
        tally.display = Display(console, "captioning", total=_count(arguments, part))
    if arguments.beside is not None:
        writer = BesideWriter(
            arguments.beside, arguments.prefix, arguments.suffix, arguments.existing
        )
        _caption(captioner, _wanted(found, part, writer, tally), writer, tally, arguments)
        tally.say_where(f"in .{arguments.beside} files beside them")
        return tally.close()
    with (
        CaptionStream(functools.partial(print_out, end=""), format)
        if output is None
        else ShardWriter(output, restart=arguments.restart)
        if is_shard
        else CaptionWriter(
            output,
            format,
            made_with={
                **identity(captioner),
                "words": arguments.words,
                "min_confidence": arguments.min_confidence,
            },
            restart=arguments.restart,
        ) as file
    ):
        if isinstance(file, CaptionWriter):
            name_unfinished(file.path, "it was removed", console, file.removed)
        _caption(captioner, _wanted(found, part, file, tally), file, tally, arguments)
    if output is not None:
        tally.say_where(str(output))
    return tally.close()


def _load(arguments: CaptionArguments, console: Console) -> LoadedModel:
    from jaxcap.captioning.loaded_model import load
    from jaxcap.storage.packaged import packaged

    captioner = load(*(arguments.model or (packaged(),)))
    if not arguments.model:
        about = f" ({captioner.note})" if captioner.note else ""
        console.print(f"Captioning with the model in the package{about}", soft_wrap=True)
    if arguments.min_confidence and captioner.calibration is None:
        console.print(
            "This model is not calibrated: confidence is the mean probability of a caption's "
            "words. jaxcap export --calibrate makes it the probability that the caption is good.",
            soft_wrap=True,
        )
    options = given_search(arguments.search)
    return captioner.with_search(**options) if options else captioner


def _on_engine(arguments: CaptionArguments, console: Console) -> int:
    import jax

    from jaxcap.batch.ray_shards import require_ray
    from jaxcap.caption_files.output_formats import SUFFIXES
    from jaxcap.data.image_names import SHARD_SUFFIXES
    from jaxcap.data.image_paths import LIST, image_paths, named_left_out

    without_effect = ("beside", "format", "json", "words", "min_confidence", "part")
    if given := [name for name in without_effect if getattr(arguments, name)]:
        raise InputError(
            f"--{given[0].replace('_', '-')} has no effect with --engine, which writes all "
            "captions into Parquet files."
        )
    suffix = _suffix(arguments.output)
    if arguments.output is None or suffix in (*SUFFIXES, *SHARD_SUFFIXES, ".html", ".htm"):
        raise InputError(
            f"--output is {arguments.output}; with --engine it is a folder for the captions, such "
            "as --output captions."
        )
    require_ray()
    # This process only loads the model; the GPUs' memory is for the actors.
    jax.config.update("jax_platforms", "cpu")
    unreadable: list[str] = []
    hidden: list[Path] = []
    found = image_paths(
        arguments.paths,
        listed=_standard_input() if Path(LIST) in arguments.paths else io.BytesIO(),
        unreadable=unreadable.append,
        left_out=hidden.append,
        whole_shards=True,
    )
    status = caption_on_engine(
        arguments.engine,
        _load(arguments, console),
        found,
        arguments.output,
        console,
        restart=arguments.restart,
        batch_size=arguments.batch_size,
    )
    for reason in unreadable:
        console.print(f"skipped: {one_line(reason)}", soft_wrap=True)
    if hidden:
        console.print(named_left_out(hidden), soft_wrap=True)
    return 1 if unreadable else status


def _check_beside(arguments: CaptionArguments) -> None:
    from jaxcap.data.image_names import SHARD_SUFFIXES

    given = [
        f"--{name}"
        for name in ("output", "format", "json", "words", "restart")
        if getattr(arguments, name)
    ]
    if arguments.beside is not None and given:
        raise InputError(f"--beside writes a file for each image, so {given[0]} has no effect.")
    shards = [path for path in arguments.paths if path.suffix.lower() in SHARD_SUFFIXES]
    if arguments.beside is not None and shards:
        raise InputError(
            f"--beside: the images in {shards[0]} have no files beside them; give --output "
            f"{shards[0].with_stem(shards[0].stem + '-captions').name}."
        )
    for name in ("prefix", "suffix", "existing"):
        default = getattr(CaptionArguments, name)
        if arguments.beside is None and getattr(arguments, name) != default:
            raise InputError(f"--{name} needs --beside txt, caption, json or xmp.")


def _standard_input() -> io.BufferedIOBase:
    # A separate file object: Python closes `sys.stdin` at exit, and closing would wait for the
    # thread that may still be blocked in a read.
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except OSError:  # not a real file, for example under a test runner
        return cast(io.BufferedIOBase, sys.stdin.buffer)


def _format(arguments: CaptionArguments) -> Format:
    from jaxcap.caption_files.output_formats import FORMATS, SUFFIXES

    if arguments.json and arguments.format not in (None, "jsonl"):
        raise InputError(
            f"--json means --format jsonl, but --format is {arguments.format}; leave one out."
        )
    name: str | None = "jsonl" if arguments.json else arguments.format
    if name is None and arguments.output is not None:
        name = SUFFIXES.get(_suffix(arguments.output))
        if name is None:
            raise InputError(
                f"--output {arguments.output}: unknown format. Give --format "
                f"{', '.join(FORMATS)}, or a name that ends in {', '.join(SUFFIXES)} or .html."
            )
    if arguments.words and name != "jsonl":
        raise InputError("--words needs --format jsonl.")
    return FORMATS[name or "text"](words=arguments.words)


def _suffix(path: Path | None) -> str:
    return "" if path is None else path.suffix.lower()


def _wanted(
    found: Iterable[ImagePath],
    part: Part | None,
    file: CaptionWriter | CaptionStream | BesideWriter | ShardWriter,
    tally: Tally,
) -> Iterator[ImageLike]:
    """Yield the images of this part that have no captions yet, each once."""
    seen: dict[Key, ImagePath] = {}
    for image in found:
        key = file.key(str(image.path))
        # Before parts are checked: an image below two given folders has two names, and each name
        # may belong to another part.
        other = seen.setdefault(key, image)
        if part is not None and image not in part:
            continue
        if other is not image and other.path != image.path:
            tally.fail(f"{image.path}: {file.clash.format(key=key, other=other.path)}")
            continue
        try:
            if other is not image:
                if other.part != image.part and _content(other) != _content(image):
                    tally.fail(f"{image.path}: another image of this name; give each its own")
                continue
            has_captions = file.has(key)
        except InputError as error:
            tally.fail(str(error))
            continue
        if has_captions:
            tally.before += 1
        else:
            yield image.image


def _content(image: ImagePath) -> bytes | None:
    return None if image.part is None else image.part.read()


def _caption(
    captioner: LoadedModel,
    wanted: Iterator[ImageLike],
    file: CaptionWriter | CaptionStream | BesideWriter | ShardWriter,
    tally: Tally,
    arguments: CaptionArguments,
) -> None:
    with tally.display or contextlib.nullcontext():
        for result in captioner.caption(
            wanted, batch_size=arguments.batch_size, attention=arguments.words
        ):
            file.add(tally.add(result))


def _count(arguments: CaptionArguments, part: Part | None) -> int | None:
    """Count the images of this part; None if a list or a shard would have to be read for that."""
    from jaxcap.data.image_names import SHARD_SUFFIXES
    from jaxcap.data.image_paths import LIST, image_paths

    if Path(LIST) in arguments.paths:
        return None
    found = image_paths(arguments.paths, listed=io.BytesIO(), unreadable=ignore, whole_shards=True)
    count = 0
    for image in found:
        if image.path.suffix.lower() in SHARD_SUFFIXES:
            return None
        count += part is None or image in part
    return count
