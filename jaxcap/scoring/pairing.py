"""Predictions beside references: the same images, one caption each, nothing left out unsaid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxcap.caption_files.matching import examples, match
from jaxcap.caption_files.reading import COCO, KARPATHY, TOKENS, CaptionFile, ImageCaptions
from jaxcap.caption_files.text_files import numbered_lines, read_text
from jaxcap.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Allowed:
    """What is refused otherwise, since it makes scores that compare with no others."""

    missing: bool = False
    """Images without a caption; the others are scored."""
    duplicates: bool = False
    """Several captions for an image; the first is scored."""


@dataclass(frozen=True)
class Pairing:
    """Captions to score.

    Attributes:
      names: the images' ids, as the predictions write them, in their order.
      captions: one for each image.
      references: one or more for each image.
      ids: of each image, all that the references and the predictions give.
      n_best: of each image, where the predictions have them; else empty.
      places: of each image among the references' images.
      of: how many images the references have; more than there are names if some are missing.
      rule: how images were matched, in words.
      warnings: what makes the scores hard to compare, in sentences.
    """

    names: list[str]
    captions: list[str]
    references: list[list[str]]
    ids: list[dict[str, str]]
    n_best: list[list[tuple[str, float]]]
    places: list[int]
    of: int
    rule: str
    warnings: list[str]

    def only(self, chosen: Sequence[int]) -> Pairing:
        """The part of it with these indices, in their order."""
        return replace(
            self,
            names=[self.names[i] for i in chosen],
            captions=[self.captions[i] for i in chosen],
            references=[self.references[i] for i in chosen],
            ids=[self.ids[i] for i in chosen],
            n_best=[self.n_best[i] for i in chosen],
            places=[self.places[i] for i in chosen],
        )


def _several(file: CaptionFile) -> int:
    """How many images have more than one caption."""
    return sum(len(image.captions) > 1 for image in file.images)


def _are_references(file: CaptionFile) -> bool:
    return file.format in (COCO, KARPATHY, TOKENS) or 2 * _several(file) > len(file.images)


def check_roles(predictions: CaptionFile, references: CaptionFile) -> None:
    """Raises `InputError` if the two files seem to be mixed up, or to be of the same kind."""
    if _are_references(predictions):
        what = f"{predictions.path} holds references ({predictions.format}, {_counts(predictions)})"
        if _are_references(references):
            raise InputError(
                f"{what}; expected predictions, one caption per image: COCO results, "
                "{image: caption}, JSON lines or CSV."
            )
        raise InputError(
            f"{what}, and {references.path} predictions ({references.format}, "
            f"{_counts(references)}). Swap them: jaxcap score PREDICTIONS REFERENCES."
        )
    if any(image.n_best for image in references.images):
        raise InputError(
            f"{references.path}: the captions have log probabilities, so a model wrote them; "
            "expected references. If the files are mixed up, swap them: "
            "jaxcap score PREDICTIONS REFERENCES."
        )


def _counts(file: CaptionFile) -> str:
    low, high = count_range([image.captions for image in file.images])
    each = f"{low}" if low == high else f"{low} to {high}"
    return f"{each} caption{'s' if high > 1 else ''} per image"


def count_range(references: Sequence[Sequence[str]]) -> tuple[int, int]:
    """The smallest and the largest number of captions per image."""
    counts = [len(each) for each in references]
    return min(counts), max(counts)


def in_split(file: CaptionFile, split: str | None, option: str = "--split") -> CaptionFile:
    """The images of one split, or of several ("train+restval").

    Args:
      split: None for all, which is refused if the file names several splits.

    Raises:
      InputError: an unknown split, or none given where there are several; names those there are.
    """
    sizes = Counter(image.split for image in file.images if image.split is not None)
    known = ", ".join(f"{name} ({size} images)" for name, size in sizes.items())
    if split is None:
        if len(sizes) > 1:
            raise InputError(f"{file.path}: which split? Give {option}; the file has {known}.")
        return file
    if not sizes:
        raise InputError(f"{option} {split}: {file.path} ({file.format}) names no splits.")
    wanted = split.split("+")
    for name in wanted:
        if name not in sizes:
            hint = did_you_mean(name, [str(each) for each in sizes])
            raise InputError(
                f"{option} {split}: {file.path} has no split '{name}'.{hint} It has {known}."
            )
    chosen = [image for image in file.images if image.split in wanted]
    return CaptionFile(file.path, file.format, chosen, tokenised=file.tokenised)


def in_list(file: CaptionFile, path: Path) -> CaptionFile:
    """The images that a text file lists, one a line, as Flickr8k's lists of splits do.

    Raises:
      InputError: the list cannot be read, or names images that `file` has no captions for.
    """
    lines = list(numbered_lines(read_text(path)))
    named = list(dict.fromkeys(line.strip() for _, line in lines))
    wanted = [ImageCaptions({"line": name}, []) for name in named]
    pairs = match(wanted, file.images, paths=(path, file.path)).pairs
    if absent := [i for i in range(len(wanted)) if i not in pairs]:
        raise InputError(
            f"{path}: no captions in {file.path} for {len(absent)} of {len(wanted)} images: "
            f"{examples(wanted, absent)}."
        )
    chosen = [file.images[pairs[i]] for i in range(len(wanted))]
    return CaptionFile(file.path, file.format, chosen, tokenised=file.tokenised)


def pair(
    predictions: CaptionFile, references: CaptionFile, *, allowed: Allowed | None = None
) -> Pairing:
    """Puts each image's caption beside its references.

    Raises:
      InputError: the files are mixed up, have no image in common, images have no caption, or
        several; the last two unless `allowed`.
    """
    allowed = allowed or Allowed()
    check_roles(predictions, references)
    matching = match(
        predictions.images, references.images, paths=(predictions.path, references.path)
    )
    warnings = []
    if several := [i for i, image in enumerate(predictions.images) if len(image.captions) > 1]:
        warnings.append(_duplicates(predictions, several, allowed))
    matched = set(matching.pairs.values())
    if missing := [i for i in range(len(references.images)) if i not in matched]:
        warnings.append(_missing(predictions, references, missing, allowed))
    if extra := [i for i in range(len(predictions.images)) if i not in matching.pairs]:
        warnings.append(
            f"{references.path} has no references for {len(extra)} of the "
            f"{len(predictions.images)} captioned images, which are not scored: "
            f"{examples(predictions.images, extra)}"
        )
    ours = [predictions.images[i] for i in matching.pairs]
    return Pairing(
        names=[next(iter(image.ids.values())) for image in ours],
        captions=[image.captions[0] for image in ours],
        references=[references.images[j].captions for j in matching.pairs.values()],
        ids=[
            references.images[j].ids | predictions.images[i].ids for i, j in matching.pairs.items()
        ],
        n_best=[image.n_best for image in ours],
        places=list(matching.pairs.values()),
        of=len(references.images),
        rule=matching.rule,
        warnings=warnings,
    )


def _duplicates(predictions: CaptionFile, several: list[int], allowed: Allowed) -> str:
    images = predictions.images
    if differing := [i for i in several if len(set(images[i].captions)) > 1]:
        what = (
            f"{predictions.path}: several captions that differ for {len(differing)} of "
            f"{len(images)} images: "
            f"{examples(images, differing)}"
        )
        if not allowed.duplicates:
            raise InputError(
                f"{what}. Leave one for each image, or score the first with --allow-duplicates."
            )
        return f"{what}; the first is scored"
    return (
        f"{predictions.path}: the same caption more than once for {len(several)} of "
        f"{len(images)} images: "
        f"{examples(images, several)}; each is scored once"
    )


def _missing(
    predictions: CaptionFile, references: CaptionFile, missing: list[int], allowed: Allowed
) -> str:
    total = len(references.images)
    what = (
        f"{predictions.path} has no caption for {len(missing)} of the {total} images of "
        f"{references.path}: {examples(references.images, missing)}"
    )
    if not allowed.missing:
        there = total - len(missing)
        restrict = (
            " If the references are of more images than the split, say which are its: "
            "--image-list FILE, or --split where the file names splits."
        )
        raise InputError(
            f"{what}.{restrict if 2 * len(missing) > total else ''} Caption them all, or score the "
            f"other {there} with --allow-missing; such scores compare with no others, and their "
            f"signature says images:{there}of{total}."
        )
    return f"{what}; they are not scored, and the scores compare with no others"


def common(first: Pairing, second: Pairing) -> tuple[Pairing, Pairing]:
    """The images that both have, in the order of the first."""
    index = {place: i for i, place in enumerate(second.places)}
    both = [(i, index[place]) for i, place in enumerate(first.places) if place in index]
    return first.only([i for i, _ in both]), second.only([j for _, j in both])
