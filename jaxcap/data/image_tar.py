"""Find images in tar files, such as WebDataset's shards, and read them in place."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from jaxcap.data.image_files import MAX_FILE_BYTES
from jaxcap.data.image_names import ABOUT_IMAGES, IMAGE_SUFFIXES, is_hidden
from jaxcap.files import SmallReads, open_file
from jaxcap.messages.errors import InputError, ignore


@dataclass(frozen=True)
class TarMember:
    """A file in a tar file.

    Attributes:
      path: the tar file.
      member: the name in it.
      place: the offset of the content in the tar file, in bytes.
      size: the number of bytes.
    """

    path: Path
    member: str
    place: int
    size: int

    @property
    def name(self) -> str:
        """The tar file and the member, for messages."""
        return f"{self.path}/{self.member}"

    @property
    def stem(self) -> str:
        """The name without its suffix: "a/b.seg" for "a/b.seg.JPG"."""
        return posixpath.splitext(self.member)[0]

    @property
    def suffix(self) -> str:
        """The suffix, in lower case."""
        return posixpath.splitext(self.member)[1].lower()

    def read(self, at_most: int = MAX_FILE_BYTES) -> bytes:
        """Read the content.

        Raises:
          InputError: the tar file cannot be read or has changed, or the content is larger than
            `at_most` bytes.
        """
        if self.size > at_most:
            raise InputError(f"{self.name}: {self.size:,} bytes; expected at most {at_most:,}")
        try:
            with self.path.open("rb") as file:
                file.seek(self.place)
                data = file.read(self.size)
        except OSError as error:
            raise InputError(f"{self.name}: cannot read it: {error.strerror}") from error
        if len(data) < self.size:
            raise InputError(f"{self.name}: the tar file ends within this file; copy it again")
        return data


def tar_images(path: Path, left_out: Callable[[Path], None] = ignore) -> list[TarMember]:
    """List the images in a tar file.

    Args:
      left_out: called with each file that might be an image and is left out.

    Raises:
      InputError: see `tar_members`.
    """
    members = tar_members(path, left_out)
    for each in members:
        if each.suffix not in IMAGE_SUFFIXES and each.suffix not in ABOUT_IMAGES:
            left_out(path / each.member)
    return [each for each in members if each.suffix in IMAGE_SUFFIXES]


def tar_members(path: Path, left_out: Callable[[Path], None] = ignore) -> list[TarMember]:
    """List the files in a tar file, hidden ones excepted. The last of several with one name counts.

    Args:
      left_out: called with each hidden image.

    Raises:
      InputError: this is not a tar file, it is compressed, or it is damaged.
    """
    found: dict[str, TarMember] = {}
    try:
        with open_file(path) as file, _open(file) as tar:
            for info in _sound(tar):
                name, place, size = _name(info.name), info.offset_data, info.size
                if info.islnk():  # tar stores a file of several names once
                    if (target := found.get(_name(info.linkname))) is None:
                        raise tarfile.ReadError(f"{name!r} links to {info.linkname!r}, not here")
                    place, size = target.place, target.size
                found[name] = TarMember(path, name, place, size)
    except InputError:
        raise
    except Exception as error:  # damaged bytes make tarfile raise nearly anything
        raise InputError(
            f"{path}: not a tar file that can be read in place ({error}). If it is compressed, "
            "decompress it first; if it is damaged, copy it again"
        ) from error
    hidden = {name for name in found if any(map(is_hidden, name.split("/")))}
    for name in sorted(hidden):
        if found[name].suffix in IMAGE_SUFFIXES:
            left_out(path / name)
    return [member for name, member in found.items() if name not in hidden]


def holds_only(path: Path, suffixes: Sequence[str]) -> bool:
    """Return whether a tar file holds files with these suffixes alone: no link, no folder."""
    try:
        with open_file(path) as file, _open(file) as tar:
            return all(
                info.isreg() and info.size >= 0 and info.name.lower().endswith(tuple(suffixes))
                for info in tar
            )
    except Exception:  # damaged bytes make tarfile raise nearly anything
        return False


def _open(file: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=cast("IO[bytes]", SmallReads(file)), mode="r:")


def _name(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


def _sound(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files; a negative size would lead back to a member before, for ever."""
    for member in tar:
        if member.size < 0:
            raise tarfile.ReadError(f"{member.name!r} has {member.size:,} bytes")
        if member.issparse():
            raise tarfile.ReadError(f"{member.name!r} is sparse; write it whole")
        if member.issym() and member.name.lower().endswith(IMAGE_SUFFIXES):
            raise tarfile.ReadError(f"{member.name!r} is a link; write it with tar --dereference")
        if member.isfile() or member.islnk():
            yield member
