"""Which words a recogniser knows, their probabilities, and the captioner that reads them."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configurations import changed

from jaxcap.config import Config, DecoderConfig, EncoderConfig, RecognitionConfig, TrainConfig
from jaxcap.data.batch import Batch
from jaxcap.messages.errors import InputError
from jaxcap.model.captioner import Captioner, create_captioner, encoder_shapes, init_variables
from jaxcap.model.recogniser.recogniser import (
    CLASSES,
    Recognisable,
    Recogniser,
    recognisable,
    words_of_classes,
)
from jaxcap.model.recogniser.words import RecognisedWords
from jaxcap.search.interface import repeat_captions
from jaxcap.text.vocabulary import SPECIALS
from jaxcap.training.step.losses import cross_entropy, word_detection
from jaxcap.training.step.optimizer import create_optimizer
from jaxcap.training.step.state import TrainState
from jaxcap.training.step.train_step import train_step

# Ids from 4 on: a 4, dog 5, red 6, cat 7, on 8, runs 9, coffee 10.
VOCABULARY = (*SPECIALS, "a", "dog", "red", "cat", "on", "runs", "coffee")
SIDE, BRANCH = 64, "block15"
CONFIG = Config(
    encoder=EncoderConfig(name="efficientnet_lite0", batch_stats="frozen", train_from=BRANCH),
    recognition=RecognitionConfig(words=3, detected=2, branch=BRANCH),
    decoder=DecoderConfig(
        name="attention", hidden_size=8, embedding_size=6, attention_size=7, output_dropout=0.0
    ),
    train=TrainConfig(learning_rate=0.1, warmup_epochs=0.0),
)
CAPTIONS = np.array([[[1, 4, 5, 9, 2]], [[1, 4, 7, 2, 0]]], np.int32)
Tree = Any


def test_the_detected_words_are_the_most_frequent_content_words() -> None:
    known = recognisable(CONFIG.recognition, VOCABULARY)
    # dog and red, which is no class of ImageNet; then the other words of its table.
    assert known.ids[:2] == (5, 6)
    assert known.detected == 2
    assert set(known.ids[2:]) == {7, 10}
    assert {words_of_classes()[class_] for class_, at in known.links if at == 0} >= {("dog",)}
    for class_, words in enumerate(words_of_classes()):
        linked = {VOCABULARY[known.ids[at]] for c, at in known.links if c == class_}
        assert linked == set(words) & set(VOCABULARY)


def test_more_detectors_than_content_words_are_not_made() -> None:
    known = recognisable(RecognitionConfig(words=3, detected=100), VOCABULARY)
    assert (known.ids, known.detected) == ((5, 6, 7, 9, 10), 5)


def test_a_vocabulary_without_recognisable_words_is_refused() -> None:
    message = "recognition.words is 3, but none of the 2 words of the vocabulary can be recognised"
    with pytest.raises(InputError, match=message):
        recognisable(CONFIG.recognition, (*SPECIALS, "a", "on"))


def test_log_odds_are_the_equations() -> None:
    """Against loops in float64: scale · log p / (1 − p) + offset + the detector's log-mean-exp."""
    known = Recognisable((5, 6, 7), 2, ((10, 0), (11, 0), (10, 2)))
    recogniser = Recogniser(known, 2)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 4, 6)).astype(np.float32)
    shapes = jax.eval_shape(lambda: recogniser.init(jax.random.key(0), jnp.asarray(features)))
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes["params"])
    assert params["detector"]["kernel"].shape == (6, 2)
    expected = np.zeros((2, 3))
    for b in range(2):
        x = np.float64(features[b])
        scores = x.mean(axis=0) @ params["classifier"]["kernel"] + params["classifier"]["bias"]
        classes = np.exp(scores) / np.exp(scores).sum()
        assert classes.shape == (CLASSES,)
        for r, of in {0: (10, 11), 2: (10,)}.items():
            p = np.clip(sum(classes[c] for c in of), 1e-4, 1 - 1e-4)
            expected[b, r] += params["scale"] * np.log(p / (1 - p)) + params["offset"]
        at_positions = x @ params["detector"]["kernel"] + params["detector"]["bias"]
        expected[b, :2] += np.log(np.exp(at_positions).mean(axis=0))
    found = jax.jit(functools.partial(recogniser.apply, method="logits"))
    np.testing.assert_allclose(found({"params": params}, features), expected, rtol=1e-4, atol=1e-4)
    # The two most probable, in falling order.
    ids, probabilities = jax.jit(recogniser.apply)({"params": params}, features)
    order = np.argsort(-expected, axis=1)[:, :2]
    np.testing.assert_array_equal(ids, np.array(known.ids)[order])
    odds = np.take_along_axis(expected, order, axis=1)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-odds)), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "expected"), [(0.71, [0.3, 0.2]), (0.72, [0, 0])])
