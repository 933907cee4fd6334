"""Read WebDataset shards: tar files of images and their captions, without unpacking them.

Members of one name belong together (https://github.com/webdataset/webdataset): `000012.jpg` is the
image, and `000012.txt`, `000012.caption` or `000012.json` holds its captions, as img2dataset writes
them. In WebDataset the name ends at its first dot, so `000012.x.jpg` has the same captions, unless
there are several images of that name. Only the captions are read at first; an image is read from
its place in the shard when it is stored.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jaxcap.caption_files.sidecars import SIDECARS, sidecar_captions
from jaxcap.data.image_names import IMAGE_SUFFIXES
from jaxcap.data.image_paths import named_left_out
from jaxcap.data.image_tar import TarMember, tar_members
from jaxcap.datasets.sources import Example, Listing, SourceOptions
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.shard_splits import read_shards
from jaxcap.files.json_data import MAX_BYTES
from jaxcap.messages import Progress, no_progress
from jaxcap.messages.errors import InputError


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
    left_out: list[Path] = []
    members = tar_members(path, left_out.append)
    if left_out:
        findings.add_note(named_left_out(left_out))
    images = [member for member in members if member.suffix in IMAGE_SUFFIXES]
    sidecars = {(m.stem, m.suffix): m for m in members if m.suffix in SIDECARS}
    count = Counter(_up_to_dot(image.stem) for image in images)
    known: set[str] = set()
    for image in images:
        short = _up_to_dot(image.stem)
        names = (image.stem, short) if count[short] == 1 else (image.stem,)
        there = [key for key in itertools.product(names, SIDECARS) if key in sidecars]
        known.update(name for name, _ in there)
        if not there:
            findings.add_gap(path, image.member, f"no {names[-1]}{SIDECARS[0]} beside it")
        elif captions := _captions(path, sidecars[there[0]], findings):
            yield Example(there[0][0], image, captions)
    for (name, _), sidecar in sidecars.items():
        if name not in known:
            findings.add_gap(path, sidecar.member, "no image of this name beside it")


def _up_to_dot(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _captions(path: Path, member: TarMember, findings: Findings) -> tuple[str, ...]:
    """Read the captions of a member, or add the reason why there is none."""
    try:
        found = sidecar_captions(path / member.member, member.read(MAX_BYTES))
    except InputError as error:
        findings.add_all(error)
        return ()
    texts = tuple(text for text, _ in found if text.strip())
    if not texts:
        findings.add_gap(path, member.member, "no caption")
    return texts
