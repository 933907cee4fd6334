"""Words to ids and back."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxcap.errors import InputError
from jaxcap.files import write_text

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of words; a word's id is its place.

    The first four are `<pad> <bos> <eos> <unk>`; then the words, most frequent first and
    alphabetically within a frequency, so that equal data give equal ids.
    """

    words: tuple[str, ...]

    @classmethod
    def from_captions(cls, captions: Iterable[Sequence[str]], *, min_count: int) -> Vocabulary:
        """Counts the words of tokenised captions and keeps those seen `min_count` times."""
        counts = collections.Counter(word for caption in captions for word in caption)
        kept = [w for w, n in counts.items() if n >= min_count and w not in SPECIALS]
        if not kept:
            raise InputError(
                f"The training captions hold no word {min_count} times or more "
                f"({len(counts)} different words in all); lower data.min_count."
            )
        return cls(SPECIALS + tuple(sorted(kept, key=lambda w: (-counts[w], w))))

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
        ids = [BOS, *(self._ids.get(word, UNK) for word in words), EOS]
        return ids[:max_length]

    def decode(self, ids: Iterable[int]) -> str:
        """The words up to the first `<eos>`, without `<pad>` and `<bos>`."""
        words = []
        for i in ids:
            if i == EOS:
                break
            if i not in (PAD, BOS):
                words.append(self.words[i])
        return " ".join(words)

    def save(self, path: Path) -> None:
        """Writes the words as JSON."""
        text = json.dumps({"words": self.words}, ensure_ascii=False, indent=0)
        write_text(path, text + "\n")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads what `save` wrote; `InputError` for anything else."""
        try:
            words = tuple(json.loads(path.read_text(encoding="utf-8"))["words"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: no readable vocabulary ({error!r}).") from error
        if (
            words[:4] != SPECIALS
            or not all(isinstance(word, str) for word in words)
            or len(set(words)) != len(words)
        ):
            raise InputError(
                f"{path}: a vocabulary is a list of words that begins with "
                f"{' '.join(SPECIALS)} and repeats none; found {' '.join(map(str, words[:4]))}…"
            )
        return cls(words)
