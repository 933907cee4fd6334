"""The words that a recogniser finds in images."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
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
    return tuple(tuple(row["words"].split()) for row in read_table("word_forms.csv"))


@functools.cache
def words_for_people() -> frozenset[str]:
    """Return "man", "people", "crowd", "surfer" and similar words."""
    return frozenset(row["word"] for row in read_table("people.csv"))


@functools.cache
def words_for_animals() -> frozenset[str]:
    """Return "dog", "bird" and similar words, none of which is a kind of another."""
    return frozenset(row["word"] for row in read_table("animals.csv"))


def read_table(name: str) -> Iterator[dict[str, str]]:
    """Read a table of words that is part of the package."""
    table = resources.files(__package__).joinpath(name).read_text("utf-8")
    return csv.DictReader(table.splitlines())


@functools.cache
def group_of_word() -> dict[str, int]:
    """Return the number of each word's group in `word_groups`."""
    return {word: number for number, group in enumerate(word_groups()) for word in group}
