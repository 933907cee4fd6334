"""BLEU, ROUGE-L and CIDEr-D against pycocoevalcap, of the corpus and of each image."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from coco_caption import Candidates, References, drawn, flickr8k

from jaxcap.metrics import bleu, bleu_of, cider_d, cider_of, evaluate_captions, rouge_l, tokenize
from jaxcap.metrics.ngrams import match_words

EXACT = 1e-9
PREDICTIONS = Path(__file__).parents[2] / "runs" / "flickr8k" / "predictions-dev.json"


def assert_equal_coco_caption(candidates: Candidates, references: References) -> None:
    Bleu = pytest.importorskip("pycocoevalcap.bleu.bleu").Bleu
    Rouge = pytest.importorskip("pycocoevalcap.rouge.rouge").Rouge
    Cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider
    found = {i: [" ".join(c)] for i, c in enumerate(candidates)}
    wanted = {i: [" ".join(r) for r in refs] for i, refs in enumerate(references)}

    corpus, per_image = Bleu(4).compute_score(wanted, found, verbose=0)
    ours = bleu(candidates, references)
    np.testing.assert_allclose(ours.corpus, 100 * np.array(corpus), rtol=0, atol=100 * EXACT)
    expected = 100 * np.transpose(per_image)
    np.testing.assert_allclose(ours.per_image, expected, rtol=0, atol=100 * EXACT)
    for metric, scorer in ((rouge_l, Rouge()), (cider_d, Cider())):
        mean, each = scorer.compute_score(wanted, found)
        result = metric(candidates, references)
        assert result.mean == pytest.approx(100 * mean, abs=100 * EXACT)
        np.testing.assert_allclose(result.per_image, 100 * np.array(each), rtol=0, atol=100 * EXACT)

    # The same n-grams counted once for both.
    matches = match_words(candidates, references)
    assert bleu_of(matches).corpus == ours.corpus
    assert cider_of(matches) == cider_d(candidates, references)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "images"), [(0, 1000), (1, 60), (2, 7), (3, 2)])
def test_drawn_captions(seed: int, images: int) -> None:
    assert_equal_coco_caption(*drawn(seed, images))


def test_real_predictions() -> None:
    if not PREDICTIONS.is_file():
        pytest.skip("no trained run")
    people = flickr8k()
    lines = json.loads(PREDICTIONS.read_text(encoding="utf-8"))
    candidates = [tokenize(line["caption"]) for line in lines]
    references = [[tokenize(text) for text in people[line["image_id"]]] for line in lines]
    assert len(candidates) == 1000
    assert_equal_coco_caption(candidates, references)


def test_people_against_people() -> None:
    rng = random.Random(0)
    candidates, references = [], []
    for texts in list(flickr8k().values())[:1000]:
        first, *others = ([*tokenize(text)] for text in texts)
        candidates.append(first)
        references.append(rng.sample(others, rng.randint(1, 4)))
    assert_equal_coco_caption(candidates, references)


@pytest.mark.parametrize(
    "candidates",
    [[[]], [["a"]], [["a", "dog"]], [["a"] * 300], [["b", "c", "d", "e", "f"]]],
    ids=["empty", "one word", "the same", "very long", "nothing in common"],
)
@pytest.mark.parametrize("others", [[], [["a"]], [["a", "dog"], ["a", "dog"], []]])
def test_a_single_image(candidates: Candidates, others: list[list[str]]) -> None:
    assert_equal_coco_caption(candidates, [[["a", "dog"], *others]])


def test_no_words_at_all() -> None:
    assert_equal_coco_caption([["a"], []], [[["b"], []], [["c"]]])
    # pycocoevalcap refuses to score CIDEr where no reference holds a word.
    assert cider_d([["a"], []], [[[]], [[], []]]).per_image == [0.0, 0.0]
    assert bleu([[]], [[[]]]).corpus == pytest.approx([0.0] * 4, abs=1e-3)


def test_images_drawn_again_are_images_scored_twice() -> None:
    candidates, references = drawn(4, 30)
    weights = np.array([np.random.default_rng(0).integers(0, 4, 30) for _ in range(3)])
    pooled = bleu(candidates, references).counts.pooled(weights).fractions()
    for row, times in zip(pooled, weights, strict=True):
        chosen = np.repeat(np.arange(30), times)
        again = bleu([candidates[i] for i in chosen], [references[i] for i in chosen])
        assert 100 * row == pytest.approx(again.corpus, abs=1e-10)


def test_counts_come_in_the_order_of_the_images() -> None:
    scores = evaluate_captions({"b": "a cat", "a": "a"}, {"a": ["a dog runs"], "b": ["a cat"]})
    assert scores.bleu_counts.matches[:, 0].tolist() == [2, 1]
    assert scores.bleu_counts.reference_lengths.tolist() == [2, 3]
