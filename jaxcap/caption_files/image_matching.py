"""Match the images of two files by a single, named rule.

Files name the same image differently: 42, "42", or "val/COCO_val2014_000000000042.jpg", with or
without the extension. Some were written on Windows, some list the folders of another machine, some
contain web addresses ("my%20photo.jpg?w=800"), and some give several ids. The rule that matches the
most images is used; among equal rules, the strictest. All images are matched by the same rule, and
never by similarity. An image that the rule cannot tell from another stays unmatched.
"""

from __future__ import annotations

import functools
import itertools
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_plus

from jaxcap.caption_files.column_names import one_spelling
from jaxcap.caption_files.reading import ImageCaptions
from jaxcap.data.image_names import IMAGE_SUFFIXES
from jaxcap.files.normal_form import normal_form
from jaxcap.messages.errors import InputError, counted

_MOST_PARTS = 6
"""Maximum number of trailing parts by which paths of another machine are told apart."""

_COCO_NAME = re.compile(r"(?:coco_[a-z]+\d{4}_)?0*(\d+)")


@functools.lru_cache(maxsize=1 << 17)
def _path(text: str) -> str:
    """Return a path in one spelling: ".\\City\\1.JPG" as "city/1.jpg".

    NFKC also makes a space of the narrow one that macOS writes in the names of screenshots.
    """
    return one_spelling(normal_form("NFKC", text)).casefold()


def _last(text: str, parts: int) -> str:
    return "/".join(_path(text).split("/")[-parts:])


def stem_of(text: str, parts: int = 1) -> str:
    """Return the last parts of a path without the suffix of an image, in lower case."""
    stem, suffix = posixpath.splitext(_last(text, parts))
    return stem if suffix in IMAGE_SUFFIXES else stem + suffix


def _number(text: str) -> str | None:
    """Return the number in "COCO_val2014_000000000042.jpg", "000000000042.jpg" or "42"."""
    match = _COCO_NAME.fullmatch(stem_of(text))
    return match[1] if match else None


_Rule = tuple[str, Callable[[str], str | None]]


def _by_last_parts(key: Callable[..., str], how: str = "") -> Iterator[_Rule]:
    for parts in range(_MOST_PARTS, 1, -1):
        words = f"by the last {parts} parts of their paths{how}"
        yield words, functools.partial(key, parts=parts)


_RULES: tuple[_Rule, ...] = (
    ("exactly", lambda text: text),
    ("as paths in any spelling", _path),
    *_by_last_parts(_last),
    ("without folders", functools.partial(_last, parts=1)),
    ("without folders and extensions", stem_of),
    ("by the number in COCO's file names", _number),
    *_by_last_parts(stem_of, ", without extensions"),
)
"""From the strictest to the loosest; the last ones only where folders tell names apart."""


def from_address(text: str) -> str:
    """Return the path in a web address: "my photo.jpg" for "my%20photo.jpg?w=800"."""
    return unquote_plus(text.partition("?")[0])


def _of_address(simplify: Callable[[str], str | None], text: str) -> str | None:
    return simplify(from_address(text))


_ADDRESS_RULES: tuple[_Rule, ...] = tuple(
    (f"{words}, read as web addresses", functools.partial(_of_address, simplify))
    for words, simplify in _RULES
)
"""Looser than all of `_RULES`, so literal names come first."""


def _rules_for(images: Iterable[ImageCaptions]) -> Iterator[_Rule]:
    yield from _RULES
    if any(from_address(text) != text for image in images for text in image.ids.values()):
        yield from _ADDRESS_RULES


@dataclass(frozen=True)
class Matching:
    """The matched images of two sequences.

    Attributes:
      rule: the rule in words, such as "image_id = cocoid, exactly".
      pairs: index in the first sequence to index in the second.
    """

    rule: str
    pairs: dict[int, int]


def _keys(
    images: Sequence[ImageCaptions], kind: str, simplify: Callable[[str], str | None]
) -> dict[str, list[int]]:
    """Map each key to the indices of the images that have it."""
    keys = defaultdict(list)
    for index, image in enumerate(images):
        if kind in image.ids and (key := simplify(image.ids[kind])) is not None:
            keys[key].append(index)
    return keys


def _is_one_path(images: Sequence[ImageCaptions], indices: Sequence[int], kind: str) -> bool:
    return len({_path(from_address(images[i].ids[kind])) for i in indices}) == 1


def _kinds(images: Sequence[ImageCaptions]) -> list[str]:
    return list(dict.fromkeys(kind for image in images for kind in image.ids))


def examples(images: Sequence[ImageCaptions], indices: Sequence[int], limit: int = 3) -> str:
    """List the first ids of a few images and count the rest."""
    names = [next(iter(images[i].ids.values())) for i in indices[:limit]]
    more = f" and {len(indices) - limit} more" if len(indices) > limit else ""
    return ", ".join(names) + more


def _described(images: Sequence[ImageCaptions]) -> str:
    """List a few ids of each kind."""
    parts = []
    for kind in _kinds(images):
        ids = [image.ids[kind] for image in images if kind in image.ids]
        parts.append(f"{kind} {', '.join(ids[:3])}{', …' if len(ids) > 3 else ''}")
    return "; ".join(parts)


def match(
    ours: Sequence[ImageCaptions],
    theirs: Sequence[ImageCaptions],
    *,
    paths: tuple[Path, Path],
    spellings: bool = False,
) -> Matching:
    """Match images by the rule that finds most images of `ours` in `theirs`.

    Args:
      ours: the images to find.
      theirs: the images to search.
      paths: the two files, for error messages.
      spellings: match several of `ours` with one of `theirs` if their names are the same path in
        different spellings.

    Raises:
      InputError: no rule matches any image, or ids of two kinds match equally many images in
        different ways.
    """
    best, rival = Matching("", {}), ""
    kinds = None
    for words, simplify in _rules_for((*ours, *theirs)):
        our_keys = {kind: _keys(ours, kind, simplify) for kind in _kinds(ours)}
        their_keys = {kind: _keys(theirs, kind, simplify) for kind in _kinds(theirs)}
        for both in itertools.product(our_keys, their_keys):
            here, there = our_keys[both[0]], their_keys[both[1]]
            pairs = {
                index: there[key][0]
                for key, indices in here.items()
                if len(there.get(key, ())) == 1
                and (len(indices) == 1 or (spellings and _is_one_path(ours, indices, both[0])))
                for index in indices
            }
            rule = f"{both[0]} = {both[1]}, {words}"
            if len(pairs) > len(best.pairs):
                best, kinds, rival = Matching(rule, pairs), both, ""
            elif len(pairs) == len(best.pairs) and both != kinds and pairs != best.pairs:
                rival = rival or rule
    if not best.pairs:
        raise InputError(
            f"{paths[0]} and {paths[1]} have no image in common. The first has "
            f"{_described(ours)}; the second has {_described(theirs)}. Images match if they have "
            "the same id, with or without folders and extension."
        )
    if rival:
        raise InputError(
            f"{paths[0]} and {paths[1]} match by two rules that differ: {best.rule}, and "
            f"{rival} ({counted(len(best.pairs), 'image')} each). Keep only one kind of id in each "
            "file."
        )
    return best
