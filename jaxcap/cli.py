"""The commands: `train.py`, `evaluate.py`, and `jaxcap prepare | caption`.

Parsing, paths and exit codes are here; the work is elsewhere. A user's mistake ends with
one message on standard error and status 2; a partial failure with status 1.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from jaxcap.config import Config, load_config_file, validate
from jaxcap.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class TrainArguments:
    """Trains the captioner of a configuration file, or goes on with an interrupted run."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """Directory of the run; default runs/NAME for configs/NAME.py."""


@dataclass(frozen=True)
class EvaluateArguments:
    """Captions every image of a split, scores the captions and writes a report."""

    run: tyro.conf.Positional[Path]
    """Directory of a run, as train.py left it."""
    split: str = "dev"
    data_dir: Path | None = None
    """Where prepared data sets lie, if not where they lay in training."""
    beam_size: int | None = None
    length_penalty: float | None = None
    latest: bool = False
    """Use the latest checkpoint instead of the best."""


@dataclass(frozen=True)
class PrepareArguments:
    """Builds a data set: flickr8k (from its original release), or shapes (drawn)."""

    name: tyro.conf.Positional[str]
    source: Path | None = None
    """Folder of the downloaded release; shapes needs none."""
    data_dir: Path | None = None
    """Where to put it; default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""


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


def train() -> None:
    """Entry point of `train.py CONFIG [--workdir DIR] [--any.option value]`."""
    usage = "usage: train.py CONFIG.py [--workdir DIR] [--any.option VALUE …]; --help lists them"

    def run(console: Console) -> int:
        # The file comes first: its values are the defaults of all other options.
        argv = sys.argv[1:]
        if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
            raise InputError(f"Which configuration? {usage}")
        if argv[0] in ("-h", "--help"):
            default, name, options = Config(), "NAME", ["--help"]
        else:
            default, name = load_config_file(Path(argv[0])), Path(argv[0]).stem
            options = argv[1:]
        arguments = tyro.cli(
            TrainArguments,
            prog=f"train.py {argv[0] if name != 'NAME' else 'CONFIG.py'}",
            args=options,
            default=TrainArguments(config=default),
        )
        from jaxcap.training import train as train_run

        workdir = arguments.workdir or Path("runs") / name
        summary = train_run(validate(arguments.config), workdir, console=console)
        _print_scores(console, summary.scores, f"best checkpoint, step {summary.best_step}")
        console.print(f"Trained for {summary.seconds / 60:.1f} minutes. Next:")
        directory, split = shlex.quote(str(workdir)), shlex.quote(arguments.config.evaluation.split)
        console.print(f"  python evaluate.py {directory} --split {split}", soft_wrap=True)
        console.print(f"  jaxcap caption PHOTO.jpg --model {directory}", soft_wrap=True)
        return 0

    _run(run)


def evaluate() -> None:
    """Entry point of `evaluate.py RUN [--split SPLIT]`."""

    def run(console: Console) -> int:
        arguments = tyro.cli(EvaluateArguments, prog="evaluate.py")
        from jaxcap.data.prepare import load_source
        from jaxcap.evaluation import evaluate_source, write_evaluation
        from jaxcap.inference import load
        from jaxcap.progress import Display

        captioner = load(arguments.run, best=not arguments.latest)
        captioner = captioner.with_search(
            **_given(beam_size=arguments.beam_size, length_penalty=arguments.length_penalty)
        )
        data = captioner.config.data
        source = load_source(data.name, arguments.split, arguments.data_dir or data.directory)
        with Display(console, f"captioning {arguments.split}", total=len(source)) as display:
            evaluation = evaluate_source(
                source,
                decode=captioner.decode,
                variables=captioner.variables,
                vocabulary=captioner.vocabulary,
                config=captioner.config,
                report=display.update,
            )
        command = "python evaluate.py " + shlex.join(sys.argv[1:])
        paths = write_evaluation(
            evaluation, source, captioner, split=arguments.split, command=command
        )
        _print_scores(console, evaluation.corpus, f"{arguments.run} on {arguments.split}")
        for path in paths:
            console.print(f"wrote {path}", soft_wrap=True)
        return 0

    _run(run)


def main() -> None:
    """Entry point of the `jaxcap` command."""

    def run(console: Console) -> int:
        arguments = tyro.extras.subcommand_cli_from_dict(
            {"prepare": PrepareArguments, "caption": CaptionArguments},
            prog="jaxcap",
            description="CNN-LSTM image captioning in JAX.",
        )
        if isinstance(arguments, PrepareArguments):
            from jaxcap.data.prepare import prepare

            prepare(arguments.name, source=arguments.source, data_dir=arguments.data_dir)
            return 0
        return _caption(arguments, console)

    _run(run)


def _caption(arguments: CaptionArguments, console: Console) -> int:
    if not arguments.paths:
        raise InputError("Which images? Give files or folders: jaxcap caption PHOTO.jpg …")
    paths = list(_image_paths(arguments.paths))
    from jaxcap.inference import load

    captioner = load(arguments.model).with_search(**_given(beam_size=arguments.beam_size))
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
            found = sorted(
                p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
            )
            if not found:
                raise InputError(
                    f"{path}: no image in this folder (looked for {', '.join(IMAGE_SUFFIXES)})."
                )
            yield from found
        elif path.exists():
            yield path
        else:
            raise InputError(f"{path}: there is no such file or folder.")


def _given(**options: object) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _print_scores(console: Console, scores: dict[str, float], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for name in scores:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:.1f}" for value in scores.values()))
    console.print(table)


def _run(command: Callable[[Console], int]) -> None:
    """Runs a command with messages on standard error, so that output can be piped."""
    console = Console(stderr=True, markup=False, highlight=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Any name of a file can be printed, in any locale, and `\udcff` is good JSON as well.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        _configure_jax()
        status = command(console)
    except InputError as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        status = 2
    except KeyboardInterrupt:
        console.print("interrupted", style="red")
        status = 130
    except BrokenPipeError:  # the reader of our output has gone
        _abandon_stdout()
        status = 1
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        _abandon_stdout()
        console.print(f"error: {error}", style="red", soft_wrap=True)
        status = 2
    sys.exit(status)


_NOT_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Full disks and missing permissions: the user's to mend, wherever they come up."""


def _abandon_stdout() -> None:
    """Python would otherwise complain once more, when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _configure_jax() -> None:
    """Keeps compiled programs on disk: the second start of a command is the quick one."""
    import jax

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxcap" / "xla"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
