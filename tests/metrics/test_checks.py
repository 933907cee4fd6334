"""What a metric would score as something else is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jaxcap.messages.errors import InputError
from jaxcap.metrics import bleu, cider_d, rouge_l
from jaxcap.metrics.checks import check_texts
from jaxcap.scoring.baselines import best_constant, people
from jaxcap.scoring.diversity import measure
from jaxcap.scoring.statistics import collect

TOKENS = ["a", "dog"]


@pytest.mark.parametrize("metric", [bleu, rouge_l, cider_d, collect])
@pytest.mark.parametrize(
    ("candidates", "references"),
    [
        (["a dog"], [[TOKENS]]),
        ([TOKENS], [["a dog", "the dog"]]),
        ([TOKENS], ["a dog"]),
        ([TOKENS, TOKENS], [[TOKENS], [TOKENS, "a dog"]]),
        ("ab", [[TOKENS], [TOKENS]]),
    ],
)
def test_text_in_place_of_tokens(metric: Any, candidates: Any, references: Any) -> None:
    with pytest.raises(InputError, match=r"string '.*' .* tokenised .*metrics\.tokenize"):
        metric(candidates, references)


def test_text_in_place_of_tokens_in_scoring() -> None:
    with pytest.raises(InputError, match="the string 'a dog'"):
        measure(["a dog", "a cat"])
    with pytest.raises(InputError, match="the string 'a dog'"):
        best_constant([["a dog", "a cat"]])
    with pytest.raises(InputError, match="the string 'a dog'"):
        people(["a dog"], [[TOKENS, TOKENS]])


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ({"x": TOKENS}, {"x": ["a dog"]}, "Image x: found a caption of type list"),
        ({"x": "a dog"}, {"x": [TOKENS]}, "Image x: found a caption of type list"),
        ({"x": "a dog"}, {"x": "a dog"}, "single string for x"),
        ({"x": "a dog"}, {"x": iter(["a dog"])}, "list_iterator for x"),
        ({"x": "a dog"}, {"x": np.array([], str)}, "an empty list of references"),
        ({"x": "a dog"}, {}, "no references: x"),
    ],
)
def test_tokens_in_place_of_text(candidates: Any, references: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_texts(candidates, references)  # `evaluate_captions` and `java_scores` call it
