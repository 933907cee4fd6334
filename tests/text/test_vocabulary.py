"""Words to ids and back, with every id written out."""

import json
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from jaxcap.messages.errors import InputError
from jaxcap.text.vocabulary import BOS, EOS, PAD, SPECIALS, UNK, Vocabulary

CAPTIONS = [["the", "dog", "runs"], ["the", "cat"], ["a", "dog"], ["the", "zebra"]]


def _vocabulary(*words: str) -> Vocabulary:
    return Vocabulary(SPECIALS + words)


def test_the_special_words_come_first() -> None:
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert SPECIALS == ("<pad>", "<bos>", "<eos>", "<unk>")


def test_words_are_ordered_by_frequency_then_alphabet() -> None:
    vocabulary = Vocabulary.from_captions(CAPTIONS, min_count=1)
    assert vocabulary.words[4:] == ("the", "dog", "a", "cat", "runs", "zebra")
    assert len(vocabulary) == 10
    assert Vocabulary.from_captions(reversed(CAPTIONS), min_count=1) == vocabulary


@pytest.mark.parametrize(("min_count", "words"), [(2, ("the", "dog")), (3, ("the",))])
def test_rare_words_are_left_out(min_count: int, words: tuple[str, ...]) -> None:
    assert Vocabulary.from_captions(CAPTIONS, min_count=min_count).words[4:] == words


def test_the_number_of_words_has_a_limit_within_which_some_come_first() -> None:
    counts = {"the": 9, "dog": 5, "cat": 5, "zebra": 1, "yak": 1}
    for options, expected in (
        ({"max_words": 2}, ("the", "cat")),
        ({"max_words": 9}, ("the", "cat", "dog")),
        ({"always": {"zebra", "gnu"}}, ("the", "cat", "dog", "zebra")),
        ({"always": {"zebra", "gnu"}, "max_words": 3}, ("the", "cat", "zebra")),
        ({"always": {"zebra", "yak"}, "max_words": 1}, ("yak",)),
    ):
        found = Vocabulary.from_counts(counts, min_count=2, **options)
        assert found.words[4:] == expected
    found = Vocabulary.from_captions([["the"]], min_count=1)
    found = found.extended(counts, min_count=5, always=["yak"])
    assert found.words[4:] == ("the", "cat", "dog", "yak")


def test_no_word_frequent_enough() -> None:
    with pytest.raises(
        InputError, match=r"No word occurs 4 times.*6 different.*lower data\.min_count"
    ):
        Vocabulary.from_captions(CAPTIONS, min_count=4)


def test_special_words_in_captions_are_not_counted() -> None:
    captions = [["<unk>", "a", "<eos>", "<pad>"]] * 3
    assert Vocabulary.from_captions(captions, min_count=1).words[4:] == ("a",)


def test_encode_and_decode_by_hand() -> None:
    vocabulary = _vocabulary("the", "dog")
    assert vocabulary.encode(["the", "dog"], max_length=9) == [BOS, 4, 5, EOS]
    assert vocabulary.encode(["the", "yak"], max_length=9) == [BOS, 4, UNK, EOS]
    assert vocabulary.encode([], max_length=9) == [BOS, EOS]
    assert vocabulary.decode([BOS, 5, 4, EOS, 4, 5]) == "dog the"
    assert vocabulary.decode([4, UNK, EOS, PAD]) == "the <unk>"
    assert vocabulary.decode([4, 5]) == "the dog"
    assert vocabulary.decode([]) == ""


def test_a_word_that_looks_special_is_unknown_when_encoded() -> None:
    """A caption that says "<eos>" must not end there, nor "<pad>" be masked."""
    assert _vocabulary("a").encode(["a", "<eos>", "<pad>", "<bos>", "a"], max_length=9) == [
        *(BOS, 4, UNK, UNK, UNK, 4, EOS)
    ]


@pytest.mark.parametrize(
    ("max_length", "ids"),
    [(5, [BOS, 4, 5, 4, EOS]), (4, [BOS, 4, 5, 4]), (3, [BOS, 4, 5])],
)
def test_a_long_caption_is_cut_and_does_not_end(max_length: int, ids: list[int]) -> None:
    assert _vocabulary("a", "b").encode(["a", "b", "a"], max_length=max_length) == ids


@hypothesis.given(st.lists(st.sampled_from(["a", "dog", "naïve", "犬"]), max_size=12))
def test_what_is_encoded_is_decoded(words: list[str]) -> None:
    vocabulary = _vocabulary("a", "dog", "naïve", "犬")
    assert vocabulary.decode(vocabulary.encode(words, max_length=14)) == " ".join(words)


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    vocabulary = _vocabulary("a", "naïve", "犬", "🐕", "l'été", 'quo"te', "back\\slash", "\u2028")
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary
    assert "犬" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"words": null}',
        b'{"words": 3}',
        b'{"words": "abcdef"}',
        b'{"words": ["a", "b", "c", "d", "e"]}',
        json.dumps({"words": [*SPECIALS, "a", "a"]}).encode(),
        json.dumps({"words": [*SPECIALS, 7]}).encode(),
        json.dumps({"words": [*SPECIALS, ["a"]]}).encode(),
        json.dumps({"words": [*SPECIALS, None]}).encode(),
        json.dumps({"words": [*SPECIALS, "half \ud83d"]}).encode(),
        json.dumps({"words": dict.fromkeys(["a", "b"])}).encode(),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_bytes(damage)
    with pytest.raises(InputError, match=r"vocabulary\.json(: |\.words)"):
        Vocabulary.load(path)


def test_no_word_is_longer_than_a_thousand_characters(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_captions([["a" * 1000, "b" * 1001]], min_count=1)
    assert vocabulary.words == (*SPECIALS, "a" * 1000)
    path = tmp_path / "vocabulary.json"
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary
    path.write_text(path.read_text().replace("aaa", "aaaa"))
    with pytest.raises(InputError, match=r"json: a word has 1,333 characters; .* most 1,000"):
        Vocabulary.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json: "):
        Vocabulary.load(tmp_path / "nowhere.json")
