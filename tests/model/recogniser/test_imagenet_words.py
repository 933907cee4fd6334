"""The table from ImageNet's classes to the words of captions."""

import csv
from importlib import resources

import pytest

from jaxcap.text.units import WORDS

TABLE = resources.files("jaxcap.model.recogniser").joinpath("imagenet_words.csv")
ROWS = list(csv.DictReader(TABLE.read_text("utf-8").splitlines()))


def test_has_every_class_once_and_in_order() -> None:
    assert list(ROWS[0]) == ["class", "name", "words"]
    assert [int(row["class"]) for row in ROWS] == list(range(1000))
    assert len({row["name"] for row in ROWS}) == 1000


@pytest.mark.parametrize(
    ("number", "name", "words"),
    [
        (0, "tench", "fish"),
        (207, "golden retriever", "dog"),
        (285, "Egyptian cat", "cat"),
        (340, "zebra", "zebra"),
        (555, "fire engine", "fire truck firetruck"),
        (579, "grand piano", "piano"),
        (752, "racket", "tennis racket"),
        (934, "hotdog", "hot dog hotdog bun"),
        (967, "espresso", "coffee cup"),
        (999, "toilet tissue", "toilet paper"),
    ],
)
def test_known_classes_are_at_their_index(number: int, name: str, words: str) -> None:
    assert ROWS[number] == {"class": str(number), "name": name, "words": words}


def test_dogs_have_118_breeds() -> None:
    breeds = ROWS[151:269]
    assert len(breeds) == 118
    assert {row["words"] for row in breeds} == {"dog"}


def test_words_are_distinct_tokens_of_captions() -> None:
    words = [row["words"].split() for row in ROWS]
    assert [WORDS.split(row["words"]) for row in ROWS] == words
    assert [len(set(some)) for some in words] == [len(some) for some in words]


def test_few_classes_have_no_word() -> None:
    assert sum(not row["words"] for row in ROWS) <= 10
