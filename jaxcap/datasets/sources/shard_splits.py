"""Read sources of files that each hold many images, and assign their examples to splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jaxcap.data.image_paths import named_left_out, walk_images
from jaxcap.datasets.sources import Example, Listing, SourceOptions
from jaxcap.datasets.sources.findings import Findings
from jaxcap.datasets.sources.locations import need_path
from jaxcap.datasets.sources.splits import (
    DEFAULT_FRACTIONS,
    canonical,
    canonical_or_none,
    check_fractions,
    draw,
    in_order,
)
from jaxcap.messages import Progress
from jaxcap.messages.errors import InputError


def read_shards(
    examples: Callable[[Path, Findings], Iterable[Example]],
    options: SourceOptions,
    progress: Progress,
    *,
    suffix: str,
    names: tuple[str, str],
    description: str,
) -> Listing:
    """Read the names and captions in all shards of a folder, or in one shard.

    Args:
      examples: reads a shard, and adds its problems to the findings.
      suffix: of the files that are shards.
      names: their names in progress reports, and when counted.
      description: of the data set, before the name of the source.

    Raises:
      InputError: lists all problems of the source.
    """
    source = need_path(options, f"a {suffix} file, or a folder of {suffix} files")
    findings = Findings(source, skip_gaps=options.skip_bad)
    shards = find_shards(source, suffix, findings)
    found: dict[Path, list[Example]] = {}
    for number, shard in enumerate(shards, start=1):
        try:
            found[shard] = list(examples(shard, findings))
        except InputError as error:
            findings.add_all(error)
        progress(f"reading {names[0]}", number, len(shards))
    splits = divide(
        ((split_of_shard(path, source), e) for path, e in with_unique_ids(found).items()),
        options,
        source,
        findings,
    )
    findings.raise_if_any()
    if not splits:
        raise InputError(f"{source}: no image with a caption in {len(shards):,} {names[1]}")
    return Listing(
        splits, description=f"{description} {source.resolve().name}.", notes=findings.notes()
    )


def find_shards(source: Path, suffix: str, findings: Findings) -> list[Path]:
    """Return the file that was given, or all files with this suffix in a folder and below it.

    Folders that cannot be read, and hidden shards, are added to the findings.

    Raises:
      InputError: there is none.
    """
    shards = [source]
    if not source.is_file():
        hidden: list[Path] = []
        found = walk_images(
            source,
            suffixes=(suffix,),
            unreadable=lambda text: findings.add_all(InputError(text)),
            left_out=hidden.append,
        )
        shards = [each.path for each in found]
        if shards:  # then other files are none of ours
            hidden = [path for path in hidden if path.is_dir() or path.suffix.lower() == suffix]
        if hidden:
            findings.add_note(named_left_out(hidden))
    if not shards:
        findings.add(source, "", f"no {suffix} file in this folder or below it")
        findings.fail()
    return shards


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
