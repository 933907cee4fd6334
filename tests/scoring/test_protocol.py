"""The signature, and the warnings about what it does not hold."""

from __future__ import annotations

import pytest

import jaxcap
from jaxcap.metrics import tokenize
from jaxcap.scoring import pitfalls
from jaxcap.scoring.signature import fingerprint, signature
from jaxcap.scoring.statistics import METRICS

REFERENCES = [[["a", "dog"], ["a", "puppy"]], [["a", "cat"], ["two", "cats"]]]


def test_the_signature_fixes_the_protocol() -> None:
    found = signature(REFERENCES, metrics=METRICS, of=2, split="test")
    assert found == (
        f"BLEU|ROUGE-L|CIDEr-D|jaxcap:{jaxcap.__version__}|tok:ptb3.4.1|case:lc|punct:no"
        f"|split:test|images:2|refs:2|df:references(2)|text:{fingerprint(REFERENCES)}"
    )


def test_the_signature_shows_a_part_and_uneven_references() -> None:
    found = signature([*REFERENCES, [["x"]]], metrics=METRICS, of=5)
    assert "|images:3of5|refs:1-2|df:references(3)|" in found
    assert "split" not in found


def test_the_fingerprint_is_of_the_text_in_any_order() -> None:
    first, second = REFERENCES
    assert fingerprint([second, first[::-1]]) == fingerprint(REFERENCES)
    assert fingerprint([first, [*second, ["more"]]]) != fingerprint(REFERENCES)
    # Words may not move from one image to the next.
    assert fingerprint([[*first, second[0]], second[1:]]) != fingerprint(REFERENCES)


@pytest.mark.parametrize(
    "token", ["<end>", "<eos>", "</s>", "<unk>", "[UNK]", "endseq", "<|endoftext|>", "<PAD>"]
)
def test_tokens_that_are_no_words_are_noticed(token: str) -> None:
    warnings = pitfalls.of_captions([f"a dog runs {token}", "a cat"], "x.json")
    assert len(warnings) == 1
    assert (
        f"x.json: 1 of 2 (50.0 %) captions hold start, end or unknown tokens, such as '{token}'"
        in warnings[0]
    )


def test_plain_captions_give_no_warning() -> None:
    plain = ["the end of a road", "a start", "a sign that says STOP <3", "a mask", "a pad of paper"]
    assert pitfalls.of_captions(plain, "x") == []
    assert "2 of 3 (66.7 %) captions are empty" in pitfalls.of_captions(["", " ", "a"], "x")[0]


WRITTEN = ["A dog runs.", "Two men, talking.", "The man's T-shirt is red."] * 10


def test_references_that_were_changed_are_noticed() -> None:
    def only(texts: list[str]) -> str:
        warnings = pitfalls.of_references([[text] for text in texts], "refs")
        return " ".join(warnings)

    assert only(WRITTEN) == ""
    # As Flickr8k was published: a space before the full stop, but capitals.
    assert only([text.replace(".", " .") for text in WRITTEN]) == ""
    assert "look tokenised (all lower-case, no punctuation)" in only(
        [" ".join(tokenize(text)) for text in WRITTEN]
    )
    assert "look tokenised (all lower-case, a space" in only(
        [text.lower().replace(".", " .") for text in WRITTEN]
    )
    assert "hold an unknown-word token" in only([*WRITTEN, "A <unk> runs."])
    assert "1 of 31 (3.2 %) references are empty" in only([*WRITTEN, " "])


def test_uneven_references_and_files_of_words_are_noticed() -> None:
    assert (
        "1 to 2 references per image (1 for 2 of 3 (66.7 %))"
        in pitfalls.of_references([["A dog."], ["A cat.", "Cats."], ["A man."]], "refs")[0]
    )
    assert "the file holds words" in pitfalls.of_references([["A dog."]], "x", tokenised=True)[0]
