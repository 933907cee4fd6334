"""Select references and training captions from the files that the user names."""

from __future__ import annotations

from pathlib import Path

from jaxcap.caption_files.reading import CaptionFile
from jaxcap.messages.errors import InputError, counted
from jaxcap.metrics import ScoringUnits, splitter
from jaxcap.scoring.pairing import in_list, in_split
from jaxcap.scoring.pitfalls import share


def references_of(
    file: CaptionFile, *, split: str | None = None, image_list: Path | None = None
) -> tuple[CaptionFile, list[str]]:
    """Select the references of a split or of a list of images.

    Returns:
      The selected references, and notes on images that were left out.

    Raises:
      InputError: the file has no such split, or the list is invalid.
    """
    path, notes = file.path, []
    if file.bare:
        notes.append(
            f"{path}: {share(file.bare, file.bare + len(file.images))} images have no "
            "references and are not scored"
        )
    # With a list of images, no split is needed.
    if split is not None or image_list is None:
        whole, file = file, in_split(file, split)
        rest = sum(image.split == "restval" for image in whole.images)
        if split is not None and "train" in split.split("+") and "restval" not in split and rest:
            notes.append(
                f"{path}: --split {split} leaves out {counted(rest, 'image')} of 'restval'; most "
                "papers also train on those (--split train+restval)"
            )
    return (file if image_list is None else in_list(file, image_list)), notes


def training_captions(
    file: CaptionFile,
    *,
    split: str | None,
    image_list: Path | None,
    references: Path,
    units: ScoringUnits = "words",
) -> set[str]:
    """Return the captions of a training set, each tokenised and joined by spaces.

    Args:
      file: the captions of the training set.
      split: the split; None means "train", or "train+restval" if the file has both.
      image_list: a file that lists the training images.
      references: the file of the references. If it is the same file, a split or a list is needed.
      units: words or characters.

    Raises:
      InputError: the split or the list is invalid, or the file is that of the references without a
        split or a list.
    """
    splits = {image.split for image in file.images} - {None}
    if split is None and image_list is None and "train" in splits:
        split = "train+restval" if "restval" in splits else "train"
    if split is None and image_list is None and file.path.resolve() == references.resolve():
        raise InputError(
            f"--train {file.path}: this is the file of the references; name the training images in "
            "it with --train-list FILE."
        )
    if split is not None or image_list is None:
        file = in_split(file, split, "--train-split")
    if image_list is not None:
        file = in_list(file, image_list)
    tokens = splitter(units)
    return {" ".join(tokens(text)) for image in file.images for text in image.captions}
