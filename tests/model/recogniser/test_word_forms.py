"""The groups of words that count as one thing."""

import csv
from importlib import resources

import pytest

from jaxcap.text.units import WORDS

FILE = resources.files("jaxcap.model.recogniser").joinpath("word_forms.csv")
GROUPS = [row["words"] for row in csv.DictReader(FILE.read_text("utf-8").splitlines())]


def test_a_word_is_in_one_group() -> None:
    words = [word for group in GROUPS for word in group.split()]
    assert len(words) == len(set(words))
    assert all(len(group.split()) > 1 for group in GROUPS)


def test_words_are_tokens_of_captions() -> None:
    assert [" ".join(WORDS.split(group)) for group in GROUPS] == GROUPS


@pytest.mark.parametrize(
    "same",
    [
        {"cat", "cats", "kitten", "kittens"},
        {"couch", "couches", "sofa"},
        {"refrigerator", "fridge"},
        {"man", "men"},
        {"ride", "riding"},
    ],
)
def test_forms_of_one_thing_are_together(same: set[str]) -> None:
    assert any(same <= set(group.split()) for group in GROUPS)


@pytest.mark.parametrize(
    ("one", "other"), [("glass", "glasses"), ("short", "shorts"), ("fish", "fishing")]
)
def test_forms_of_different_things_are_apart(one: str, other: str) -> None:
    assert not any({one, other} <= set(group.split()) for group in GROUPS)
