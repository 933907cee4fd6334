"""Self-critical training: its gradient by brute force, its samples, baselines, rewards and runs.

The model reads features in the place of pictures, so that nothing but its decoder is computed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from configurations import changed
from rich.console import Console

from jaxcap.captioning.loaded_model import load
from jaxcap.config import (
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    SearchConfig,
    Stage,
    TrainConfig,
    stage_configs,
    validate,
)
from jaxcap.data.batch import Batch, Samples
from jaxcap.data.captions import Captions
from jaxcap.devices.parallel import Parallel
from jaxcap.evaluation import read_metrics
from jaxcap.messages.errors import InputError
from jaxcap.metrics.reward import CiderReward
from jaxcap.model.captioner import Captioner, create_captioner
from jaxcap.model.recogniser.words import RecognisedWords
from jaxcap.text.vocabulary import BOS, EOS, NEVER_SAID, PAD, Vocabulary
from jaxcap.training import experiment, self_critical, train
from jaxcap.training.self_critical import SelfCritical, create_reward, mean_of_others
from jaxcap.training.step.losses import policy_gradient
from jaxcap.training.step.state import TrainState
from jaxcap.training.step.train_step import StepMetrics, train_step

IMAGES, LONGEST, SIZE = 4, 5, 12
Tree = Any
SGD = optax.sgd(0.5)

CONFIG = Config(
    data=DataConfig(length_buckets=(3, 5)),
    encoder=EncoderConfig(name="resnet_small", trainable=False),
    decoder=DecoderConfig(name="lstm", hidden_size=12, embedding_size=8, output_dropout=0.0),
    train=TrainConfig(objective="self_critical", samples=4),
    search=SearchConfig(max_length=LONGEST - 1),
)
# Each image has words of its own, so that a reference is worth 7.5: it has no four-grams, and of
# the other three orders all that is rare.
REFERENCES = [[[BOS, 4 + i, 8 + i, EOS]] for i in range(IMAGES)]


@functools.cache
def _model(axis_name: str | None = None) -> Captioner:
    return create_captioner(CONFIG, SIZE, axis_name=axis_name)


@functools.cache
def _params() -> Tree:
    variables = jax.jit(_model().init)(
        jax.random.key(0),
        None,
        jnp.zeros((1, 1, 2), jnp.int32),
        features=jnp.zeros((1, 1, IMAGES)),
    )
    # Far from uniform, so that greedy captions and samples say something.
    return jax.device_get(jax.tree.map(lambda x: 3 * x, variables["params"]))


def _state(tx: optax.GradientTransformation = SGD) -> TrainState:
    variables = {"params": jax.tree.map(jnp.array, _params()), "batch_stats": {}}
    return TrainState.create(variables, tx)


def _batch(images: int = IMAGES) -> Batch:
    """Give each image a feature direction of its own; the captions of the data are not read."""
    features = np.eye(IMAGES, dtype=np.float32)[:images, None]
    tokens = np.full((images, 2, 4), 7, np.int32)
    return Batch(tokens, features=features, numbers=np.arange(images, dtype=np.int32))


def _reward(**weights: float) -> CiderReward:
    return CiderReward.from_references(REFERENCES, eos=EOS, ignored=(PAD, BOS), **weights)


def _critic(**options: Any) -> SelfCritical:
    return SelfCritical(_model(), changed(CONFIG, **options), _reward())


@functools.cache
def _update(tx: optax.GradientTransformation = SGD) -> Any:
    objective = functools.partial(policy_gradient, never=NEVER_SAID)
    return jax.jit(functools.partial(train_step, model=_model(), tx=tx, objective=objective))


def _log_p(params: Tree, features: Any, tokens: Any) -> Any:
    """Return log p of each word after `<bos>`, step by step, over the words it may sample."""
    variables, features, tokens = {"params": params}, jnp.asarray(features), jnp.asarray(tokens)
    carry, context = _model().apply(variables, features, method="start")
    carry = jax.tree.map(lambda x: jnp.repeat(x, tokens.shape[1], axis=1), carry)
    said = []
    for t in range(tokens.shape[2] - 1):
        carry, output = _model().apply(variables, carry, tokens[:, :, t], context, method="step")
        drawable = jnp.array([i for i in range(SIZE) if i not in (0, 1, 3)])
        p = jax.nn.log_softmax(output.logits[..., drawable])  # of <eos> and the words from 4 on
        place = jnp.searchsorted(drawable, tokens[:, :, t + 1])
        chosen = jnp.take_along_axis(p, place[..., None], axis=-1)[..., 0]
        said.append(jnp.where(tokens[:, :, t + 1] == PAD, 0, chosen))
    return jnp.stack(said, axis=2)


def _gradient(samples: Samples) -> tuple[Tree, Any]:
    """Return the gradient of the summed loss, recovered from an SGD step at rate 0.5."""
    after, metrics = _update()(_state(), samples, jax.random.key(0))
    scale = float(metrics.words) / 0.5
    return jax.tree.map(lambda x, y: scale * (x - y), _params(), after.params), metrics


def _assert_close(x: Tree, y: Tree, **tolerance: float) -> None:
    for a, b in zip(*map(jax.tree.leaves, (x, y)), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.slow
def test_the_gradient_is_reinforce_of_the_samples() -> None:
    tokens = np.array([[[1, 5, 2, 0], [1, 7, 8, 9]], [[1, 2, 0, 0], [1, 4, 4, 2]]], np.int32)
    rewards = np.array([[1.0, 0.25], [0.0, 3.0]], np.float32)
    baselines = np.array([[0.5, 1.0], [0.25, 0.5]], np.float32)
    features = _batch(2).features

    def brute(params: Tree) -> Any:
        log_p = _log_p(params, features, tokens).sum(axis=2)
        return -(np.array([[0.5, -0.75], [-0.25, 2.5]]) * log_p).sum()

    found, metrics = _gradient(Samples(tokens, rewards, baselines, features=features))
    _assert_close(found, jax.jit(jax.grad(brute))(_params()), atol=1e-4)
    np.testing.assert_allclose(metrics.loss, -_log_p(_params(), features, tokens).sum(), rtol=1e-4)
    assert metrics.words == 2 + 3 + 1 + 3
    assert (metrics.samples, metrics.ended) == (4, 3)
    assert (metrics.reward, metrics.baseline) == (4.25, 2.25)


@pytest.mark.slow
def test_in_expectation_it_is_the_gradient_of_the_expected_reward() -> None:
    """All captions of up to two words, weighted by their probabilities."""
    words = [EOS, *range(4, SIZE)]
    said = [(w, PAD) if w == EOS else (w, v) for w, v in itertools.product(words, words)]
    tokens = np.array([[(BOS, *s) for s in sorted(set(said))]], np.int32)
    features = _batch(1).features
    rewards = np.random.default_rng(0).uniform(0, 2, tokens.shape[:2])

    def p(params: Tree) -> Any:
        return jnp.exp(_log_p(params, features, tokens).sum(axis=2))

    expected = jax.jit(jax.grad(lambda params: -(p(params) * rewards).sum()))(_params())
    weights = np.asarray(p(_params()))
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    # Σ p(w) (r(w) − b) ∇ log p(w), with some baseline b that changes nothing.
    weighted = (weights * (rewards - 0.7)).astype(np.float32)
    found, _ = _gradient(Samples(tokens, weighted, np.zeros_like(weighted), features=features))
    _assert_close(found, expected, atol=1e-4)


def test_the_mean_of_the_other_samples_by_hand() -> None:
    rewards = np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    np.testing.assert_allclose(mean_of_others(rewards), [[4.0, 3.5, 1.5], [1.5, 1.5, 0.0]])
    advantages = rewards - mean_of_others(rewards)
    np.testing.assert_allclose(advantages.sum(axis=1), 0, atol=1e-12)


@pytest.mark.slow
def test_no_advantage_no_move() -> None:
    samples = _critic()(_state(), _batch())
    tx = optax.adamw(0.1, weight_decay=0.0)
    even = samples._replace(baselines=samples.rewards)
    after, metrics = _update(tx)(_state(tx), even, jax.random.key(0))
    assert metrics.loss > 0
    assert metrics.grad_norm == 0
    for x, y in zip(*map(jax.tree.leaves, (after.params, _params())), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_samples_of_an_image_do_not_depend_on_batch_or_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert jax.local_device_count() == 2
    state, batch = _state(), _batch()
    samples = _critic()(state, batch)
    turned = jax.tree.map(lambda x: x[::-1].copy(), batch)
    for name, value in _critic()(state, turned)._asdict().items():
        if value is None:
            continue
        np.testing.assert_array_equal(value[::-1], getattr(samples, name))
    monkeypatch.setattr(self_critical, "over_local_devices", lambda f: f)
    monkeypatch.setattr(self_critical, "PARTS", 1)
    whole = _critic()(state, batch)
    np.testing.assert_array_equal(whole.tokens, samples.tokens)
    np.testing.assert_array_equal(whole.rewards, samples.rewards)
    later = _critic()(state.replace(step=state.step + 1), batch)
    assert np.any(later.tokens[:, :, :3] != samples.tokens[:, :, :3])
    assert np.any(samples.tokens[:, 0, :3] != samples.tokens[:, 1, :3])


def test_samples_are_whole_captions_of_drawable_words_with_their_rewards() -> None:
    samples = _critic(train__samples=50)(_state(), _batch())
    tokens = samples.tokens
    assert tokens.shape == (IMAGES, 50, LONGEST + 1)  # the longest bucket is exceeded
    assert (tokens[..., 0] == BOS).all()
    assert not np.isin(tokens[..., 1:], [1, 3]).any()
    after_end = np.cumsum(tokens == EOS, axis=2) - (tokens == EOS) > 0
    assert ((tokens == PAD) == after_end).all()
    # Some do not end: nothing makes them, and the reward is without <eos>.
    assert 0 < (tokens == EOS).any(axis=2).mean() < 1
    np.testing.assert_allclose(
        samples.rewards, _reward()(np.arange(IMAGES), tokens[..., 1:]), rtol=1e-5
    )
    np.testing.assert_allclose(samples.baselines, mean_of_others(samples.rewards), atol=1e-5)


def _ending(bias: float) -> TrainState:
    """Return a state whose `<eos>` logit has this bias."""
    decoder = dict(_params()["decoder"])
    output = dict(decoder["output"])
    output["bias"] = np.where(np.arange(SIZE) == EOS, np.float32(bias), output["bias"])
    return _state().replace(params={"decoder": {**decoder, "output": output}})


def test_samples_are_as_short_as_the_buckets_allow() -> None:
    samples = _critic()(_ending(50), _batch())
    np.testing.assert_array_equal(samples.tokens, np.broadcast_to([BOS, EOS, PAD], (4, 4, 3)))


@pytest.mark.slow
def test_the_greedy_baseline_is_the_reward_of_the_likeliest_words() -> None:
    state, features = _ending(-50), jnp.asarray(_batch().features)
    said = np.full((IMAGES, 1, 1), BOS)
    for _ in range(LONGEST):
        output = _model().apply(
            {"params": state.params}, None, jnp.asarray(said), features=features
        )
        drawable = output.logits[:, :, -1].at[..., jnp.array([0, 1, 3])].set(-np.inf)
        said = np.concatenate([said, np.asarray(drawable).argmax(axis=-1)[..., None]], axis=2)
    # References that two of the four meet half.
    references = [[[*said[i, 0, 1:4].tolist(), EOS]] for i in (0, 1)] + REFERENCES[2:]
    reward = CiderReward.from_references(references, eos=EOS, ignored=(PAD, BOS))
    config = changed(CONFIG, train__baseline="greedy")
    samples = SelfCritical(_model(), config, reward)(state, _batch())
    expected = reward(np.arange(IMAGES), said[..., 1:])
    np.testing.assert_allclose(samples.baselines, np.tile(expected, (1, 4)), rtol=1e-5)
    assert np.ptp(expected) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["jit", "pmap"])
def test_two_devices_learn_as_one(method: Any) -> None:
    parallel = Parallel(method, 2)
    step = parallel.compile(
        functools.partial(
            train_step,
            model=_model(parallel.axis_name),
            tx=SGD,
            objective=functools.partial(policy_gradient, never=NEVER_SAID),
            axis_name=parallel.axis_name,
        )
    )
    samples = _critic()(_state(), _batch())
    one, expected = _update()(_state(), samples, jax.random.key(0))
    two, found = step(parallel.place(_state()), samples, jax.random.key(0))
    _assert_close(found, expected, rtol=1e-4)
    _assert_close(two.params, one.params, atol=1e-5)
    assert np.abs(samples.rewards - samples.baselines).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["mean", "greedy"])
def test_rewards_rise(baseline: str) -> None:
    tx = optax.adam(0.05)
    update = _update(tx)
    step = _critic(train__baseline=baseline, train__samples=8).wrap(update, text=update)
    state, rewards, ended = _state(tx), [], []
    state = state.replace(params=jax.tree.map(lambda x: x / 3, state.params))  # all is likely
    for _ in range(60):
        state, metrics = step(state, _batch(), jax.random.key(0))
        rewards.append(float(metrics.reward / metrics.samples))
        ended.append(float(metrics.ended / metrics.samples))
    assert np.mean(rewards[:5]) < 1
    assert np.mean(rewards[-5:]) > 4
    assert np.mean(ended[-5:]) > 0.8 > ended[0]


def test_batches_of_text_take_the_step_for_text() -> None:
    taken = []
    metrics = StepMetrics(*jnp.zeros(3))

    def text(state: TrainState, batch: Batch, rng: Any) -> Any:
        taken.append(batch)
        return state, metrics

    words = RecognisedWords(np.array([[4, 8]], np.int32), np.array([[0.9, 0.5]], np.float32))
    # With a random image beside it, too, only its number tells that the text has none of its own.
    batch = _batch()._replace(words=words, numbers=np.arange(len(REFERENCES), len(REFERENCES) + 4))
    state = _state()
    step = _critic().wrap(_update(), text=text)
    assert step(state, batch, jax.random.key(0))[1] is metrics
    assert taken[0] is batch


def test_images_without_captions_cannot_be_rewarded() -> None:
    vocabulary = Vocabulary.from_captions([["a"]], min_count=1)
    captions = Captions.encode([[["a"]], [], [["a"]]], vocabulary, config=DataConfig())
    with pytest.raises(InputError, match=r"1 of 3 training images have none .* record 1\)"):
        create_reward(captions, TrainConfig())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "train.samples is 1, but train.baseline is mean"),
        ({"reward_cider": 0.0}, "are both 0"),
        ({"reward_bleu": -1.0}, "train.reward_bleu is -1.0; it must be at least 0"),
        ({"label_smoothing": 0.1}, "train.label_smoothing is 0.1, but train.objective is self_cr"),
        ({"sampling": "linear"}, "train.sampling is linear, but train.objective is self_critical"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **options)))
    stage = Stage(1, train={"objective": "self_critical", **options})
    with pytest.raises(InputError, match=message):
        validate(Config(stages=(stage,)))


def test_a_self_critical_stage_drops_the_options_of_cross_entropy() -> None:
    first = TrainConfig(label_smoothing=0.1, attention_penalty=1.0, sampling="linear", sampling_k=0)
    config = Config(train=first, stages=(Stage(1), Stage(1, {"objective": "self_critical"})))
    before, after = stage_configs(validate(config))
    assert (before.train.label_smoothing, before.train.sampling) == (0.1, "linear")
    assert (after.train.label_smoothing, after.train.attention_penalty) == (0.0, 0.0)
    assert after.train.sampling == "none"


def _staged(tiny_config: Config) -> Config:
    """A frozen encoder and a short evaluation, to save time."""
    options = {"objective": "self_critical", "learning_rate": 1e-3, "warmup_epochs": 0.0}
    stages = (Stage(1), Stage(1, options))
    config = changed(
        tiny_config,
        encoder__trainable=False,
        train__log_every=2,
        train__save_every=4,
        train__samples=3,
        search__method="greedy",
    )
    return dataclasses.replace(config, stages=stages)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_programs")
def test_a_stage_logs_its_rewards_and_resumes_where_it_was_killed(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Console(quiet=True)
    train(_staged(tiny_config), tmp_path / "whole", console=quiet)
    lines = [x for x in read_metrics(tmp_path / "whole" / "metrics.jsonl") if "loss" in x]
    rewarded = {x["step"]: x for x in lines if "reward" in x}
    assert sorted(rewarded) == [8, 10, 12]
    for line in rewarded.values():
        assert 0 <= line["ended"] <= 1
        assert 0 < line["caption_words"] <= 13
        assert line["reward"] == pytest.approx(line["baseline"], rel=1e-5)  # a mean of means
        assert line["captions_per_s"] == pytest.approx(3 * line["images_per_s"])

    class KilledError(Exception):
        pass

    whole = experiment.training_batches

    def killed(*args: Any, first_step: int, **kwargs: Any) -> Any:
        for step, batch in enumerate(whole(*args, first_step=first_step, **kwargs), first_step + 1):
            if step == 10:
                raise KilledError
            yield batch

    monkeypatch.setattr(experiment, "training_batches", killed)
    with pytest.raises(KilledError):
        train(_staged(tiny_config), tmp_path / "run", console=quiet)
    monkeypatch.setattr(experiment, "training_batches", whole)
    train(_staged(tiny_config), tmp_path / "run", console=quiet)
    found, expected = (load(tmp_path / name, best=False) for name in ("run", "whole"))
    for x, y in zip(*map(jax.tree.leaves, (found.variables, expected.variables)), strict=True):
        np.testing.assert_array_equal(x, y)
    again = [x for x in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in x]
    names = ("step", "loss", "grad_norm", "reward", "baseline", "ended", "caption_words")
    assert [[x.get(n) for n in names] for x in again] == [[x.get(n) for n in names] for x in lines]