def test_words_for_people_need_somebody_to_be_there(share: float, expected: list) -> None:
    """0.3 + 0.2 of 0.3 + 0.2 + 0.2, the last for a word that is not among the two best."""
    known = Recognisable((5, 6, 7), 3, (), people=frozenset({5, 6}))
    recogniser = Recogniser(known, 2, people_share=share)
    features = jnp.zeros((1, 4, 6))
    variables = jax.tree.map(jnp.zeros_like, recogniser.init(jax.random.key(0), features))
    p = jnp.array([0.3, 0.2, 0.2 - 1e-4])
    variables["params"]["detector"]["bias"] = jnp.log(p / (1 - p))
    words = jax.jit(recogniser.apply)(variables, features)
    np.testing.assert_allclose(words.probabilities[0], expected, atol=1e-6)
    np.testing.assert_array_equal(words.ids[0], [5, 6] if expected[0] else [0, 0])


@functools.cache
def _model(config: Config = CONFIG) -> Captioner:
    return create_captioner(config, len(VOCABULARY), words=VOCABULARY)


@functools.cache
def _variables() -> Tree:
    """Return random variables, in which the recogniser has a copy of the encoder's last stages."""
    rng = np.random.default_rng(0)

    def filled(path: Any, x: Any) -> np.ndarray:
        if path[-1].key in ("scale", "var"):
            return np.ones(x.shape, np.float32)
        deviation = 0.1 if len(x.shape) == 1 else np.sqrt(2 / np.prod(x.shape[:-1]))
        return (deviation * rng.normal(size=x.shape)).astype(np.float32)

    encoder = jax.tree_util.tree_map_with_path(filled, encoder_shapes(_model(), image_size=SIDE))
    classifier = {
        "kernel": rng.normal(size=(1280, CLASSES)).astype(np.float32),
        "bias": np.zeros(CLASSES, np.float32),
    }
    found = init_variables(
        _model(), jax.random.key(0), image_size=SIDE, encoder=encoder, classifier=classifier
    )
    return jax.device_get(found)


def _images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)


@functools.cache
def _apply(method: str) -> Any:
    return jax.jit(functools.partial(_model().apply, method=method))


@pytest.mark.slow
def test_a_recogniser_starts_with_a_copy_of_the_stages_from_its_branch_on() -> None:
    for kind in ("params", "batch_stats"):
        copy = _variables()[kind]["recogniser"]["encoder"]
        assert set(copy) == {"block15", "head"}
        encoder = {stage: _variables()[kind]["encoder"][stage] for stage in copy}
        jax.tree.map(np.testing.assert_array_equal, copy, encoder)


