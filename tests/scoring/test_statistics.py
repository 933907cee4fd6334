"""Scores from sufficient statistics, intervals and comparisons, against scoring again."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from jaxcap.messages.errors import InputError
from jaxcap.metrics import BleuCounts, bleu, evaluate_captions
from jaxcap.scoring.bootstrap import compare, intervals, resamples
from jaxcap.scoring.statistics import METRICS, Statistics, collect


def sentences(seed: int, images: int = 30) -> tuple[list[list[str]], list[list[list[str]]]]:
    rng = random.Random(seed)

    def sentence() -> list[str]:
        return rng.choices(["dog", "cat", "runs", "jumps", "big"], k=rng.randint(4, 9))

    return [sentence() for _ in range(images)], [
        [sentence() for _ in range(3)] for _ in range(images)
    ]


def means_only(values: list[float]) -> Statistics:
    """Images whose CIDEr-D is given and whose captions are a word each, half of them right."""
    ones = np.ones((len(values), 4))
    counts = BleuCounts(0.5 * ones, ones, ones[:, 0], ones[:, 0])
    return Statistics(counts, np.array(values), np.array(values))


def test_all_images_once_are_the_corpus() -> None:
    candidates, references = sentences(1)
    found = collect(candidates, references)
    names = [str(i) for i in range(len(candidates))]
    whole = evaluate_captions(
        {n: " ".join(c) for n, c in zip(names, candidates, strict=True)},
        {n: [" ".join(r) for r in rs] for n, rs in zip(names, references, strict=True)},
    )
    assert found.corpus() == pytest.approx(whole.corpus, abs=1e-9)
    assert tuple(found.corpus()) == METRICS
    for i, name in enumerate(names):
        alone = {metric: scores[i] for metric, scores in found.per_image().items()}
        assert alone == pytest.approx(whole.per_image[name], abs=1e-9)


def test_a_resample_is_the_bleu_of_the_images_drawn() -> None:
    candidates, references = sentences(2)
    found = collect(candidates, references)
    drawn = [4, 4, 4, 7, 12, 29]
    weights = np.bincount(drawn, minlength=len(candidates))[None].astype(float)
    again = bleu([candidates[i] for i in drawn], [references[i] for i in drawn]).corpus
    scores = found.scores(weights)
    assert [scores[f"BLEU-{n}"][0] for n in range(1, 5)] == pytest.approx(again)
    # Not the mean of the images' BLEU, which a shortcut would give.
    assert scores["BLEU-4"][0] != pytest.approx(found.per_image()["BLEU-4"][drawn].mean())
    assert scores["CIDEr-D"][0] == pytest.approx(found.cider[drawn].mean())


def test_every_draw_is_of_as_many_images_as_there_are() -> None:
    blocks = list(resamples(5000, 1000, seed=3))
    drawn = np.concatenate(blocks)
    assert len(blocks) > 1  # bounded memory
    assert drawn.shape == (1000, 5000)
    assert (drawn.sum(axis=1) == 5000).all()
    # An image is left out of a draw with probability (1 − 1/n)ⁿ ≈ 1/e.
    assert (drawn == 0).mean() == pytest.approx(math.exp(-1), abs=1e-3)
    with pytest.raises(InputError, match="--resamples 50: expected 100 or more"):
        next(resamples(5, 50, seed=0))
    with pytest.raises(InputError, match=r"--resamples 1000001: .* at most 1000000"):
        next(resamples(5, 1_000_001, seed=0))


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    # 400 images of score 0 or 100: the mean is 50, its standard error 50 / √400 = 2.5.
    found = intervals(means_only([0.0, 100.0] * 200), number=4000, seed=5)["CIDEr-D"]
    assert found.low == pytest.approx(50 - 1.96 * 2.5, abs=0.4)
    assert found.high == pytest.approx(50 + 1.96 * 2.5, abs=0.4)


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    found = collect(*sentences(3))
    assert intervals(found, seed=1) == intervals(found, seed=1)
    assert intervals(found, seed=1) != intervals(found, seed=2)


def test_pairs_are_drawn_together() -> None:
    # Everywhere one point better: alone the intervals overlap widely, together nothing varies.
    values = [float(v) for v in range(0, 100, 2)]
    better, worse = means_only([v + 1 for v in values]), means_only(values)
    found = compare(better, worse, number=500)["CIDEr-D"]
    assert found.difference == pytest.approx(1)
    assert (found.interval.low, found.interval.high) == pytest.approx((1, 1))
    assert (found.wins, found.ties, found.losses) == (50, 0, 0)
    assert found.ahead == 1.0
    assert found.p == pytest.approx(2 / 501)  # never 0: one more sample than there were
    assert compare(worse, better, number=500)["CIDEr-D"].p == found.p
    assert compare(worse, better, number=500)["CIDEr-D"].ahead == 0.0


def test_no_difference_is_no_evidence() -> None:
    found = collect(*sentences(4))
    same = compare(found, found)["BLEU-4"]
    assert (same.difference, same.p, same.ahead) == (0.0, 1.0, 0.0)
    assert (same.wins, same.ties, same.losses) == (0, 30, 0)
    # A coin on each image: the sign of the mean is a matter of the draw.
    rng = np.random.default_rng(0)
    noise = list(rng.normal(size=300))
    noise = [float(v - np.mean(noise)) for v in noise]
    fair = compare(means_only(noise), means_only([0.0] * 300))["CIDEr-D"]
    assert fair.p > 0.8
    with pytest.raises(InputError, match="found 30 and 300"):
        compare(found, means_only(noise))
