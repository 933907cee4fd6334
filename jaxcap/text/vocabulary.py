"""Vocabularies, which map words (or other text units) to ids and back."""

from __future__ import annotations

import collections
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxcap.files import write_text
from jaxcap.files.json_data import from_dict, read_json, shown
from jaxcap.messages.errors import InputError
from jaxcap.text.units import (
    OLD_WORDS,
    WORDS,
    StoredUnits,
    TextUnits,
    units_from_json,
    units_to_json,
)

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
NEVER_SAID = (PAD, BOS, UNK)
"""Ids that a generated caption never contains."""
_MAX_WORD = 1000
"""Characters. Captions repeat words, and one of megabytes would fill the memory."""


@dataclass(frozen=True)
class _Stored:
    """The JSON values of a vocabulary."""

    words: tuple[str, ...]
    text: StoredUnits | None = None


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of words; the id of a word is its index.

    The first four are `<pad> <bos> <eos> <unk>`. The words follow by descending frequency, and
    alphabetically within a frequency, so that equal data give equal ids.

    Attributes:
      words: the words, characters or pieces.
      units: splits captions into these units and joins them again.
    """

    words: tuple[str, ...]
    units: TextUnits = WORDS

    @classmethod
    def from_captions(
        cls, captions: Iterable[Sequence[str]], *, min_count: int, units: TextUnits = WORDS
    ) -> Vocabulary:
        """Keep the words that occur at least `min_count` times in split captions.

        Words of more than 1,000 characters are never kept.

        Raises:
          InputError: no word is that frequent.
        """
        counts = collections.Counter(word for caption in captions for word in caption)
        return cls.from_counts(counts, min_count=min_count, units=units)

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        *,
        min_count: int,
        max_words: int | None = None,
        always: Collection[str] = (),
        units: TextUnits = WORDS,
    ) -> Vocabulary:
        """Keep the words with a count of at least `min_count`.

        Args:
          counts: how often each word occurs.
          min_count: the least count.
          max_words: the number of words to keep at most, the most frequent ones.
          always: words that are kept, before all others, if they occur at all.
          units: how captions were split into words.

        Raises:
          InputError: no word is that frequent.
        """
        kept = _frequent(counts, min_count, max_words, always)
        if not kept:
            one, many = units.name.removesuffix("s"), units.name
            raise InputError(
                f"No {one} occurs {min_count} times or more in the training captions "
                f"({len(counts)} different {many} in all); lower data.min_count."
            )
        return cls(SPECIALS + kept, units)

    def extended(
        self, counts: Mapping[str, int], *, min_count: int, always: Collection[str] = ()
    ) -> Vocabulary:
        """Append the words that `from_counts` would keep and that are not in it yet."""
        frequent = _frequent(counts, min_count, None, always)
        new = tuple(word for word in frequent if word not in self._ids)
        return replace(self, words=self.words + new)

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        # Captions may contain the text "<eos>", but only `encode` adds the token.
        return {word: i for i, word in enumerate(self.words) if i >= len(SPECIALS)}

    def encode(self, words: Sequence[str], *, max_length: int) -> list[int]:
        """Return the ids of `<bos> words <eos>`, at most `max_length` of them.

        Longer captions are truncated and have no `<eos>`, so that the model does not learn to end
        sentences there.
        """
        ids = [BOS, *(self.id_of(word) for word in words), EOS]
        return ids[:max_length]

    def id_of(self, word: str) -> int:
        """Return the id of a word, or that of `<unk>` for unknown words."""
        return self._ids.get(word, UNK)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text up to the first `<eos>`, without `<pad>` and `<bos>`."""
        return self.units.join(self.words_of(ids))

    def words_of(self, ids: Iterable[int]) -> list[str]:
        """Return the words up to the first `<eos>`, without `<pad>` and `<bos>`."""
        words = []
        for i in ids:
            if i == EOS:
                break
            if i not in (PAD, BOS):
                words.append(self.words[i])
        return words

    def save(self, path: Path) -> None:
        """Write the vocabulary and its units as JSON."""
        write_text(path, json.dumps(self.to_json(), ensure_ascii=False, indent=0) + "\n")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON values that `save` writes."""
        return {"words": list(self.words), "text": units_to_json(self.units)}

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a vocabulary that `save` wrote.

        Raises:
          InputError: the file cannot be read or is not a vocabulary.
        """
        return cls.from_json(read_json(path, "vocabulary"), where=str(path))

    @classmethod
    def from_json(cls, values: Any, *, where: str) -> Vocabulary:
        """Restore a vocabulary from the values of `to_json`.

        Args:
          values: the JSON values.
          where: the file, for error messages.

        Raises:
          InputError: the values are not a vocabulary.
        """
        stored = from_dict(_Stored, values, where=where)
        words = stored.words
        if words[:4] != SPECIALS or len(set(words)) != len(words):
            raise InputError(
                f"{where}: a vocabulary is a list of words that begins with "
                f"{' '.join(SPECIALS)} and repeats none; found {shown(words[:4])}…"
            )
        try:
            "".join(words).encode()
        except UnicodeEncodeError as error:  # no file of captions could hold the word
            half = shown(error.object[error.start : error.end])
            raise InputError(
                f"{where}: a word contains {half}, which is half a character."
            ) from None
        if (longest := max(map(len, words))) > _MAX_WORD:
            raise InputError(
                f"{where}: a word has {longest:,} characters; expected at most {_MAX_WORD:,}."
            )
        # Old runs split captions into words and say nothing about it.
        units = OLD_WORDS if stored.text is None else units_from_json(stored.text, where=where)
        return cls(words, units)


def _frequent(
    counts: Mapping[str, int], min_count: int, max_words: int | None, always: Collection[str]
) -> tuple[str, ...]:
    """Return the words that `Vocabulary.from_counts` keeps, the most frequent first."""
    first = frozenset(always)
    kept = [
        word
        for word, count in counts.items()
        if (count >= min_count or word in first) and word not in SPECIALS and len(word) <= _MAX_WORD
    ]
    kept.sort(key=lambda word: (word not in first, -counts[word], word))
    return tuple(sorted(kept[:max_words], key=lambda word: (-counts[word], word)))
