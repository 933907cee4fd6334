"""Units of text (words, characters, pieces) to ids and back."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxcap.errors import InputError
from jaxcap.files import write_text
from jaxcap.text.units import WORDS, TextUnits, units_from_json, units_to_json

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
NEVER_SAID = (PAD, BOS, UNK)
"""What no caption of the model's own is made of."""


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of words; a word's id is its place.

    The first four are `<pad> <bos> <eos> <unk>`; then the words, most frequent first and
    alphabetically within a frequency, so that equal data give equal ids.

    Attributes:
      words: what `units` makes of captions: words, characters, or pieces of words.
      units: how a caption is split into these, and joined again.
    """

    words: tuple[str, ...]
    units: TextUnits = WORDS

    @classmethod
    def from_captions(
        cls, captions: Iterable[Sequence[str]], *, min_count: int, units: TextUnits = WORDS
    ) -> Vocabulary:
        """Counts the words of split captions and keeps those seen `min_count` times."""
        counts = collections.Counter(word for caption in captions for word in caption)
        return cls.from_counts(counts, min_count=min_count, units=units)

    @classmethod
    def from_counts(
        cls, counts: Mapping[str, int], *, min_count: int, units: TextUnits = WORDS
    ) -> Vocabulary:
        """Keeps the words seen `min_count` times, of how often each is seen.

        Raises:
          InputError: there are none.
        """
        kept = [w for w, n in counts.items() if n >= min_count and w not in SPECIALS]
        if not kept:
            one, many = units.name.removesuffix("s"), units.name
            raise InputError(
                f"The training captions hold no {one} {min_count} times or more "
                f"({len(counts)} different {many} in all); lower data.min_count."
            )
        return cls(SPECIALS + tuple(sorted(kept, key=lambda w: (-counts[w], w))), units)

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        # A caption may say "<eos>"; only `encode` itself ends one.
        return {word: i for i, word in enumerate(self.words) if i >= len(SPECIALS)}

    def encode(self, words: Sequence[str], *, max_length: int) -> list[int]:
        """`<bos> words <eos>` as ids, at most `max_length` of them.

        A caption that is too long is cut and keeps no `<eos>`: the model must not learn
        that sentences end there.
        """
        ids = [BOS, *(self.id_of(word) for word in words), EOS]
        return ids[:max_length]

    def id_of(self, word: str) -> int:
        """The word's id; that of `<unk>` for one that is not here."""
        return self._ids.get(word, UNK)

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first `<eos>`, without `<pad>` and `<bos>`."""
        return self.units.join(self.words_of(ids))

    def words_of(self, ids: Iterable[int]) -> list[str]:
        """The words up to the first `<eos>`, without `<pad>` and `<bos>`, not yet joined."""
        words = []
        for i in ids:
            if i == EOS:
                break
            if i not in (PAD, BOS):
                words.append(self.words[i])
        return words

    def save(self, path: Path) -> None:
        """Writes the words as JSON, with all that it takes to split and join captions."""
        write_text(path, json.dumps(self.to_json(), ensure_ascii=False, indent=0) + "\n")

    def to_json(self) -> dict[str, Any]:
        """What `save` writes."""
        return {"words": list(self.words), "text": units_to_json(self.units)}

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads what `save` wrote; `InputError` for anything else."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: no readable vocabulary ({error!r}).") from error
        return cls.from_json(values, where=str(path))

    @classmethod
    def from_json(cls, values: Any, *, where: str) -> Vocabulary:
        """Reads what `to_json` gave; `InputError`, naming the file `where`, for anything else."""
        try:
            words, units = tuple(values["words"]), values.get("text")
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{where}: no readable vocabulary ({error!r}).") from error
        if (
            words[:4] != SPECIALS
            or not all(isinstance(word, str) for word in words)
            or len(set(words)) != len(words)
        ):
            raise InputError(
                f"{where}: a vocabulary is a list of words that begins with "
                f"{' '.join(SPECIALS)} and repeats none; found {' '.join(map(str, words[:4]))}…"
            )
        return cls(words, units_from_json(units, where=where))
