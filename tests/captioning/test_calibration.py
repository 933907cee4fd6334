"""Confidence and familiarity, on numbers that can be worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import pytest

from jaxcap.captioning.calibration import (
    GOOD,
    Calibration,
    Confidence,
    Familiarity,
    calibrate,
    from_arrays,
    observe,
    to_arrays,
)
from jaxcap.captioning.loaded_model import load
from jaxcap.captioning.results import Caption, Captioned
from jaxcap.messages.errors import InputError
from jaxcap.storage import published

pytestmark = pytest.mark.usefixtures("shared_programs")


# Four photographs in the plane of the first two features, around (5, 5, 5).
TRAINING = 5 + np.array([[2.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0]])


def _caption(*log_probs: float, words: str = "a cat") -> Caption:
    return Caption(words, sum(log_probs), log_probs, tokens=tuple(words.split()))


def test_an_image_is_as_familiar_as_its_nearest_training_photograph() -> None:
    familiarity = Familiarity.fit(TRAINING, TRAINING)
    # The components of three features are all three, so nothing is left unexplained.
    image = 5 + np.array([[7.0, 0, 0], [3, 3, 0], [0, 0, 4]])
    np.testing.assert_allclose(familiarity.similarity(image), [1, math.sqrt(0.5), 0], atol=1e-12)


def test_features_that_no_component_explains_are_unfamiliar() -> None:
    rng = np.random.default_rng(0)
    inside = np.pad(rng.normal(size=(200, 64)), ((0, 0), (0, 6)))
    familiarity = Familiarity.fit(inside, inside[:50])
    outside = inside[:1] + np.pad([100.0], (66, 3))
    assert familiarity.similarity(inside[:1]) == pytest.approx(1)
    assert familiarity.similarity(outside) < 0.1
    assert familiarity(outside) == 0


def test_familiarity_is_a_rank_among_held_out_photographs() -> None:
    familiarity = Familiarity.fit(TRAINING, TRAINING)._replace(levels=np.array([0.0, 0.5, 1.0]))
    angles = np.radians([45, 60, 90])  # from the first photograph towards the third feature
    images = 5 + np.stack([np.cos(angles), 0 * angles, np.sin(angles)], axis=-1)
    expected = [0.5 + (math.sqrt(0.5) - 0.5), 0.5, 0]
    np.testing.assert_allclose(familiarity(images), expected, atol=1e-12)


def test_confidence_is_the_share_of_good_captions() -> None:
    """Three of four are good where x is 1, one of four where it is −1: log-odds ± log 3."""
    x = np.repeat([[1.0], [-1.0]], 4000, axis=0)
    good = np.tile([True, True, True, False], 1000)
    confidence = Confidence.fit(x, np.concatenate([good, ~good]))
    assert confidence.weights[0] == pytest.approx(math.log(3), rel=1e-2)
    np.testing.assert_allclose(confidence(np.array([[1.0], [-1.0]])), [0.75, 0.25], atol=2e-3)


def test_confidence_allows_for_what_is_unknown() -> None:
    rng = np.random.default_rng(0)
    known = rng.normal(3, 2, 1000)
    x = np.stack([known, np.full(1000, np.nan), np.where(rng.random(1000) < 0.5, np.nan, 7)], -1)
    confidence = Confidence.fit(x, known > 3)
    assert confidence.weights.tolist()[1:] == [0, 0]
    assert confidence.centre[2] == 7
    mean, unknown = confidence(np.array([[known.mean(), 1, 1], [np.nan, np.nan, np.nan]]))
    assert mean == pytest.approx(unknown)


@pytest.mark.parametrize("good", [False, True])
def test_captions_that_are_all_alike_still_give_a_probability(good: bool) -> None:
    confidence = Confidence.fit(np.zeros((50, 2)), np.full(50, good))
    assert abs(confidence(np.zeros((1, 2)))[0] - good) < 0.1


def test_what_is_known_about_a_caption() -> None:
    recognised = {"kitten": 0.9, "cat": 0.4, "sofa": 0.3, "man": 0.2, "boy": 0.1}
    result = Captioned("x", recognised=recognised)
    caption = _caption(-1.0, -2.0, -6.0, words="two cats on a couch near a dog")
    components = np.array([5.0, 6.0])
    # Cats are recognised with 0.9, a couch with 0.3, no dog, and somebody with 1 − 0.8 · 0.9.
    known = observe(result, caption, components)
    np.testing.assert_allclose(known, [-3, 0.9, 0.28, 0.4, 5, 6])
    known = observe(Captioned("x"), caption, components)
    np.testing.assert_allclose(known, [-3, np.nan, np.nan, np.nan, 5, 6])
    nothing = observe(result, _caption(-1.0, words="it is here"), components)
    np.testing.assert_allclose(nothing, [-1, 0.9, 0.28, np.nan, 5, 6])


def _held_out(log_probs: np.ndarray) -> list[Captioned]:
    features = 5 + np.random.default_rng(1).normal(size=(len(log_probs), 3))
    return [
        Captioned(str(n), (_caption(p),), features=z)
        for n, (p, z) in enumerate(zip(log_probs.tolist(), features, strict=True))
    ]


def test_a_calibration_ranks_captions_as_their_scores_do() -> None:
    log_probs = np.random.default_rng(0).normal(-2, 1, 400)
    scores = GOOD * np.exp(log_probs + 2)
    results = _held_out(log_probs)
    calibration, correlation = calibrate(TRAINING, results, scores, familiar=200)
    assert correlation > 0.98
    applied = [calibration.apply(result) for result in results]
    confidences = [result.captions[0].confidence for result in applied]
    good = scores >= GOOD
    assert min(np.array(confidences)[good]) > 0.5 > max(np.array(confidences)[~good])
    ranks = sorted(result.familiarity for result in applied[:200])
    np.testing.assert_allclose(ranks, np.linspace(0, 1, 200), atol=0.02)
    _, by_chance = calibrate(TRAINING, results, scores[::-1], familiar=200)
    assert abs(by_chance) < 0.15


def _calibration() -> Calibration:
    return calibrate(TRAINING, _held_out(np.linspace(-3, -1, 30)), np.arange(30.0) * 4, familiar=9)[
        0
    ]


def test_a_result_without_features_stays_as_it_is() -> None:
    result = Captioned("x.jpg", error="x.jpg: no image")
    assert _calibration().apply(result) is result


def test_a_calibration_is_stored_as_arrays() -> None:
    calibration = _calibration()
    again = from_arrays(to_arrays(calibration), where="x")
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(calibration), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("familiarity/levels", None, r"missing; .* \[L\]"),
        ("familiarity/mean", (9, 1), r"float32 \[9, 1\]; .* \[D\]"),
        ("familiarity/mean", (), r"float32 \[\]; .* \[D\]"),
        ("familiarity/components", (2, 9), r"float32 \[2, 9\]; .* \[R, 3\]"),
        ("familiarity/components", (3,), r"float32 \[3\]; .* \[R, 3\]"),
        ("familiarity/components", (0, 3), r"float32 \[0, 3\]; .* \[R, 3\]"),
        ("familiarity/photographs", (2, 3, 3), r"float32 \[2, 3, 3\]; .* \[N, 3\]"),
        ("familiarity/photographs", (1 << 23, 3), r"\[N, 3\], at most 16,777,216 numbers"),
        ("familiarity/levels", (0,), r"float32 \[0\]; .* \[L\]"),
        ("confidence/centre", (9,), r"float32 \[9\]; .* \[7\]"),
        ("confidence/weights", (7, 1), r"float32 \[7, 1\]; .* \[7\]"),
        ("confidence/intercept", (1,), r"float32 \[1\]; .* \[\]"),
    ],
)
def test_arrays_of_other_shapes_are_no_calibration(
    name: str, shape: tuple[int, ...] | None, expected: str
) -> None:
    arrays = to_arrays(_calibration())
    del arrays[name]
    if shape is not None:
        arrays[name] = np.broadcast_to(np.float32(0), shape)  # takes no memory
    with pytest.raises(InputError, match=f"x: its .* calibration/{name} is .*{expected}.*--calib"):
        from_arrays(arrays, where="x")


@pytest.mark.parametrize("dtype", [np.complex64, np.int32, np.float64])
def test_a_calibration_has_numbers_of_the_types_that_are_written(dtype: Any) -> None:
    arrays = to_arrays(_calibration())
    arrays["familiarity/mean"] = arrays["familiarity/mean"].astype(dtype)
    with pytest.raises(InputError, match="expected float16 or float32"):
        from_arrays(arrays, where="x")


def test_no_numbers_of_a_file_overflow() -> None:
    arrays = {
        name: np.full_like(array, np.finfo(array.dtype).max)
        for name, array in to_arrays(_calibration()).items()
    }
    arrays["familiarity/components"] = np.full((3, 3), np.finfo(np.float32).max)
    (result,) = _held_out(np.array([-1.0]))
    applied = from_arrays(arrays, where="x").apply(result)
    assert 0 <= float(applied.familiarity or 0) <= 1
    assert 0 <= applied.captions[0].confidence <= 1


def test_a_calibration_of_another_width_is_refused() -> None:
    (result,) = _held_out(np.array([-1.0]))
    assert _calibration().apply(result).familiarity is not None
    with pytest.raises(InputError, match=r"is of \(3,\) features, but the model has \(4,\)"):
        _calibration().apply(dataclasses.replace(result, features=np.zeros(4)))


def test_a_published_calibration_is_finite(tiny_run: Any, tmp_path: Any) -> None:
    arrays = to_arrays(_calibration())
    arrays["confidence/centre"] = arrays["confidence/centre"] + np.float32("nan")
    (captioner,) = load(tiny_run).members
    path = tmp_path / "a.safetensors"
    published.write(dataclasses.replace(captioner, calibration=arrays), path)
    with pytest.raises(InputError, match="not finite: calibration/confidence/centre has"):
        published.read(path)


@pytest.mark.slow
def test_a_published_model_keeps_its_calibration(tiny_run: Any, tmp_path: Any) -> None:
    run = load(tiny_run)
    images = list(np.random.default_rng(0).integers(0, 256, (3, 30, 40, 3), np.uint8))
    plain = list(run.caption(images))
    assert run.calibration is None
    assert all(result.familiarity is None for result in plain)
    features = np.stack([result.features for result in plain])
    scores = np.array([10.0, 60.0, 90.0])
    calibration, _ = calibrate(features, plain * 10, np.tile(scores, 10), familiar=3)
    # With these levels, familiarity is the similarity to the nearest of the three.
    similarity = calibration.familiarity._replace(levels=np.array([0.0, 1.0]))
    calibration = calibration._replace(familiarity=similarity)
    file = tmp_path / "model.safetensors"
    single = dataclasses.replace(run.single, calibration=to_arrays(calibration))
    published.write(single, file, dtype="bfloat16")
    judged = load(file)
    assert judged.calibration is not None
    assert judged.averaged().calibration is not None
    for result in judged.caption(images):
        assert result.familiarity == pytest.approx(1, abs=0.02)
        for caption in result.captions:
            assert caption.calibrated is not None
            assert 0 < caption.confidence == caption.calibrated < 1
    # Another model or an ensemble is not the one that was calibrated.
    assert load(file, tiny_run).calibration is None
    assert load(file, tiny_run).averaged().calibration is None
