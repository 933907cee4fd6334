"""Find images by file, folder, pattern or list, lazily.

`os.path` treats invalid names and circular links as missing, where `Path` would raise an error.
"""

from __future__ import annotations

import codecs
import fnmatch
import glob
import io
import itertools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcap.config.local_paths import path_problem
from jaxcap.data.image_names import ABOUT_IMAGES, IMAGE_SUFFIXES, SHARD_SUFFIXES, is_hidden
from jaxcap.messages.errors import InputError, did_you_mean, ignore, one_line

if TYPE_CHECKING:
    from jaxcap.data.image_parquet import ParquetImage
    from jaxcap.data.image_tar import TarMember

_MAX_DEPTH = 100

LIST = "-"
"""The argument that stands for a list of files and folders on standard input."""


@dataclass(frozen=True)
class ImagePath:
    """An image that was found.

    Attributes:
      path: the path to show, and to open unless there is a `part`.
      within: the path relative to the folder that was given, the same wherever it is mounted.
      part: the image, if it is a part of the file that was given.
    """

    path: Path
    within: str
    part: TarMember | ParquetImage | None = None

    @property
    def image(self) -> Path | TarMember | ParquetImage:
        """The path or the bytes to read."""
        return self.part or self.path


def image_paths(
    arguments: Sequence[Path],
    *,
    listed: io.BufferedIOBase,
    unreadable: Callable[[str], None],
    left_out: Callable[[Path], None] = ignore,
    whole_shards: bool = False,
) -> Iterator[ImagePath]:
    """Yield the given files, and the images below the given folders in order of name.

    Of a `.tar` or `.parquet` file, the images in it are yielded.

    An argument that is not a file but contains `*`, `?` or `[…]` is a pattern; `**` matches any
    number of folders. Folders are walked lazily, so the first image is available at once.

    Args:
      arguments: files, folders, patterns and `LIST`.
      listed: the list that `LIST` stands for.
      unreadable: called with the reason when a subfolder cannot be read.
      left_out: called with each file or folder that is left out; see `walk_images`.
      whole_shards: yield a `.tar` or `.parquet` file itself, unopened.

    Raises:
      InputError: immediately, if an argument matches no file and no folder with an image.
    """
    if not arguments:
        raise InputError("No images given. Name files or folders: jaxcap caption PHOTO.jpg …")
    for argument in arguments:
        _check(argument)
    return _images(arguments, listed, unreadable, left_out, whole_shards)


def _check(argument: Path) -> None:
    if str(argument) == LIST:
        return
    if os.path.isdir(argument):
        problems: list[str] = []
        hidden: list[Path] = []
        found = walk_images(argument, unreadable=problems.append, left_out=hidden.append)
        if next(found, None) is None:
            expected = f"{argument}: no image in this folder; expected {', '.join(IMAGE_SUFFIXES)}"
            notes = [named_left_out(hidden)] if hidden else []
            raise InputError(expected, *problems, *notes)
    elif not os.path.exists(argument) and next(_matches(argument), None) is None:
        what = (
            "no file matches this pattern"
            if glob.has_magic(str(argument))
            else "no such file or folder"
        )
        raise InputError(f"{argument}: {what}.{did_you_mean(argument)}")


def _images(
    arguments: Iterable[Path],
    listed: io.BufferedIOBase,
    unreadable: Callable[[str], None],
    left_out: Callable[[Path], None],
    whole_shards: bool,
) -> Iterator[ImagePath]:
    def images_of(path: Path) -> Iterator[ImagePath]:
        if os.path.isdir(path):
            yield from walk_images(path, unreadable=unreadable, left_out=left_out)
        elif whole_shards or not is_shard(path) or not os.path.isfile(path):
            yield ImagePath(path, path.as_posix())
        else:
            try:
                yield from images_in(path, left_out)
            except InputError as error:
                unreadable(str(error))

    for argument in arguments:
        if str(argument) == LIST:
            for name in filter(None, _listed_names(listed)):
                if problem := path_problem(os.fsdecode(name)):
                    unreadable(f"{os.fsdecode(name)}: {problem}")
                else:
                    yield from images_of(Path(os.fsdecode(name)))
        elif os.path.exists(argument) or not glob.has_magic(str(argument)):
            yield from images_of(argument)
        else:
            for path in sorted(_matches(argument)):
                yield from images_of(path)


