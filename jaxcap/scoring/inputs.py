"""The captions that a scoring needs, from the files that the user names."""

from __future__ import annotations

from pathlib import Path

from jaxcap.caption_files.reading import CaptionFile, read_captions
from jaxcap.errors import InputError
from jaxcap.metrics import ScoringUnits, splitter
from jaxcap.scoring.pairing import in_list, in_split
from jaxcap.scoring.pitfalls import share


def references_of(
    file: CaptionFile, *, split: str | None = None, image_list: Path | None = None
) -> tuple[CaptionFile, list[str]]:
    """The references of a split or a list of images, and what they leave out.

    Raises:
      InputError: the split or the list is wrong.
    """
    path, notes = file.path, []
    if file.bare:
        notes.append(
            f"{path}: {share(file.bare, file.bare + len(file.images))} images have no "
            "references and are left out"
        )
    # Whoever names the images need not name their split.
    if split is not None or image_list is None:
        whole, file = file, in_split(file, split)
        rest = sum(image.split == "restval" for image in whole.images)
        if split is not None and "train" in split.split("+") and "restval" not in split and rest:
            notes.append(
                f"{path}: --split {split} leaves out the {rest} images of 'restval', on which most "
                "papers train, too (--split train+restval)"
            )
    return (file if image_list is None else in_list(file, image_list)), notes


def training_captions(
    path: Path,
    *,
    split: str | None,
    image_list: Path | None,
    references: Path,
    units: ScoringUnits = "words",
) -> set[str]:
    """The captions of a training set, tokenised and joined by spaces.

    Args:
      split: default "train", with "restval" where there is one.
      references: of the evaluation; the same file must be told apart by split or list.

    Raises:
      InputError: the file, the split or the list is wrong, or the file is that of the references.
    """
    file = read_captions(path)
    splits = {image.split for image in file.images} - {None}
    if split is None and image_list is None and "train" in splits:
        split = "train+restval" if "restval" in splits else "train"
    if split is None and image_list is None and path.resolve() == references.resolve():
        raise InputError(
            f"--train {path}: this is the file of the references; name the training images in it "
            "with --train-list FILE."
        )
    if split is not None or image_list is None:
        file = in_split(file, split, "--train-split")
    if image_list is not None:
        file = in_list(file, image_list)
    tokens = splitter(units)
    return {" ".join(tokens(text)) for image in file.images for text in image.captions}
