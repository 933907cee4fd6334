"""Turn a listing into the recipe of a data set."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcap.data.image_files import MAX_FILE_BYTES
from jaxcap.datasets.building import Recipe
from jaxcap.datasets.shards import Record
from jaxcap.datasets.sources import Example, ImageBytes, Listing
from jaxcap.datasets.stored_images import to_stored
from jaxcap.files import read_bytes
from jaxcap.messages.errors import InputError

_SPLIT = re.compile(r"[\w-]{1,50}")


def listing_recipe(
    listing: Listing, *, name: str, format: str, max_side: int | None = None
) -> Recipe:
    """Return the recipe for the data set of a listing.

    Args:
      listing: the examples of each split.
      name: the name of the data set.
      format: the format of the source, recorded in the metadata.
      max_side: store larger images scaled down to this many pixels (`stored_images.to_stored`).

    Raises:
      InputError: an empty split, or an invalid name of a split.
    """
    for split, examples in listing.splits.items():
        if not _SPLIT.fullmatch(split) or split == "all":
            raise InputError(
                f"{name}: the split is called {split!r}; expected at most 50 letters, digits, '_' "
                "and '-', and not 'all', which TFDS reserves for all splits together"
            )
        if not examples:
            raise InputError(f"{name}: the split '{split}' is empty; expected at least one example")
    images = any(each.image is not None for of in listing.splits.values() for each in of)
    if max_side is not None and not images:
        raise InputError(
            f"{name}: --max-side is {max_side}, but there are no images to scale down; leave the "
            "option out"
        )
    contents, files, size = hashlib.blake2b(), hashlib.blake2b(), 0
    for split, examples in listing.splits.items():
        for example in examples:
            content = json.dumps([split, example.image_id, example.captions]).encode()
            contents.update(content)
            files.update(content)
            size += len(content)
            if isinstance(example.image, Path):
                with contextlib.suppress(OSError):  # `_Store` reports it
                    stat = example.image.stat()
                    size += stat.st_size
                    files.update(json.dumps([stat.st_size, stat.st_mtime_ns]).encode())
            if example.image is not None:
                files.update(json.dumps(_file_name(example.image)).encode())
    made_from = {"format": format, "max_side": max_side, "captions": contents.hexdigest()[:32]}
    return Recipe(
        name=name,
        splits=listing.splits,
        make=_Store(max_side),
        fingerprint=json.dumps([made_from, files.hexdigest()]),
        description=listing.description,
        homepage=listing.homepage,
        citation=listing.citation,
        metadata={"flippable": listing.flippable, "made_from": made_from},
        images=images,
        size=size if max_side is None else None,
    )


@dataclass(frozen=True)
class _Store:
    """Makes the record of an example."""

    max_side: int | None

    def __call__(self, split: str, example: Example) -> Record:
        record: dict[str, Any] = {"captions": example.captions, "image_id": example.image_id}
        if example.image is None:
            return record
        file_name = _file_name(example.image)
        if isinstance(example.image, Path):
            data = read_bytes(example.image, at_most=MAX_FILE_BYTES)
        else:
            try:
                data = example.image.read()
            except OSError as error:
                raise InputError(f"{file_name}: cannot read the file: {error.strerror}") from error
        return record | {"image": to_stored(data, name=file_name, max_side=self.max_side)}


def _file_name(image: Path | ImageBytes) -> str:
    return str(image) if isinstance(image, Path) else image.name
