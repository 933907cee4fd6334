"""The words that a recogniser finds in images."""

from __future__ import annotations

import csv
import functools
from importlib import resources
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int


class RecognisedWords(NamedTuple):
    """The K most probable words of each image, in decreasing order of probability.

    Attributes:
      ids: ids of the vocabulary; 0, `<pad>`, where an image has fewer words.
      probabilities: the probability that a person's caption of the image contains the word; 0
        where an image has fewer words.
    """

    ids: Int[Array | np.ndarray, "B K"]
    probabilities: Float[Array | np.ndarray, "B K"]


@functools.cache
def word_groups() -> tuple[tuple[str, ...], ...]:
    """Return the groups of words that count as one thing, such as "cat", "cats" and "kitten"."""
    table = resources.files(__package__).joinpath("word_forms.csv").read_text("utf-8")
    return tuple(tuple(row["words"].split()) for row in csv.DictReader(table.splitlines()))


@functools.cache
def group_of_word() -> dict[str, int]:
    """Return the number of each word's group in `word_groups`."""
    return {word: number for number, group in enumerate(word_groups()) for word in group}
