"""Common names of the columns and JSON keys that hold image ids and captions."""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxcap.caption_files.text_files import column_name
from jaxcap.files.normal_form import normal_form

ID_NAMES = (
    "image_id", "image", "file_name", "filename", "image_name", "image_path", "file_path",
    "filepath", "path", "file", "img", "img_id", "imgid", "cocoid",
)  # fmt: skip
LAST_ID_NAMES = ("id", "name")
"""Used only if no other id is found: in COCO, `id` next to `image_id` identifies the caption."""
CAPTION_NAMES = (
    "caption", "captions", "prediction", "generated_caption", "hypothesis", "reference",
    "references", "sentence", "sentences", "comment", "text", "description", "raw",
)  # fmt: skip
_NUMBERED = "caption|reference|comment|sentence"
SPLIT_NAME = "split"


@dataclass(frozen=True)
class Names:
    """Names of columns or JSON keys, for files that do not use the common ones.

    Attributes:
      image: the column of image ids.
      captions: the columns of captions, or of lists of captions.
      split: the column of splits.
      nameable: whether the user can name them, for messages.
    """

    image: str | None = None
    captions: tuple[str, ...] = ()
    split: str | None = None
    nameable: bool = False

    @property
    def given(self) -> tuple[str, ...]:
        """All names that are not None."""
        return tuple(n for n in (self.image, *self.captions, self.split) if n is not None)

    def of_columns(self) -> Names:
        """Return the names as `find_table` normalises them."""
        return replace(
            self,
            image=None if self.image is None else column_name(self.image),
            captions=tuple(column_name(name) for name in self.captions),
            split=None if self.split is None else column_name(self.split),
        )

    def ids(self, record: Mapping[str, Any]) -> dict[str, str]:
        """Return the ids of a record by column."""
        choices = (ID_NAMES, LAST_ID_NAMES) if self.image is None else ((self.image,),)
        for names in choices:
            for keys in ({n: n for n in names}, _in_any_spelling(record, names)):
                texts = {n: id_text(record.get(key)) for n, key in keys.items()}
                if found := {n: text for n, text in texts.items() if text is not None}:
                    return found
        return {}

    def captions_in(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the columns of captions in a record.

        These are the given ones, or the first common one with those that number it: caption,
        caption_2, caption.3.
        """
        if self.captions:
            return tuple(name for name in self.captions if name in record)
        return _common_captions(tuple(record))

    def split_of(self, record: Mapping[str, Any]) -> object:
        """Return the split of a record, of any type, or None."""
        return record.get(self.split or SPLIT_NAME)


@functools.lru_cache(maxsize=64)  # the records of a file have the same few sets of keys
def _common_captions(keys: tuple[str, ...]) -> tuple[str, ...]:
    found = [name for name in CAPTION_NAMES if name in keys]
    first = (found or list(_in_any_spelling(keys, CAPTION_NAMES).values()))[:1]
    stem = column_name(first[0]).rstrip("s") if first else _NUMBERED
    numbered = re.compile(rf"(?:{stem})s?[_.]?\d+")
    return (*first, *(key for key in keys if numbered.fullmatch(column_name(key))))


def _in_any_spelling(record: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """Map each of these names to the key that spells it as "imagePath" or "Image Path"."""
    keys = {column_name(key).replace("_", ""): key for key in record}
    return {n: keys[plain] for n in names if (plain := n.replace("_", "")) in keys}


def id_text(value: object) -> str | None:
    """Return an id as text, so that 42 and "42" are the same image; None if it is not an id."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return str(value).strip() or None


def one_spelling(name: str) -> str:
    """Return ".\\city\\1.jpg" as "city/1.jpg", with accents composed. Case stays."""
    return posixpath.normpath(normal_form("NFC", name).replace("\\", "/"))