@pytest.mark.slow
def test_recognising_leaves_the_features_as_they_are() -> None:
    features, words = _apply("encode_and_recognise")(_variables(), _images())
    expected = _apply("encode")(_variables(), _images())
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)
    assert words.ids.shape == words.probabilities.shape == (2, 3)
    assert np.all(np.diff(words.probabilities, axis=1) <= 0)
    # The frozen copy has equal weights, and sees what the encoder sees.
    detection = _apply("detect")(_variables(), _images(), CAPTIONS).logits
    recogniser = _model().recogniser
    assert recogniser is not None
    own = recogniser.clone(encoder=None, branch=None)
    params = {k: v for k, v in _variables()["params"]["recogniser"].items() if k != "encoder"}
    of_features = jax.jit(functools.partial(own.apply, method="logits"))(
        {"params": params}, features
    )
    np.testing.assert_allclose(detection.logits, of_features, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_training_the_encoder_changes_features_and_no_words() -> None:
    variables = jax.tree.map(np.copy, _variables())
    variables["params"]["encoder"]["head"]["conv"]["kernel"] *= -1
    before, words = _apply("encode_and_recognise")(_variables(), _images())
    after, same = _apply("encode_and_recognise")(variables, _images())
    assert np.abs(after - before).max() > 0.1
    jax.tree.map(np.testing.assert_array_equal, same, words)


@pytest.mark.slow
def test_captions_are_predicted_from_the_words_that_were_recognised() -> None:
    features, words = _apply("encode_and_recognise")(_variables(), _images())
    tokens = jnp.asarray(CAPTIONS)
    output = _apply("__call__")(_variables(), _images(), tokens)
    given = _apply("__call__")(_variables(), None, tokens, features=features, words=words)
    np.testing.assert_allclose(given.logits, output.logits, rtol=1e-4, atol=1e-5)
    without = _apply("__call__")(_variables(), None, tokens, features=features)
    assert np.abs(without.logits - output.logits).max() > 1e-3
    # Search starts and steps with the same words.
    carry, context = _apply("start")(_variables(), features, words)
    carry = repeat_captions(carry, 1)
    for t in range(tokens.shape[2]):
        carry, step = _apply("step")(_variables(), carry, tokens[:, :, t], context)
        np.testing.assert_allclose(step.logits, output.logits[:, :, t], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_words_alone_are_enough_and_nothing_is_not() -> None:
    words = RecognisedWords(
        np.array([[5, 7], [7, 0]], np.int32), np.float32([[0.9, 0.4], [0.8, 0]])
    )
    output = _apply("__call__")(_variables(), None, jnp.asarray(CAPTIONS), words=words)
    assert output.logits.shape == (2, 1, 5, len(VOCABULARY))
    with pytest.raises(TypeError, match="Captioner: give images or features"):
        _model().apply(_variables(), None, jnp.asarray(CAPTIONS))


def _moved(objective: Any, *, trainable: bool = False) -> set[str]:
    """Return the parts of the parameters that a step changes; check that no statistic changes."""
    train = dataclasses.replace(CONFIG.train, objective=objective)
    recognition = dataclasses.replace(CONFIG.recognition, trainable=trainable)
    model = _model(dataclasses.replace(CONFIG, train=train, recognition=recognition))
    assert model.recogniser is not None
    tx = create_optimizer(train, CONFIG.encoder, steps_per_epoch=10, recognition=recognition)
    detects = objective == "word_detection"
    step = functools.partial(
        train_step,
        model=model,
        tx=tx,
        objective=functools.partial(word_detection, ids=model.recogniser.words.ids)
        if detects
        else cross_entropy,
        method="detect" if detects else "__call__",
    )
    state = TrainState.create(jax.tree.map(jnp.asarray, _variables()), tx)
    after, metrics = jax.jit(step)(state, Batch(CAPTIONS, pixels=_images()), jax.random.key(0))
    assert float(metrics.grad_norm) > 0
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, state.batch_stats)
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(after.params),
        jax.tree.leaves(state.params),
        strict=True,
    )
    return {
        "/".join(key.key for key in path[:2])
        for (path, new), old in pairs
        if np.any(np.asarray(new) != np.asarray(old))
    }


@pytest.mark.slow
def test_word_detection_moves_the_detector_alone() -> None:
    parts = {"detector", "offset", "scale"}
    assert _moved("word_detection") == {f"recogniser/{part}" for part in parts}
    parts.add("encoder")
    assert _moved("word_detection", trainable=True) == {f"recogniser/{part}" for part in parts}


@pytest.mark.slow
def test_forgetting_is_the_divergence_of_classes_from_the_published_encoder() -> None:
    train = dataclasses.replace(CONFIG.train, objective="word_detection")
    recognition = dataclasses.replace(CONFIG.recognition, trainable=True)
    model = _model(dataclasses.replace(CONFIG, train=train, recognition=recognition))

    @jax.jit
    def found(variables: Tree) -> tuple[Any, Any, Any]:
        images, tokens = jnp.asarray(_images()), jnp.asarray(CAPTIONS)
        detection: Any = model.apply(variables, images, tokens, method="detect")
        features, _ = _model().apply(variables, images, method="encode_and_recognise")
        own = model.apply(
            variables,
            images,
            method=lambda m, x: m.recogniser.features(
                m.encoder(m.preprocessing.normalise(x), train=False, end=BRANCH)
            ),
        )
        return detection.logits.forgotten, features, own

    forgotten, features, own = found(_variables())
    np.testing.assert_allclose(forgotten, 0, atol=1e-6)
    np.testing.assert_allclose(own, features, rtol=1e-5)
    variables = jax.tree.map(np.copy, _variables())
    for stage in variables["params"]["recogniser"]["encoder"].values():
        jax.tree.map(lambda x: np.multiply(x, 1.1, out=x), stage)
    forgotten, features, own = found(variables)
    classifier = variables["params"]["recogniser"]["classifier"]
    p, q = (
        jax.nn.log_softmax(f.mean(axis=1) @ classifier["kernel"] + classifier["bias"])
        for f in (features, own)
    )
    np.testing.assert_allclose(forgotten, (np.exp(p) * (p - q)).sum(axis=1), rtol=1e-3)
    assert forgotten.min() > 1e-3


