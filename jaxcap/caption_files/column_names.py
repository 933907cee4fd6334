"""What the ids and the captions of images are called in people's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxcap.caption_files.text_files import column_name

ID_NAMES = (
    "image_id", "image", "file_name", "filename", "image_name", "image_path", "file_path",
    "filepath", "path", "file", "img", "img_id", "imgid", "cocoid",
)  # fmt: skip
LAST_ID_NAMES = ("id", "name")
"""Used where there is no other: beside an `image_id`, COCO's `id` is the caption's."""
CAPTION_NAMES = (
    "caption", "captions", "prediction", "generated_caption", "hypothesis", "reference",
    "references", "sentence", "sentences", "comment", "text", "description",
)  # fmt: skip
SPLIT_NAME = "split"


@dataclass(frozen=True)
class Names:
    """Columns of a table, or keys of JSON entries, where they are not found by their usual names.

    Attributes:
      image: holds the id of the image.
      captions: each holds a caption, or a list of them.
      split: holds the split of the image.
    """

    image: str | None = None
    captions: tuple[str, ...] = ()
    split: str | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """All that are given."""
        return tuple(n for n in (self.image, *self.captions, self.split) if n is not None)

    def of_columns(self) -> Names:
        """The same, as `table_columns` writes names."""
        return Names(
            None if self.image is None else column_name(self.image),
            tuple(column_name(name) for name in self.captions),
            None if self.split is None else column_name(self.split),
        )

    def ids(self, record: Mapping[str, Any]) -> dict[str, str]:
        """The ids of a record, by their names."""
        choices = (ID_NAMES, LAST_ID_NAMES) if self.image is None else ((self.image,),)
        for names in choices:
            found = {n: text for n in names if (text := id_text(record.get(n))) is not None}
            if found:
                return found
        return {}

    def captions_in(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        """The names under which a record holds captions: those given, or the first usual one."""
        if self.captions:
            return tuple(name for name in self.captions if name in record)
        return tuple(name for name in CAPTION_NAMES if name in record)[:1]

    def split_of(self, record: Mapping[str, Any]) -> object:
        """The split of a record, whatever it is; None if it has none."""
        return record.get(self.split or SPLIT_NAME)


def id_text(value: object) -> str | None:
    """An id as text: 42 and "42" are the same image. None for what can be no id."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return str(value).strip() or None
