"""People and constant captions, against scoring by hand and by trying everything."""

from __future__ import annotations

import random

import pytest

from jaxcap.messages.errors import InputError
from jaxcap.metrics import bleu, cider_d, evaluate_captions
from jaxcap.scoring.baselines import best_constant, bleu_of_constant, cider_of_constant, people


def references(seed: int, images: int = 25) -> list[list[list[str]]]:
    """Few words, so that n-grams repeat within captions and between images."""
    rng = random.Random(seed)
    return [
        [rng.choices("aabcd", k=rng.randint(1, 14)) for _ in range(rng.randint(1, 5))]
        for _ in range(images)
    ]


def test_each_reference_is_scored_against_the_others_in_turn() -> None:
    texts = {"x": ["a dog runs", "a dog runs fast", "the cat"], "y": ["two men", "two men talk"]}
    words = [[text.split() for text in each] for each in texts.values()]
    captions = {"x": "a dog", "y": "two men"}
    found = people([c.split() for c in captions.values()], words)

    # Three turns; image y, with two references, gives them as 0, 1, 0.
    def turn(i: int, j: int) -> tuple[dict[str, float], dict[str, float]]:
        others = {
            "x": [t for k, t in enumerate(texts["x"]) if k != i],
            "y": [t for k, t in enumerate(texts["y"]) if k != j],
        }
        left_out = {"x": texts["x"][i], "y": texts["y"][j]}
        return (
            evaluate_captions(left_out, others).corpus,
            evaluate_captions(captions, others).corpus,
        )

    turns = [turn(0, 0), turn(1, 1), turn(2, 0)]
    for name in ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr-D"):
        assert found.people[name] == pytest.approx(sum(t[0][name] for t in turns) / 3)
        assert found.captions[name] == pytest.approx(sum(t[1][name] for t in turns) / 3)
    assert found.images == 2


def test_images_with_one_reference_take_no_part() -> None:
    words = [[["a", "dog"], ["a", "dog"]], [["a", "cat"]]]
    found = people([["a", "dog"], ["nothing"]], words)
    assert found.images == 1
    assert found.captions["BLEU-1"] == pytest.approx(100)
    with pytest.raises(InputError, match="every image has a single reference"):
        people([["a"]], [[["a"]]])


@pytest.mark.parametrize("seed", range(3))
def test_the_quick_scores_of_a_constant_are_the_metrics(seed: int) -> None:
    refs = references(seed, images=12)
    rng = random.Random(seed + 100)
    by_bleu, by_cider = bleu_of_constant(refs), cider_of_constant(refs)
    constants = [rng.choices("aabcde", k=rng.randint(1, 20)) for _ in range(6)]
    for constant in (*constants, ["a"] * 9, ["unseen"]):
        everywhere = [constant] * len(refs)
        assert 100 * by_bleu(constant) == pytest.approx(bleu(everywhere, refs).corpus[3], abs=1e-10)
        mean = cider_d(everywhere, refs).mean
        assert 1000 * by_cider(constant) == pytest.approx(mean, abs=1e-10)


@pytest.mark.parametrize("metric", ["CIDEr-D", "BLEU-4"])
def test_the_best_constant_is_the_best_of_all_references(metric: str) -> None:
    refs = references(9, images=8)

    def score(constant: list[str]) -> float:
        texts = {str(i): [" ".join(r) for r in each] for i, each in enumerate(refs)}
        return evaluate_captions(dict.fromkeys(texts, " ".join(constant)), texts).corpus[metric]

    found = best_constant(refs, metric)
    assert found.scores[metric] == pytest.approx(score(found.caption))
    assert found.scores[metric] == pytest.approx(max(score(r) for each in refs for r in each))