@pytest.mark.slow
def test_captions_move_encoder_and_decoder_but_no_recogniser() -> None:
    moved = _moved("cross_entropy")
    assert {part for part in moved if part.startswith("encoder/")} == {
        "encoder/block15",
        "encoder/head",
    }
    assert {"decoder/words", "decoder/word_embed", "decoder/output"} <= moved
    assert not any(part.startswith("recogniser/") for part in moved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"recognition__branch": None},
            "recognition.words is above 0 and encoder.trainable is true",
        ),
        (
            {"encoder__name": "resnet50", "encoder__train_from": None},
            "recognition.branch is 'block15', but encoder 'resnet50' cannot be branched off from",
        ),
        (
            {"recognition__branch": "block16"},
            "recognition.branch is 'block16', but encoder 'efficientnet_lite0' has no such stage"
            ".*Its stages: stem, block0, .*, block15, head",
        ),
        (
            {"encoder__train_from": "block3"},
            "recognition.branch is 'block15', but encoder.train_from is 'block3': training would"
            " change .* Give --encoder.train-from block15 or a later stage",
        ),
        (
            {"encoder__train_from": None},
            "recognition.branch is 'block15', but encoder.train_from is None",
        ),
    ],
)
def test_a_recogniser_of_what_training_changes_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        create_captioner(changed(CONFIG, **options), len(VOCABULARY), words=VOCABULARY)


@pytest.mark.parametrize(
    "options",
    [
        {"encoder__train_from": "head"},
        {"encoder__trainable": False, "encoder__train_from": None},
        {
            "encoder__trainable": False,
            "encoder__train_from": None,
            "recognition__branch": None,
        },
    ],
)
def test_a_recogniser_of_what_stays_frozen_is_made(options: dict[str, Any]) -> None:
    config = changed(CONFIG, **options)
    found = create_captioner(config, len(VOCABULARY), words=VOCABULARY).recogniser
    assert found is not None
    assert found.branch == config.recognition.branch
    assert (found.encoder is None) == (found.branch is None)


@pytest.mark.slow
def test_the_published_classifier_sees_a_cat() -> None:
    from jaxcap.model.encoders.weights.loading import load_classifier, load_weights

    name, side = "efficientnet_lite2", 260
    words = (*SPECIALS, "beautiful", "dog", "cat", "coffee", "piano", "elephant", "car", "boat")
    config = changed(
        CONFIG,
        encoder__name=name,
        encoder__trainable=False,
        encoder__train_from=None,
        recognition__branch=None,
        recognition__detected=1,  # beautiful, for which there is no class
    )
    model = create_captioner(config, len(words), words=words)
    try:
        encoder = load_weights("imagenet", name, encoder_shapes(model, image_size=side))
    except InputError:
        pytest.skip(f"no published weights of {name} are installed")
    variables = init_variables(
        model,
        jax.random.key(0),
        image_size=side,
        encoder=encoder,
        classifier=load_classifier("imagenet", name),
    )
    from PIL import Image

    with Image.open(Path(__file__).parents[3] / "examples" / "cat.jpg") as photograph:
        pixels = np.asarray(photograph.convert("RGB").resize((side, side)))[None]
    apply = jax.jit(functools.partial(model.apply, method="encode_and_recognise"))
    _, (ids, probabilities) = apply(variables, pixels)
    found = {words[i]: float(p) for i, p in zip(ids[0], probabilities[0], strict=True)}
    named = {word: p for word, p in found.items() if word != "beautiful"}
    assert max(named, key=named.__getitem__) == "cat"
    assert named.pop("cat") > 0.5 > max(named.values())
