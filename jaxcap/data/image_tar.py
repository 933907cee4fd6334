"""Find images in tar files, such as WebDataset's shards, and read them in place."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jaxcap.data.image_files import MAX_FILE_BYTES
from jaxcap.data.suffixes import IMAGE_SUFFIXES
from jaxcap.errors import InputError
from jaxcap.files import open_file


@dataclass(frozen=True)
class TarImage:
    """An image in a tar file.

    Attributes:
      path: the tar file.
      member: the name of the image in it.
      place: the offset of the image in the file, in bytes.
      size: the number of bytes.
    """

    path: Path
    member: str
    place: int
    size: int

    @property
    def name(self) -> str:
        """The file and the member, for messages."""
        return f"{self.path}/{self.member}"

    def read(self) -> bytes:
        """Read the encoded image.

        Raises:
          InputError: the file has changed, or the image is larger than image files may be.
        """
        if self.size > MAX_FILE_BYTES:
            raise InputError(
                f"{self.name}: the image has {self.size:,} bytes; expected at most "
                f"{MAX_FILE_BYTES:,}"
            )
        with self.path.open("rb") as file:
            file.seek(self.place)
            data = file.read(self.size)
        if len(data) < self.size:
            raise InputError(f"{self.name}: the file ends within this image; has it changed?")
        return data


def tar_images(path: Path) -> Iterator[tuple[str, TarImage | None, list[tarfile.TarInfo]]]:
    """Yield (name, image, all members of that name) for each name in a tar file.

    Raises:
      InputError: this is not a tar file, it is compressed, or it is damaged.
    """
    try:
        with open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = (m for m in _sound(tar) if m.isfile() and not _is_hidden(m.name))
            for name, group in groupby(members, key=lambda member: split_name(member.name)[0]):
                parts = list(group)
                images = (m for m in parts if split_name(m.name)[1] in IMAGE_SUFFIXES)
                image = None
                if (first := next(images, None)) is not None:
                    image = TarImage(path, first.name, first.offset_data, first.size)
                yield name, image, parts
    except InputError:
        raise
    except Exception as error:  # damaged bytes make tarfile raise nearly anything
        raise InputError(
            f"{path}: not a tar file that can be read in place ({error}). If it is compressed, "
            "decompress it first; if it is damaged, copy it again"
        ) from error


def _sound(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members; a negative size would lead back to a member before, for ever."""
    for member in tar:
        if member.size < 0:
            raise tarfile.ReadError(f"{member.name!r} has {member.size:,} bytes")
        if member.issparse():
            raise tarfile.ReadError(f"{member.name!r} is sparse; write it whole")
        yield member


def split_name(name: str) -> tuple[str, str]:
    """Split "a/b.seg.JPG" into "a/b" and the suffix ".jpg"; WebDataset's names end at a dot."""
    folder, _, file = name.rpartition("/")
    base = file.partition(".")[0]
    return posixpath.join(folder, base), posixpath.splitext(file)[1].lower()


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part != "." for part in name.split("/"))