_BLOCK = 1 << 16
_MAX_NAME = 1 << 16  # bytes; file systems allow 4,096
_MAX_UTF16 = 1 << 28


def _listed_names(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Yield the names in a list, as they arrive.

    Names end with line breaks, or with NUL as `find -print0` writes them. A byte order mark may
    come first; lists in UTF-16, which PowerShell writes, are decoded as a whole.

    Raises:
      InputError: a name, or a list in UTF-16, has no end; or NUL is a part of the characters.
    """
    rest = file.read1(_BLOCK)  # what is there, without waiting for a whole block
    if rest.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        rest += file.read(_MAX_UTF16)
        if len(rest) > _MAX_UTF16:
            raise InputError(f"The list holds more than {_MAX_UTF16:,} bytes of UTF-16; use UTF-8.")
        rest = rest.decode("utf-16", "replace").encode(errors="replace")
    rest = rest.removeprefix(codecs.BOM_UTF8)
    end = b"\0" if b"\0" in rest else b"\n"
    while True:
        *names, rest = rest.split(end)
        if end == b"\0" and _are_characters(names):
            raise InputError(
                f"The list of images begins with {end.join(names)[:40]!r}: NUL bytes as in UTF-16 "
                "or UTF-32, not between names. Write the list in UTF-8."
            )
        for name in names:
            yield name.removesuffix(b"\r") if end == b"\n" else name
        if len(rest) > _MAX_NAME:
            raise InputError(
                f"The list of images has a line of more than {_MAX_NAME:,} bytes, beginning with "
                f"{rest[:40]!r}; expected one path per line."
            )
        if not (more := file.read1(_BLOCK)):
            break
        rest += more
    yield rest.removesuffix(b"\r")


def _are_characters(parts: Sequence[bytes]) -> bool:
    """Return whether NUL seems to separate the characters of wide encodings, not names.

    "/" would then be a name, and everything on this machine an image to caption.
    """
    return any(part in (b"", b"/") for part in parts) or any(
        len(one) == len(next) == 1 for one, next in itertools.pairwise(parts)
    )


def is_shard(path: Path) -> bool:
    """Return whether a name is that of a file of many images."""
    return path.suffix.lower() in SHARD_SUFFIXES


def images_in(path: Path, left_out: Callable[[Path], None] = ignore) -> Iterator[ImagePath]:
    """Yield the images in a `.tar` or `.parquet` file.

    Args:
      left_out: called with each hidden image.

    Raises:
      InputError: it cannot be read.
    """
    if path.suffix.lower() == ".tar":
        from jaxcap.data.image_tar import tar_images

        found: Iterable[TarMember | ParquetImage] = tar_images(path, left_out)
    else:
        from jaxcap.data.image_parquet import parquet_images

        found = (image for image, _ in parquet_images(path))
    for image in found:
        name = Path(image.name)
        yield ImagePath(name, name.relative_to(path).as_posix(), image)


def _matches(pattern: Path) -> Iterator[Path]:
    if _ANY not in pattern.parts:
        if glob.has_magic(str(pattern)):
            yield from map(Path, glob.iglob(str(pattern)))
        return
    # `glob` would follow links in circles.
    first = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    top, parts = Path(*pattern.parts[:first]), pattern.parts[first:]
    for image in walk_images(top, suffixes=(*IMAGE_SUFFIXES, *SHARD_SUFFIXES)):
        names = image.within.split("/")
        if any(_fits(names[:end], parts) for end in range(1, len(names) + 1)):
            yield image.path


_ANY = "**"
"""The part of a pattern that stands for any number of folders."""


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Return whether a path, given by its names, matches a pattern, given by its parts."""
    if not parts or not names:
        return not names and all(part == _ANY for part in parts)
    if parts[0] == _ANY:
        return _fits(names, parts[1:]) or _fits(names[1:], parts)
    return fnmatch.fnmatch(names[0], parts[0]) and _fits(names[1:], parts[1:])


def walk_images(
    top: Path,
    *,
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
    unreadable: Callable[[str], None] = ignore,
    left_out: Callable[[Path], None] = ignore,
) -> Iterator[ImagePath]:
    """Yield the images below a folder in order of name, recognised by suffix.

    Links to folders elsewhere are followed, each folder once. Hidden images and folders are left
    out: they hold copies and metadata.

    Args:
      suffixes: of the files to find.
      unreadable: called with the reason when a folder cannot be read.
      left_out: called with each folder, and with each file that might be an image, that is left
        out.
    """
    yield from _walk(top, top, suffixes, set(), unreadable, left_out)


def _walk(
    top: Path,
    folder: Path,
    suffixes: Sequence[str],
    entered: set[str],
    unreadable: Callable[[str], None],
    left_out: Callable[[Path], None],
) -> Iterator[ImagePath]:
    if len(folder.parts) - len(top.parts) > _MAX_DEPTH:
        unreadable(f"{folder}: more than {_MAX_DEPTH} folders deep; move it up")
        return
    if (target := os.path.realpath(folder)) in entered:
        return
    entered.add(target)
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        unreadable(f"{folder}: cannot read this folder: {error.strerror}")
        return
    for entry in entries:
        path = folder / entry.name
        suffix = path.suffix.lower()
        is_folder, is_image = entry.is_dir(follow_symlinks=False), suffix in suffixes
        if entry.is_symlink() and os.path.isdir(path):  # a stat call, made for links only
            target, root = os.path.realpath(path), os.path.realpath(top)
            if (common := os.path.commonpath([root, target])) == root:
                continue  # it is walked under its own name
            is_folder, is_image = common != target, False  # else everything around `top`
        if is_hidden(entry.name):
            if is_folder or is_image:
                left_out(path)
        elif is_folder:
            yield from _walk(top, path, suffixes, entered, unreadable, left_out)
        elif is_image:
            yield ImagePath(path, path.relative_to(top).as_posix())
        elif suffix not in ABOUT_IMAGES:
            left_out(path)


def images_below(
    folder: Path,
    *,
    unreadable: Callable[[str], None] = ignore,
    left_out: Callable[[Path], None] = ignore,
) -> list[Path]:
    """List the images that `walk_images` finds, in order of path."""
    return sorted(
        image.path for image in walk_images(folder, unreadable=unreadable, left_out=left_out)
    )


def named_left_out(paths: Sequence[Path]) -> str:
    """Name the first of the files that `walk_images` left out, and count the others."""
    names = ", ".join(map(str, paths[:3]))
    more = f" and {len(paths) - 3:,} more" if len(paths) > 3 else ""
    return one_line(f"left out, because they are hidden or not named like images: {names}{more}")


@dataclass(frozen=True)
class Part:
    """One of several shares of the images, such as the second of four.

    The share depends only on the image's path below its folder, not on its position in a list.
    Every image therefore belongs to one share, even if files come and go between the starts of
    several processes, or the folder is mounted elsewhere.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Parse "2/4"; anything else is an `InputError`."""
        number, _, of = text.partition("/")
        if number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
            return cls(int(number), int(of))
        raise InputError(
            f"--part is '{text}'; expected NUMBER/TOTAL, such as 1/4 for the first of four."
        )

    def __contains__(self, image: ImagePath) -> bool:
        # A checksum, because Python's hash differs between processes.
        return zlib.crc32(os.fsencode(image.within)) % self.of == self.number - 1
