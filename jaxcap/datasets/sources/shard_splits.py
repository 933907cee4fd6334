"""Assign the examples of files that each hold many images to splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jaxcap.caption_files.text_files import LFS_POINTER
from jaxcap.data.image_paths import walk_images
from jaxcap.datasets.sources import Example, SourceOptions
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.splits import (
    DEFAULT_FRACTIONS,
    canonical,
    canonical_or_none,
    check_fractions,
    draw,
    in_order,
)
from jaxcap.errors import InputError


def find_shards(source: Path, suffix: str) -> list[Path]:
    """Return the file that was given, or all files with this suffix in a folder and below it.

    Raises:
      InputError: there is none, or some are Git LFS pointers.
    """
    shards = [source]
    if not source.is_file():
        shards = [found.path for found in walk_images(source, suffixes=(suffix,))]
    if not shards:
        raise InputError(f"{source}: no {suffix} file in this folder or below it")
    pointers = [path for path in shards if _is_lfs_pointer(path)]
    if pointers:
        raise InputError(
            f"{source}: {len(pointers):,} of {len(shards):,} files are Git LFS pointers, not the "
            f"files themselves; the first is {pointers[0]}. Run `git lfs pull`"
        )
    return shards


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def split_of_shard(path: Path, source: Path) -> str | None:
    """Return the split in a name such as "train-00003.tar" or "data/val/00003.parquet"."""
    below = path.relative_to(source).parts if path != source else (path.name,)
    words = [word for part in reversed(below) for word in re.split(r"[^A-Za-z]+", part)]
    found = (canonical_or_none(word) for word in words)
    return next((split for split in found if split in DEFAULT_FRACTIONS), None)


def with_unique_ids(shards: Mapping[Path, Sequence[Example]]) -> dict[Path, list[Example]]:
    """Put the name of the shard before the ids if some occur in several shards."""
    counts = Counter(example.image_id for examples in shards.values() for example in examples)
    unique = all(count == 1 for count in counts.values())
    return {
        path: [e if unique else replace(e, image_id=f"{path.stem}/{e.image_id}") for e in examples]
        for path, examples in shards.items()
    }


def divide(
    found: Iterable[tuple[str | None, Iterable[Example]]],
    options: SourceOptions,
    source: Path,
    findings: Findings,
) -> dict[str, tuple[Example, ...]]:
    """Divide examples into splits by the fractions that were given, or else by their own splits.

    Args:
      found: examples with the split that their source names. None: it names none.
      options: may give fractions.
      source: the source, for messages.
      findings: receives ids that occur twice, and a note if splits are drawn by default.
    """
    fractions = check_fractions(options.split_fractions) if options.split_fractions else None
    splits: dict[str, list[Example]] = {}
    seen: dict[str, str | None] = {}
    drawn = False
    for given, examples in found:
        for example in examples:
            if fractions or given is None:
                split = draw(example.image_id, fractions or DEFAULT_FRACTIONS)
                drawn = drawn or not fractions
            else:
                split = canonical(given)
            if example.image_id in seen:
                where = f"in both {seen[example.image_id]} and {given}" if given else "twice"
                findings.add(source, "", f"the image id {example.image_id!r} occurs {where}")
            seen[example.image_id] = given
            splits.setdefault(split, []).append(example)
    if drawn:
        shares = ", ".join(f"{share:.0%} {name}" for name, share in DEFAULT_FRACTIONS.items())
        findings.add_note(f"no split was given, so images are assigned by a hash: {shares}")
    return {split: tuple(splits[split]) for split in in_order(splits)}
