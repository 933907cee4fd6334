"""Read WebDataset shards: tar files of images and their captions, without unpacking them.

Members of one name belong together (https://github.com/webdataset/webdataset): `000012.jpg` is the
image, and `000012.txt`, `000012.caption` or `000012.json` holds its captions, as img2dataset writes
them. The name ends at its first dot. Only the captions are read at first; an image is read from its
place in the shard when it is stored.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxcap.caption_files.sidecars import SIDECARS, sidecar_captions
from jaxcap.data.image_tar import split_name, tar_images
from jaxcap.datasets import Progress, no_progress
from jaxcap.datasets.sources import Example, Listing, SourceOptions
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.shard_splits import read_shards
from jaxcap.errors import InputError
from jaxcap.json_data import MAX_BYTES


def read(options: SourceOptions, progress: Progress = no_progress) -> Listing:
    """Read the names and captions in all shards of a folder, or in one shard.

    Raises:
      InputError: lists all problems of the source.
    """
    return read_shards(
        _examples,
        options,
        progress,
        suffix=".tar",
        names=("shards", "shards"),
        description="Images and captions of the WebDataset",
    )


def _examples(path: Path, findings: Findings) -> Iterator[Example]:
    try:
        with path.open("rb") as file:
            for name, image, members in tar_images(path):
                by_suffix = {split_name(member.name)[1]: member for member in members}
                sidecar = next((by_suffix[each] for each in SIDECARS if each in by_suffix), None)
                captions = () if sidecar is None else _captions(path, sidecar, file, findings)
                if sidecar is not None and image is None:
                    findings.add_gap(path, sidecar.name, "no image of this name beside it")
                elif image is not None and sidecar is None:
                    findings.add_gap(path, image.member, f"no {name}{SIDECARS[0]} beside it")
                elif image is not None and captions:
                    yield Example(name, image, captions)
    except InputError as error:
        findings.add_all(error)
    except OSError as error:
        findings.add(path, "", f"cannot read this file: {error.strerror or error}")


def _captions(
    path: Path, member: tarfile.TarInfo, file: IO[bytes], findings: Findings
) -> tuple[str, ...]:
    """Read the captions of a member, or add the reason why there is none."""
    if member.size > MAX_BYTES:
        findings.add(path, member.name, f"{member.size:,} bytes; expected at most {MAX_BYTES:,}")
        return ()
    file.seek(member.offset_data)
    try:
        found = sidecar_captions(path / member.name, file.read(member.size))
    except InputError as error:
        findings.add_all(error)
        return ()
    texts = tuple(text for text, _ in found if text.strip())
    if not texts:
        findings.add_gap(path, member.name, "no caption")
    return texts
