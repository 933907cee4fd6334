"""Read WebDataset shards: tar files of images and their captions, without unpacking them.

Members of one name belong together (https://github.com/webdataset/webdataset): `000012.jpg` is the
image, and `000012.txt`, `000012.caption` or `000012.json` holds its captions, as img2dataset writes
them. The name ends at its first dot. Only the captions are read at first; an image is read from its
place in the shard when it is stored.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO

from jaxcap.caption_files.sidecars import SIDECARS, sidecar_captions
from jaxcap.data.image_paths import IMAGE_SUFFIXES
from jaxcap.datasets import Progress, no_progress
from jaxcap.datasets.sources import Example, Listing, SourceOptions
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.locations import need_path
from jaxcap.datasets.sources.shard_splits import (
    divide,
    find_shards,
    split_of_shard,
    with_unique_ids,
)
from jaxcap.errors import InputError


@dataclass(frozen=True)
class TarImage:
    """An image in a tar file.

    Attributes:
      path: the tar file.
      member: the name of the image in it.
      place: the first byte of the image in the file.
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
          InputError: the file has changed.
        """
        with self.path.open("rb") as file:
            file.seek(self.place)
            data = file.read(self.size)
        if len(data) < self.size:
            raise InputError(f"{self.name}: the file ends within this image; has it changed?")
        return data


def read(options: SourceOptions, progress: Progress = no_progress) -> Listing:
    """Read the names and captions in all shards of a folder, or in one shard.

    Raises:
      InputError: lists all problems of the source.
    """
    source = need_path(options, "a .tar file, or a folder of .tar files")
    findings = Findings(source, skip_gaps=options.skip_bad)
    shards = find_shards(source, ".tar")
    found: dict[Path, list[Example]] = {}
    for number, shard in enumerate(shards, start=1):
        found[shard] = list(_examples(shard, findings))
        progress("reading shards", number, len(shards))
    splits = divide(
        ((split_of_shard(path, source), e) for path, e in with_unique_ids(found).items()),
        options,
        source,
        findings,
    )
    findings.raise_if_any()
    if not splits:
        raise InputError(f"{source}: no image with a caption in {len(shards):,} shards")
    return Listing(
        splits,
        description=f"Images and captions of the WebDataset {source.resolve().name}.",
        notes=findings.notes(),
    )


def tar_images(path: Path) -> Iterator[tuple[str, TarImage, list[tarfile.TarInfo]]]:
    """Yield (name, image, all members of that name) for each image in a tar file.

    Raises:
      InputError: this is not a tar file, it is compressed, or it is damaged.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = (member for member in tar if member.isfile() and not _is_hidden(member.name))
            for name, group in groupby(members, key=lambda member: _split_name(member.name)[0]):
                parts = list(group)
                images = [m for m in parts if _split_name(m.name)[1] in IMAGE_SUFFIXES]
                for member in images[:1]:
                    yield (
                        name,
                        TarImage(path, member.name, member.offset_data, member.size),
                        parts,
                    )
    except (tarfile.TarError, EOFError) as error:
        raise InputError(
            f"{path}: not a tar file that can be read in place ({error}). If it is compressed, "
            "decompress it first; if it is damaged, copy it again"
        ) from error


def _split_name(name: str) -> tuple[str, str]:
    """Split "a/b.seg.JPG" into "a/b" and the suffix ".jpg"; WebDataset's names end at a dot."""
    folder, _, file = name.rpartition("/")
    base = file.partition(".")[0]
    return posixpath.join(folder, base), posixpath.splitext(file)[1].lower()


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part != "." for part in name.split("/"))


def _examples(path: Path, findings: Findings) -> Iterator[Example]:
    try:
        with path.open("rb") as file:
            for name, image, members in tar_images(path):
                yield from _example(name, image, members, file, findings)
    except InputError as error:
        findings.add_all(error)
    except OSError as error:
        findings.add(path, "", f"cannot read this file: {error.strerror or error}")


def _example(
    name: str,
    image: TarImage,
    members: list[tarfile.TarInfo],
    file: IO[bytes],
    findings: Findings,
) -> Iterator[Example]:
    by_suffix = {_split_name(member.name)[1]: member for member in members}
    member = next((by_suffix[suffix] for suffix in SIDECARS if suffix in by_suffix), None)
    if member is None:
        findings.add_gap(image.path, image.member, f"no {name}{SIDECARS[0]} beside it")
        return
    file.seek(member.offset_data)
    try:
        captions = sidecar_captions(image.path / member.name, file.read(member.size))
    except InputError as error:
        findings.add_all(error)
        return
    texts = tuple(text for text, _ in captions if text.strip())
    if texts:
        yield Example(name, image, texts)
    else:
        findings.add_gap(image.path, member.name, "no caption")
