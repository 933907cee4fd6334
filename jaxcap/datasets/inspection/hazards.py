"""Warn about properties of a data set that will hurt training or its scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from jaxcap.config import DataConfig
from jaxcap.data.captions import SplitCaptions
from jaxcap.datasets.inspection.caption_statistics import (
    FREQUENT,
    CaptionStatistics,
    count_split_captions,
    coverage,
    percentile,
)
from jaxcap.datasets.inspection.data_statistics import TRAIN, DataStatistics, Repeats
from jaxcap.messages.errors import counted
from jaxcap.metrics.lost_letters import loses_letters

_FRAME = 2
"""`<bos>` and `<eos>`, which count towards the length of a bucket."""

_FEW = 100
"""The minimum number of images of a split for meaningful scores."""

_FEW_TO_TRAIN = 5000
"""Below this number of images, fine-tuning is the better choice."""

_CUT, _UNKNOWN, _ENLARGED, _SIDED = 0.001, 0.05, 0.01, 0.01
"""Fractions that cause a warning: truncated captions, unknown words, enlarged images, sides."""

_SIDES = ("left", "right")


@dataclass(frozen=True)
class DataWarning:
    """A finding to consider before training.

    Attributes:
      kind: a short identifier for programs.
      text: what was found, where, and the remedy.
      level: "warning" if it will hurt, "note" if it may be intended.
    """

    kind: str
    text: str
    level: Literal["warning", "note"] = "warning"


def warnings(statistics: DataStatistics, config: DataConfig) -> list[DataWarning]:
    """Return the findings that may hurt training with this configuration, warnings before notes.

    Parts that were not inspected (images, duplicates) produce no findings.
    """
    found = [
        *_split_warnings(statistics),
        *_image_warnings(statistics, config),
        *_repeat_warnings(statistics),
        *_length_warnings(statistics, config),
        *_vocabulary_warnings(statistics, config),
        *_letter_warnings(statistics),
        *_count_warnings(statistics, config),
        *_side_warnings(statistics, config),
    ]
    return sorted(found, key=lambda warning: warning.level != "warning")


def caption_warnings(texts: SplitCaptions, config: DataConfig) -> list[DataWarning]:
    """Return `warnings` about the training captions alone, which takes moments."""
    captions = count_split_captions(texts, frequent=max(FREQUENT, config.min_count))
    return warnings(DataStatistics(config.name, {TRAIN: captions}, units=config.units), config)


def share(part: int, whole: int) -> str:
    """Format "12 of 300 (4.0 %)", with enough digits not to round to 0 or 100 %."""
    percent = 100 * part / max(1, whole)
    digits = 1 if part == 0 or part == whole or 0.1 <= percent <= 99.9 else 3
    return f"{part:,} of {whole:,} ({percent:.{digits}f} %)"


def _split_warnings(statistics: DataStatistics) -> Iterator[DataWarning]:
    splits = statistics.captions
    if TRAIN not in splits:
        there = ", ".join(splits) or "none"
        yield DataWarning("no-train", f"no split '{TRAIN}' to train on; found {there}")
    for split, captions in splits.items():
        number = counted(captions.images, "image")
        # The packaged model writes English words.
        if split == TRAIN and captions.images < _FEW_TO_TRAIN and statistics.units == "words":
            yield DataWarning(
                "few-images",
                f"{split}: {number} are few for training from random parameters; jaxcap finetune "
                f"--data {statistics.name} starts from the model in the package, and sets the "
                "options below itself",
            )
        elif captions.images < _FEW:
            what = " to train on" if split == TRAIN else ", so scores are mostly chance"
            yield DataWarning("near-empty", f"{split}: only {number}{what}")
        if bare := captions.per_image.get(0, 0):
            what = "are not trained on" if split == TRAIN else "cannot be scored"
            yield DataWarning(
                "no-captions",
                f"{split}: {share(bare, captions.images)} images have no caption and {what}",
            )
        if captions.wordless:
            number = counted(captions.wordless, "caption")
            yield DataWarning(
                "no-words", f"{split}: {number} without words, which are ignored", "note"
            )


def _image_warnings(statistics: DataStatistics, config: DataConfig) -> Iterator[DataWarning]:
    for split, images in statistics.images.items():
        if images.unreadable:
            name, problem = images.problems[0]
            count = images.readable + images.unreadable
            yield DataWarning(
                "unreadable",
                f"{split}: {share(images.unreadable, count)} images cannot be decoded and "
                f"will stop training; the first is {name}: {problem}",
            )
        shorter = images.sides(longer=False)
        small = sum(n for side, n in shorter.items() if side < config.image_size)
        if small > _ENLARGED * images.readable:
            middle = max(1, percentile(shorter, 50))
            advice = (
                f"; half of all by {config.image_size / middle:.1f} times or more. Enlarging adds "
                f"no detail and costs time: --data.image-size {middle}"
            )
            yield DataWarning(
                "enlarged",
                f"{split}: {share(small, images.readable)} images have a side below "
                f"data.image_size {config.image_size} and are enlarged"
                + (advice if 1.05 * middle < config.image_size else ""),
                "warning" if 2 * middle <= config.image_size else "note",
            )


def _repeat_warnings(statistics: DataStatistics) -> Iterator[DataWarning]:
    same, alike = statistics.same_images, statistics.alike_images
    for repeats, kind, what in (
        (same, "leak", "images are also in {}, byte for byte"),
        (alike, "leak", "images look like an image of {}, with the same bytes or not"),
        (statistics.same_names, "same-name", "images have the image_id of one in {}"),
    ):
        if repeats is None or (repeats is alike and not _says_more(alike, same)):
            continue
        for found in repeats.shared:
            first, second = found.splits
            if first == second:
                continue
            images = share(found.items, statistics.captions[second].images)
            effect = (
                "its scores are too good"
                if first == TRAIN
                else "the two splits are not independent"
            )
            yield DataWarning(
                kind, f"{second}: {images} {what.format(first)}: {effect} unless they are removed"
            )
    best = alike or same
    for found in best.shared if best is not None else ():
        if found.splits[0] == found.splits[1]:
            images = share(found.items, statistics.captions[found.splits[0]].images)
            yield DataWarning(
                "repeated-images",
                f"{found.splits[0]}: {images} images are copies of others there",
                "note",
            )


def _says_more(alike: Repeats | None, same: Repeats | None) -> bool:
    return alike is not None and (same is None or alike.shared != same.shared)


def _length_warnings(statistics: DataStatistics, config: DataConfig) -> Iterator[DataWarning]:
    longest = config.length_buckets[-1]
    captions = statistics.captions.get(TRAIN)
    if captions is None or not (cut := captions.longer_than(longest - _FRAME)):
        return
    nearly, most = captions.percentile(99.9) + _FRAME, max(captions.lengths) + _FRAME
    ways = [f"{most} holds all"]
    if longest < nearly < most:
        ways.insert(0, f"{nearly} holds 99.9 %")
    buckets = [bucket for bucket in config.length_buckets if bucket < nearly]
    buckets.append(nearly if longest < nearly else most)
    yield DataWarning(
        "too-long",
        f"{TRAIN}: {share(cut, captions.captions)} captions have more tokens ({statistics.units} "
        f"and {_FRAME}) than the longest of data.length_buckets, {longest}, and are truncated; "
        f"{', '.join(ways)}: --data.length-buckets {' '.join(map(str, buckets))}",
        "warning" if cut > _CUT * captions.captions else "note",
    )


def _vocabulary_warnings(statistics: DataStatistics, config: DataConfig) -> Iterator[DataWarning]:
    split, known = statistics.vocabulary_split, statistics.known
    if split is None or not statistics.captions[split].captions:
        return
    here = coverage(statistics.captions[split], known, min_count=config.min_count)
    if here.vocabulary == 0:
        yield DataWarning(
            "no-vocabulary",
            f"{split}: no word occurs {config.min_count} times; reduce data.min_count",
        )
        return
    for name, captions in statistics.captions.items():
        found = coverage(captions, known, min_count=config.min_count)
        if found.unknown <= _UNKNOWN:
            continue
        better = _lower_min_count(captions, known, config.min_count)
        way_out = (
            f"data.min_count {better} would leave {_UNKNOWN:.0%} or less"
            if better
            else f"no data.min_count leaves {_UNKNOWN:.0%} or less, so these captions may be of "
            "another kind"
        )
        yield DataWarning(
            "unknown-words",
            f"{name}: {100 * found.unknown:.1f} % of the running {statistics.units} become <unk> "
            f"at data.min_count {config.min_count}, and {100 * (1 - found.whole):.1f} % of the "
            f"captions have one; {way_out}",
        )


def _letter_warnings(statistics: DataStatistics) -> Iterator[DataWarning]:
    if statistics.units != "words":
        return
    for name, captions in statistics.captions.items():
        lost = sum(count for word, count in captions.words.items() if loses_letters(word))
        if lost:
            yield DataWarning(
                "lost-letters",
                f"{name}: the scorer's English tokenizer drops letters or marks of "
                f"{share(lost, sum(captions.words.values()))} running words. Training keeps them; "
                "for scores take --evaluation.units characters, and consider --data.units pieces "
                "or characters",
            )


def _lower_min_count(
    captions: CaptionStatistics, known: Mapping[str, int], min_count: int
) -> int | None:
    """Return the highest smaller minimum count that leaves few words unknown, if any."""
    lower = range(min(min_count, FREQUENT) - 1, 0, -1)
    return next(
        (m for m in lower if coverage(captions, known, min_count=m).unknown <= _UNKNOWN), None
    )


def _count_warnings(statistics: DataStatistics, config: DataConfig) -> Iterator[DataWarning]:
    captions = statistics.captions.get(TRAIN)
    if captions is None or not captions.captions:
        return
    kept = config.captions_per_image
    unused = sum(max(0, n - kept) * images for n, images in captions.per_image.items())
    if unused:
        yield DataWarning(
            "unused-captions",
            f"{TRAIN}: {share(unused, captions.captions)} captions are never trained on: "
            f"data.captions_per_image is {kept}, and images have up to {max(captions.per_image)}",
            "warning" if unused > _ENLARGED * captions.captions else "note",
        )
    places = kept * captions.images
    empty = places - (captions.captions - unused)
    if empty:
        most = max(captions.per_image)
        way_out = f"; --data.captions-per-image {most} is enough" if most < kept else ""
        yield DataWarning(
            "unfilled-captions",
            f"{TRAIN}: {100 * empty / places:.1f} % of the decoder's work is on padding: images "
            f"have {captions.captions / captions.images:.1f} captions on average, and "
            f"data.captions_per_image is {kept}{way_out}",
            "warning" if 2 * empty >= places else "note",
        )
    if captions.repeated:
        yield DataWarning(
            "repeated-captions",
            f"{TRAIN}: {share(captions.repeated, captions.captions)} captions repeat another "
            "one of the same image word for word",
            "note",
        )


def _side_warnings(statistics: DataStatistics, config: DataConfig) -> Iterator[DataWarning]:
    captions = statistics.captions.get(TRAIN)
    if captions is None or not config.flip or statistics.units != "words":
        return
    seen = {word: captions.words[word] for word in _SIDES if word in captions.words}
    if seen:
        times = " and ".join(f"'{word}' {counted(n, 'time')}" for word, n in seen.items())
        yield DataWarning(
            "mirrored",
            f"{TRAIN}: {times} in {counted(captions.captions, 'caption')}. If that means a "
            "side, it is wrong for the half of the images that data.flip mirrors; turn that off "
            "with --data.no-flip",
            "warning" if sum(seen.values()) > _SIDED * captions.captions else "note",
        )
