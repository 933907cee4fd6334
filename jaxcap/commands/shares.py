"""Share the images of `jaxcap caption` among processes, and join the files that they write."""

from __future__ import annotations

import functools
import glob
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from jaxcap.files import same_file
from jaxcap.messages.errors import InputError, counted, did_you_mean

if TYPE_CHECKING:
    from jaxcap.caption_files.output_formats import Format
    from jaxcap.data.image_paths import Part


def choose_part(
    given: str | None, paths: Sequence[Path], output: Path | None, console: Console
) -> tuple[Part | None, Path | None]:
    """Choose the part that this process captions, if a launcher started several.

    Args:
      given: the user's `--part`, which takes precedence.

    Returns:
      The part, and the output file, which belongs to this process alone.

    Raises:
      InputError: `given` is not a part, or the processes would share standard input.
    """
    from jaxcap.data.image_paths import LIST, Part
    from jaxcap.devices.hosts import launched_share

    if given is not None:
        return Part.parse(given), output
    share = launched_share()
    if share is None:
        return None, output
    if Path(LIST) in paths:
        raise InputError(
            "Several processes cannot share a list on standard input, because it may reach only "
            "one of them. Give files, folders or patterns, or a --part to each."
        )
    part = Part(share[0] + 1, share[1])
    own, where = output, ""
    if output is not None:
        own = output.with_stem(f"{output.stem}.{part.number}-of-{part.of}")
        where = f" into {own}"
        if part.number == 1:
            parts = output.with_stem(f"{output.stem}.*-of-{part.of}")
            where += "; afterwards join the parts:\n  jaxcap caption --join " + shlex.join(
                [str(parts), "--output", str(output)]
            )
    console.print(f"Process {part.number} of {part.of} captions its part{where}", soft_wrap=True)
    return part, own


def join_parts(
    paths: Sequence[Path], output: Path, format: Format, console: Console, *, restart: bool
) -> None:
    """Join files of captions; the first caption of an image counts.

    Args:
      paths: files, or patterns of files.
      restart: discard the entries that `output` holds.

    Raises:
      InputError: a file does not exist, cannot be read or written, or was made with other settings;
        or `restart` would empty a part.
    """
    from jaxcap.caption_files.made_with import common_record
    from jaxcap.caption_files.writing import CaptionWriter, read_entries

    parts = [each for path in paths for each in ([path] if path.exists() else _matching(path))]
    if not parts:
        raise InputError("--join needs the files of all parts as PATHs.")
    if restart and any(same_file(part, output) for part in parts):
        raise InputError(
            f"--output {output}: one of the parts to join, which --restart would empty. Leave out "
            "--restart, or give another --output."
        )
    for part in parts:  # read every file once before writing anything
        left_out = functools.partial(name_unfinished, part, "it is left out", console)
        for _ in read_entries(part, format, left_out):
            pass
    record = common_record(parts)
    with CaptionWriter(output, format, made_with=record, restart=restart) as file:
        name_unfinished(output, "it was removed", console, file.removed)
        for part in parts:
            for key, entry in read_entries(part, format):
                if key not in file.keys:
                    file.add_entry(key, entry)
    console.print(
        f"{counted(len(file.keys), 'image')} in {counted(len(parts), 'part')}: {output}",
        soft_wrap=True,
    )


def name_unfinished(path: Path, outcome: str, console: Console, entry: str) -> None:
    """Say what became of an unfinished entry at the end of a file, if there is one."""
    from jaxcap.caption_files.text_files import shown

    if entry:
        left = shown(entry, width=2000)  # it may have been corrected by hand
        console.print(
            f"{path}: an interrupted write left {left} at the end; {outcome}.",
            markup=False,
            soft_wrap=True,
        )


def _matching(pattern: Path) -> list[Path]:
    found = sorted(map(Path, glob.glob(str(pattern), recursive=True)))
    if not found:
        raise InputError(f"{pattern}: no such file.{did_you_mean(pattern)}")
    return found
