"""`jaxcap caption`: what a trained captioner says of photographs."""

from __future__ import annotations

import dataclasses
import glob
import io
import itertools
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from jaxcap.commands import given
from jaxcap.errors import InputError

if TYPE_CHECKING:
    from jaxcap.caption_files.formats import Format, Key
    from jaxcap.caption_files.writing import CaptionStream, CaptionWriter
    from jaxcap.captioning.loaded_model import LoadedModel
    from jaxcap.data.image_paths import ImagePath, Part
    from jaxcap.storage.program_cache import Store

_LISTED = 1000
"""Failures that are listed; beyond them there is a reason common to all."""
_FEW = 8
"""Images that are captioned together where there are more than one, and no more than these."""
_SECONDS = 15.0
"""Between two lines that tell how far it is."""


@dataclass(frozen=True)
class CaptionArguments:
    """Captions photographs: files, folders and all in them, patterns in quotes ("*.jpg", "**"
    for any folders), or a list on standard input, one a line (-).

    Results go to standard output, or to a file: a command that was interrupted is given again, and
    goes on from there. Images that cannot be captioned are listed at the end; the status is then 1.
    """

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PATH…")]
    model: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")] = ()
    """Directory of a run, as train.py left it, or a published model. Several, each after a --model
    of its own, caption together, as an ensemble. Default: the model in the package."""
    output: Path | None = None
    """File for the captions. What it holds already is not made again."""
    format: Literal["text", "jsonl", "csv", "coco"] | None = None
    """text: NAME<TAB>CAPTION. jsonl: an object a line, with all captions. csv: a table. coco: COCO
    results, one JSON array. Default by the suffix of --output, else text."""
    json: bool = False
    """The same as --format jsonl."""
    words: bool = False
    """jsonl: also the probability of each word, and where the model looked as it chose it."""
    part: str | None = None
    """2/4 is the second of four shares of the images, for several processes or machines at once,
    each with an --output of its own. Processes that srun or mpirun starts take a part each."""
    join: bool = False
    """PATHs are the files of the parts: put them together in --output. No image is captioned."""
    batch_size: int = 32
    """Images captioned at once; fewer where there are not so many."""
    method: Literal["beam", "diverse", "greedy", "sample"] | None = None
    """How words are searched for. This and all that follows: default as the run was configured."""
    beam_size: int | None = None
    """beam, diverse: beginnings of captions that are kept."""
    n_best: int | None = None
    """beam, diverse: captions of each image in jsonl; 0: as many as there are beams."""
    length_penalty: float | None = None
    """beam, diverse: above 1 favours longer captions; 0 sums log probabilities."""
    groups: int | None = None
    """diverse: groups that the beams are divided into, equally."""
    diversity: float | None = None
    """diverse: how much the groups avoid each other's words; 0.2 to 0.8 are usual."""
    samples: int | None = None
    """sample: captions drawn for each image."""
    temperature: float | None = None
    """sample: below 1 likely words become likelier, above 1 the others do."""
    top_k: int | None = None
    """sample: draw from that many likeliest words; 0: from all."""
    top_p: float | None = None
    """sample: draw from the fewest words whose probabilities come to this."""
    seed: int | None = None
    """sample: an image and a seed always give the same captions."""
    min_length: int | None = None
    """Shortest caption, in words."""
    max_length: int | None = None
    """Longest caption, in words."""
    require: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="WORD")
    ] = ()
    """beam: a word that every caption must hold, or alternatives, as in "dog|dogs|puppy"; up to
    four, each after a --require of its own."""
    ban: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="WORD")] = ()
    """A word that no caption may hold; several, each after a --ban of its own."""


