"""Refuse input that a metric would silently score as something else."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence, Sized
from typing import Any

from jaxcap.messages.errors import InputError, counted


def check_tokenised(captions: Iterable[object]) -> None:
    """Check that captions are sequences of tokens; a string would count as its characters.

    Raises:
      InputError: a caption is a string.
    """
    for caption in captions:
        if isinstance(caption, str):
            raise InputError(
                f"Found the string {caption[:40]!r} where a tokenised caption was expected, such "
                "as ['a', 'dog']. Split captions with jaxcap.metrics.tokenize, or score text with "
                "jaxcap.metrics.evaluate_captions."
            )


def check_pairs(candidates: Sequence[object], references: Sequence[Sequence[object]]) -> None:
    """Check that each image has one tokenised candidate and at least one tokenised reference.

    Raises:
      InputError: there are no images, the numbers of images differ, an image has no references,
        or a caption is a string.
    """
    if len(candidates) != len(references):
        raise InputError(
            f"{len(candidates)} candidates but {len(references)} sets of references; "
            "a metric needs one candidate and one set of references for each image."
        )
    if not len(candidates):
        raise InputError("There are no captions to score: expected one or more images, found 0.")
    check_tokenised(candidates)
    check_tokenised(references)
    for index, refs in enumerate(references):
        if not len(refs):
            raise InputError(f"Image {index} has no reference captions; expected one or more.")
        check_tokenised(refs)


def check_texts(candidates: Mapping[Any, object], references: Mapping[Any, Any]) -> None:
    """Check that each image has a caption and a list of references, all of them strings.

    Raises:
      InputError: there are no images, the two sets of ids differ, an image has no references, or
        a caption is not a string.
    """
    if not candidates and not references:
        raise InputError("There are no captions to score: expected one or more images, found 0.")
    if without := references.keys() - candidates.keys():
        raise InputError(
            f"{len(without)} of {len(references)} images have references but no caption: "
            f"{_few(without)}. Caption every image of the split, or remove the references of the "
            "other images."
        )
    if unknown := candidates.keys() - references.keys():
        raise InputError(
            f"{len(unknown)} of {len(candidates)} captioned images have no references: "
            f"{_few(unknown)}. Check that captions and references belong to the same split."
        )
    for each, refs in references.items():
        if isinstance(refs, str) or not isinstance(refs, Sized):
            found = "a single string" if isinstance(refs, str) else type(refs).__name__
            raise InputError(
                f"References must be a list of captions for each image; found {found} for {each}."
            )
    if bare := [each for each, refs in references.items() if not len(refs)]:
        raise InputError(
            f"an empty list of references for {counted(len(bare), 'image')}: {_few(bare)}."
        )
    for each, caption in candidates.items():
        for text in (caption, *references[each]):
            if not isinstance(text, str):
                raise InputError(
                    f"Image {each}: found a caption of type {type(text).__name__}; expected the "
                    "text of a caption, as a string."
                )


def _few(ids: Iterable[Hashable], limit: int = 3) -> str:
    names = sorted(str(each) for each in ids)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
