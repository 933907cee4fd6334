"""Which images are meant: files, folders, patterns, and lists, found as they are asked for.

`os.path` is asked what is there, for it takes what no file can be called, and links that lead in a
circle, as not there; a `Path` raises an error.
"""

from __future__ import annotations

import glob
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxcap.errors import InputError
from jaxcap.files import IMAGE_SUFFIXES

LIST = "-"
"""Stands for a list of files and folders, one a line, on standard input."""


@dataclass(frozen=True)
class ImagePath:
    """An image file that was found.

    Attributes:
      path: as it is to be opened and shown.
      within: the same below the folder that was named, whatever that one is called elsewhere.
    """

    path: Path
    within: str


def image_paths(
    arguments: Sequence[Path], *, listed: Iterable[bytes], unreadable: Callable[[str], None]
) -> Iterator[ImagePath]:
    """Files as given, folders as the images in them (and below), in order of name.

    An argument that names no file and holds `*`, `?` or `[…]` is a pattern; `**` goes through all
    folders. Folders are walked as images are asked for, so that the first is there at once.

    Args:
      listed: the lines of what `LIST` stands for.
      unreadable: called with the reason why a folder in a folder cannot be looked into.

    Raises:
      InputError: at once, if an argument is no file, no folder with an image, and no pattern that
        fits one.
    """
    if not arguments:
        raise InputError("Which images? Give files or folders: jaxcap caption PHOTO.jpg …")
    for argument in arguments:
        _check(argument)
    return _images(arguments, listed, unreadable)


def _check(argument: Path) -> None:
    if str(argument) == LIST:
        return
    if os.path.isdir(argument):
        if next(_walk(argument, argument, lambda reason: None), None) is None:
            raise InputError(
                f"{argument}: no image in this folder (looked for {', '.join(IMAGE_SUFFIXES)})."
            )
    elif not os.path.exists(argument) and next(_matches(argument), None) is None:
        what = (
            "no file fits this pattern"
            if glob.has_magic(str(argument))
            else "there is no such file or folder"
        )
        raise InputError(f"{argument}: {what}.")


def _images(
    arguments: Iterable[Path], listed: Iterable[bytes], unreadable: Callable[[str], None]
) -> Iterator[ImagePath]:
    for argument in arguments:
        if str(argument) == LIST:
            for line in listed:
                if name := line.rstrip(b"\r\n"):
                    yield from _images_of(Path(os.fsdecode(name)), unreadable)
        elif os.path.exists(argument) or not glob.has_magic(str(argument)):
            yield from _images_of(argument, unreadable)
        else:
            for path in sorted(_matches(argument)):
                yield from _images_of(path, unreadable)


def _images_of(path: Path, unreadable: Callable[[str], None]) -> Iterator[ImagePath]:
    if os.path.isdir(path):
        yield from _walk(path, path, unreadable)
    else:
        yield ImagePath(path, path.as_posix())


def _matches(pattern: Path) -> Iterator[Path]:
    if glob.has_magic(str(pattern)):
        yield from map(Path, glob.iglob(str(pattern), recursive=True))


def _walk(top: Path, folder: Path, unreadable: Callable[[str], None]) -> Iterator[ImagePath]:
    """The images in a folder and all folders in it, by their suffixes, in order of name.

    Links to folders are not followed: they may lead back.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        unreadable(f"{folder}: cannot read this folder: {error.strerror}")
        return
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(top, path, unreadable)
        elif path.suffix.lower() in IMAGE_SUFFIXES and not (
            entry.is_symlink() and os.path.isdir(path)  # asks the disk, so of links alone
        ):
            yield ImagePath(path, path.relative_to(top).as_posix())


@dataclass(frozen=True)
class Part:
    """One of several shares, such as the second of four.

    An image belongs to a share by its name below the folder alone, not by its place in a list: so
    every image has one share, though files come and go while several processes start, and though
    they see the folder at different places.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Reads "2/4"; `InputError` for anything else."""
        number, _, of = text.partition("/")
        if number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
            return cls(int(number), int(of))
        raise InputError(f"--part is '{text}'; expected 1/4 for the first of four, up to 4/4.")

    def __contains__(self, image: ImagePath) -> bool:
        # A checksum, as Python's own hash differs from process to process.
        return zlib.crc32(os.fsencode(image.within)) % self.of == self.number - 1
