"""Pair predictions with the references of the same images, and report every image left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxcap.caption_files.image_matching import examples, match
from jaxcap.caption_files.reading import COCO, KARPATHY, TOKENS, CaptionFile, ImageCaptions
from jaxcap.caption_files.text_files import numbered_lines, read_text
from jaxcap.messages.errors import InputError, counted, did_you_mean

_MAX_CAPTION = 100_000
"""The most characters of a caption. The time and memory of ROUGE-L grow with the square of it."""


@dataclass(frozen=True)
class Allowed:
    """Options to score input that is refused by default. Such scores are not comparable."""

    missing: bool = False
    """Accept images without a caption and score the others."""
    duplicates: bool = False
    """Accept several captions of an image and score the first."""


@dataclass(frozen=True)
class Pairing:
    """Captions with their references, ready to be scored.

    Attributes:
      names: the ids of the images as written in the predictions, in their order.
      captions: one caption per image.
      references: one or more references per image.
      ids: all ids of each image, from the references and the predictions.
      n_best: the n-best list of each image; empty if the predictions have none.
      places: the index of each image among the images of the references.
      of: the number of images with references, including those without a caption.
      rule: the rule by which images were matched, in words.
      warnings: reasons why the scores may not be comparable, as sentences.
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
        """Return the images with these indices, in this order."""
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
    """Count the images with more than one caption."""
    return sum(len(image.captions) > 1 for image in file.images)


def _are_references(file: CaptionFile) -> bool:
    return file.format in (COCO, KARPATHY, TOKENS) or 2 * _several(file) > len(file.images)


def check_roles(predictions: CaptionFile, references: CaptionFile) -> None:
    """Raise `InputError` if the files seem to be swapped or to be of the same kind."""
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
            "expected references. If the files are in the wrong order, swap them: "
            "jaxcap score PREDICTIONS REFERENCES."
        )


def _counts(file: CaptionFile) -> str:
    low, high = count_range([image.captions for image in file.images])
    each = f"{low}" if low == high else f"{low} to {high}"
    return f"{each} caption{'s' * (high > 1)} per image"


def count_range(references: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Return the smallest and the largest number of captions per image."""
    counts = [len(each) for each in references]
    return min(counts), max(counts)


def in_split(file: CaptionFile, split: str | None, option: str = "--split") -> CaptionFile:
    """Select the images of one split, or of several such as "train+restval".

    Args:
      file: the captions.
      split: the split; None selects all images if the file has at most one split.
      option: the option of the split, for error messages.

    Raises:
      InputError: the split is unknown, or is None although the file has several. Lists the splits.
    """
    sizes = Counter(image.split for image in file.images if image.split is not None)
    known = ", ".join(f"{name} ({counted(size, 'image')})" for name, size in sizes.items())
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
    """Select the images that a text file lists, one per line, like the split lists of Flickr8k.

    Raises:
      InputError: the list cannot be read, or lists images without captions in `file`.
    """
    lines = list(numbered_lines(read_text(path)))
    named = list(dict.fromkeys(line.strip() for _, line in lines))
    wanted = [ImageCaptions({"line": name}, []) for name in named]
    pairs = match(wanted, file.images, paths=(path, file.path)).pairs
    if absent := [i for i in range(len(wanted)) if i not in pairs]:
        raise InputError(
            f"{path}: no captions in {file.path} for {len(absent)} of {len(wanted)} images: "
            f"{examples(wanted, absent)}. Caption them, or remove them from the list."
        )
    chosen = [file.images[pairs[i]] for i in range(len(wanted))]
    return CaptionFile(file.path, file.format, chosen, tokenised=file.tokenised)


def pair(
    predictions: CaptionFile, references: CaptionFile, *, allowed: Allowed | None = None
) -> Pairing:
    """Pair the caption of each image with its references.

    Raises:
      InputError: the files are swapped or have no image in common, or a caption is too long. Unless
        `allowed`, also if images have no caption or several different ones.
    """
    allowed = allowed or Allowed()
    check_roles(predictions, references)
    for file in (predictions, references):
        _check_lengths(file)
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


def _check_lengths(file: CaptionFile) -> None:
    for image in file.images:
        if (length := max(map(len, image.captions))) > _MAX_CAPTION:
            raise InputError(
                f"{file.path}: a caption of image {next(iter(image.ids.values()))} has {length:,} "
                f"characters; expected at most {_MAX_CAPTION:,}."
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
                f"{what}. Keep one per image, or score the first with --allow-duplicates."
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
            " If the references cover more images than the split, select its images with "
            "--image-list FILE, or with --split if the file names splits."
        )
        raise InputError(
            f"{what}.{restrict if 2 * len(missing) > total else ''} Caption them all, or score the "
            f"other {there} with --allow-missing. Such scores are not comparable with others, and "
            f"their signature says images:{there}of{total}."
        )
    return f"{what}; they are not scored, and the scores are not comparable with others"


def common(first: Pairing, second: Pairing) -> tuple[Pairing, Pairing]:
    """Select the images of both pairings, in the order of the first."""
    index = {place: i for i, place in enumerate(second.places)}
    both = [(i, index[place]) for i, place in enumerate(first.places) if place in index]
    return first.only([i for i, _ in both]), second.only([j for _, j in both])