def arranged(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments with all paths last, so that they may stand between options too."""
    options = {
        f"--{each.name.replace('_', '-')}": each.type not in (bool, "bool")
        for each in dataclasses.fields(CaptionArguments)
    }
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
            if options.get(argument.replace("_", "-"), False):
                others += itertools.islice(left, 1)
    return [*others, "--", *paths] if paths else others


def run(arguments: CaptionArguments, console: Console) -> int:
    """Prints or writes the captions of every image; status 1 if some could not be captioned."""
    if arguments.join:
        return _join(arguments, console)
    if arguments.batch_size < 1:
        raise InputError(f"--batch-size is {arguments.batch_size}; it must be at least 1.")
    from jaxcap.caption_files.writing import CaptionStream, CaptionWriter
    from jaxcap.captioning.loaded_model import load
    from jaxcap.data.image_paths import LIST, image_paths
    from jaxcap.pretrained import packaged

    format = _format(arguments)
    arguments, part = _shared(arguments, console)
    listed = _standard_input() if Path(LIST) in arguments.paths else io.BytesIO()
    tally = _Tally(console, quiet=arguments.output is None)
    found = image_paths(arguments.paths, listed=listed, unreadable=tally.fail)
    captioner = load(*(arguments.model or (packaged(),)), store=_store())
    if not arguments.model:
        about = f" ({captioner.note})" if captioner.note else ""
        console.print(f"Captioning with the model in the package{about}", soft_wrap=True)
    if options := _search(arguments):
        captioner = captioner.with_search(**options)
    with (
        CaptionStream(lambda text: print(text, end="", flush=True), format)
        if arguments.output is None
        else CaptionWriter(arguments.output, format) as file
    ):
        _caption(captioner, _wanted(found, part, file, tally), file, tally, arguments)
    if arguments.output is not None:
        before = f", {tally.before} of them before" if tally.before else ""
        console.print(
            f"{tally.before + tally.captioned} images captioned{before}: {arguments.output}",
            soft_wrap=True,
        )
    return tally.close()


def _shared(arguments: CaptionArguments, console: Console) -> tuple[CaptionArguments, Part | None]:
    """What this process has to do: the part that was given, or else its own of several processes.

    The latter cannot all write one file, so each has its own.
    """
    from jaxcap.data.image_paths import LIST, Part
    from jaxcap.devices.hosts import launched_share

    if arguments.part is not None:
        return arguments, Part.parse(arguments.part)
    share = launched_share()
    if share is None:
        return arguments, None
    if Path(LIST) in arguments.paths:
        raise InputError(
            "Several processes cannot share a list on standard input, which may reach but one of "
            "them. Give files, folders or patterns, or a --part to each."
        )
    part, output = Part(share[0] + 1, share[1]), arguments.output
    where = ""
    if output is not None:
        own = output.with_stem(f"{output.stem}.{part.number}-of-{part.of}")
        arguments = dataclasses.replace(arguments, output=own)
        where = f" into {own}"
        if part.number == 1:
            parts = output.with_stem(f"{output.stem}.*-of-{part.of}")
            where += "; afterwards put the parts together:\n  jaxcap caption --join " + shlex.join(
                [str(parts), "--output", str(output)]
            )
    console.print(f"Process {part.number} of {part.of} captions its part{where}", soft_wrap=True)
    return arguments, part


def _store() -> Store | None:
    """Where programs are kept on CPUs, which trace and lower one for longer than they caption."""
    import jax

    from jaxcap.files import cache_dir
    from jaxcap.storage.program_cache import Store

    directory = cache_dir("programs")
    if directory is None or jax.default_backend() != "cpu":
        return None
    return Store(directory)


def _standard_input() -> Iterable[bytes]:
    # A view of its own: a thread may be waiting for a line when the program ends, and Python's own
    # standard input is closed then, which must wait for the thread.
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except OSError:  # no file, as where a program calls us
        return sys.stdin.buffer


def _format(arguments: CaptionArguments) -> Format:
    from jaxcap.caption_files.formats import FORMATS, SUFFIXES

    if arguments.json and arguments.format not in (None, "jsonl"):
        raise InputError(
            f"--json is --format jsonl; leave one out, or --format {arguments.format}."
        )
    name: str | None = "jsonl" if arguments.json else arguments.format
    if name is None and arguments.output is not None:
        name = SUFFIXES.get(arguments.output.suffix.lower())
        if name is None:
            raise InputError(
                f"--output {arguments.output}: which format? Give --format {', '.join(FORMATS)}, "
                f"or a name that ends in {', '.join(SUFFIXES)}."
            )
    if arguments.words and name != "jsonl":
        raise InputError("--words: only JSON lines have room for words; give --format jsonl.")
    return FORMATS[name or "text"](words=arguments.words)


def _search(arguments: CaptionArguments) -> dict[str, object]:
    from jaxcap.config import SearchConfig

    names = {each.name for each in dataclasses.fields(SearchConfig)}
    same = {name: value for name, value in vars(arguments).items() if name in names}
    return given(
        **same,
        required_words=arguments.require or None,
        banned_words=arguments.ban or None,
    )


@dataclass
class _Tally:
    """How many images were captioned, and which could not be, and why."""

    console: Console
    quiet: bool
    captioned: int = 0
    before: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def fail(self, reason: str) -> None:
        self.failed += 1
        if self.failed <= _LISTED:
            self.reasons.append(reason)

    def tell(self) -> None:
        """Says now and then how far it is, where captions themselves are not seen."""
        now = time.monotonic()
        if not self.quiet and now - self.told >= _SECONDS:
            self.told = now
            rate = self.captioned / (now - self.began)
            failed = f", {self.failed} failed" if self.failed else ""
            self.console.print(f"captioned {self.captioned}{failed}, {rate:.1f} images/s")

    def close(self) -> int:
        """Lists what failed; the exit status."""
        from jaxcap.caption_files.formats import one_line

        for reason in self.reasons:
            self.console.print(f"skipped: {one_line(reason)}", soft_wrap=True)
        if self.failed > len(self.reasons):
            self.console.print(f"… and {self.failed - len(self.reasons)} more")
        if self.failed:
            total = self.captioned + self.failed
            self.console.print(f"{self.failed} of {total} images could not be captioned.")
        return 1 if self.failed else 0


def _wanted(
    found: Iterable[ImagePath],
    part: Part | None,
    file: CaptionWriter | CaptionStream,
    tally: _Tally,
) -> Iterator[Path]:
    """The images of this part that have no captions yet, each once."""
    seen: dict[Key, Path] = {}
    for image in found:
        key = file.format.key(str(image.path))
        # Before parts are looked at: what is found twice, below two folders, has two names there.
        other = seen.setdefault(key, image.path)
        if part is not None and image not in part:
            continue
        if other is not image.path:
            if other != image.path:
                tally.fail(f"{image.path}: COCO's way of naming gives it the id {key} of {other}")
        elif key in file.keys:
            tally.before += 1
        else:
            yield image.path


def _caption(
    captioner: LoadedModel,
    wanted: Iterator[Path],
    file: CaptionWriter | CaptionStream,
    tally: _Tally,
    arguments: CaptionArguments,
) -> None:
    first = list(itertools.islice(wanted, arguments.batch_size))
    # For few images a smaller program, but of few sizes, as each is compiled once.
    sizes = (1, _FEW, arguments.batch_size)
    size = min(arguments.batch_size, next(n for n in sizes if n >= len(first)))
    for result in captioner.caption(
        itertools.chain(first, wanted), batch_size=size, attention=arguments.words
    ):
        file.add(result)
        if result.error is None:
            tally.captioned += 1
        else:
            tally.fail(result.error)
        tally.tell()


def _join(arguments: CaptionArguments, console: Console) -> int:
    from jaxcap.caption_files.writing import CaptionWriter, read_entries

    if arguments.output is None:
        raise InputError("--join: into which file? Give --output.")
    parts = [
        path
        for argument in arguments.paths
        for path in ([argument] if argument.exists() else _matching(argument))
    ]
    if not parts:
        raise InputError("--join: which files? Give those of all parts.")
    format = _format(arguments)
    for part in parts:  # all of them, before anything is written
        for _ in read_entries(part, format):
            pass
    with CaptionWriter(arguments.output, format) as file:
        for part in parts:
            for key, entry in read_entries(part, format):
                if key not in file.keys:
                    file.add_entry(key, entry)
    console.print(
        f"{len(file.keys)} images in {len(parts)} parts: {arguments.output}", soft_wrap=True
    )
    return 0


def _matching(pattern: Path) -> list[Path]:
    found = sorted(map(Path, glob.glob(str(pattern), recursive=True)))
    if not found:
        raise InputError(f"{pattern}: there is no such file.")
    return found
