"""One training step: equal on one device and on two, and a pure function."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from jaxcap.config import Config, DecoderConfig, EncoderConfig
from jaxcap.data.batch import Batch
from jaxcap.model.captioner import Captioner, create_captioner, init_variables
from jaxcap.text.vocabulary import PAD
from jaxcap.training.step.losses import cross_entropy
from jaxcap.training.step.state import TrainState
from jaxcap.training.step.train_step import StepMetrics, train_step

VOCABULARY = 11
SIDE = 16
Tree = Any
Step = Callable[[TrainState, Batch, Any], tuple[TrainState, StepMetrics]]

# The gradient itself as the update: Adam would divide small differences by small numbers.
SGD = optax.sgd(0.1)


@functools.cache
def _model(
    dropout: float = 0.0, axis_name: str | None = None, batch_stats: str = "trained"
) -> Captioner:
    """Create a captioner with every kind of layer that compiles in seconds."""
    config = Config(
        encoder=EncoderConfig(name="resnet_small", batch_stats=batch_stats),
        decoder=DecoderConfig(name="lstm", hidden_size=8, embedding_size=6, output_dropout=dropout),
    )
    model = create_captioner(config, VOCABULARY, axis_name=axis_name)
    assert model.encoder.axis_name == axis_name
    return model.clone(encoder=model.encoder.clone(stage_sizes=(1, 1), width=4))


@functools.cache
def _variables() -> Tree:
    """Return variables on the host, so that no test can donate another's arrays."""
    return jax.device_get(init_variables(_model(), jax.random.key(0), image_size=SIDE))


def _state(tx: optax.GradientTransformation = SGD) -> TrainState:
    return TrainState.create(jax.tree.map(jnp.array, _variables()), tx)


@functools.cache
def _step(dropout: float = 0.0, batch_stats: str = "trained") -> Step:
    """Return a compiled step that donates its state, as training does."""
    model = _model(dropout, batch_stats=batch_stats)
    step = functools.partial(train_step, model=model, tx=SGD, objective=cross_entropy)
    return jax.jit(step, donate_argnums=0)


def _batch(seed: int = 0, images: int = 4, lengths: Any = None) -> Batch:
    """Captions of uneven lengths; the last image has one caption only."""
    rng = np.random.default_rng(seed)
    if lengths is None:
        lengths = [[7, 3], [2, 5], [3, 3], [4, 0]]
    tokens = np.zeros((images, 2, 7), np.int32)
    for index in np.ndindex(images, 2):
        length = lengths[index[0]][index[1]]
        tokens[index][:length] = rng.integers(4, VOCABULARY, length)
        if length:
            tokens[index][0], tokens[index][length - 1] = 1, 2
    pixels = rng.integers(0, 256, (images, SIDE, SIDE, 3), np.uint8)
    return Batch(pixels=pixels, tokens=tokens)


def _assert_close(x: Tree, y: Tree, **tolerance: float) -> None:
    for a, b in zip(*map(jax.tree.leaves, (x, y)), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def _changed(x: Tree, y: Tree) -> bool:
    return any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (x, y)), strict=True))


@pytest.mark.slow
def test_a_step_is_the_gradient_of_the_mean_loss_per_word() -> None:
    batch, state = _batch(), _state()
    after, metrics = _step()(_state(), batch, jax.random.key(0))
    targets = jnp.asarray(batch.tokens[:, :, 1:])
    words = 6 + 2 + 1 + 4 + 2 + 2 + 3

    def mean_loss(params: Tree) -> Any:
        output, updates = _model().apply(
            {"params": params, "batch_stats": state.batch_stats},
            jnp.asarray(batch.pixels),
            jnp.asarray(batch.tokens[:, :, :-1]),
            train=True,
            mutable=["batch_stats"],
        )
        log_p = jax.nn.log_softmax(output.logits)
        of_word = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
        return -jnp.where(targets > 0, of_word, 0).sum() / words, updates["batch_stats"]

    gradient = jax.jit(jax.value_and_grad(mean_loss, has_aux=True))
    (loss, batch_stats), grads = gradient(state.params)
    assert metrics.words == words
    np.testing.assert_allclose(metrics.loss, loss * words, rtol=1e-5)
    norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-4)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    _assert_close(after.params, expected, atol=1e-6)
    _assert_close(after.batch_stats, batch_stats, atol=1e-5)
    assert _changed(after.batch_stats, state.batch_stats)
    assert after.step == 1


@pytest.mark.slow
@pytest.mark.parametrize("batch_stats", ["trained", "frozen"])
def test_two_devices_are_one_even_when_captions_are_uneven(batch_stats: str) -> None:
    """16 words on the first device and 4 on the second: a mean of means would be wrong."""
    batch = _batch(lengths=[[7, 5], [5, 3], [2, 0], [3, 2]])
    devices = jax.local_devices()[:2]
    assert len(devices) == 2
    on_two = jax.pmap(
        functools.partial(
            train_step,
            model=_model(axis_name="batch", batch_stats=batch_stats),
            tx=SGD,
            objective=cross_entropy,
            axis_name="batch",
        ),
        "batch",
        in_axes=(None, 0, None),
        out_axes=None,
        devices=devices,
    )
    shared = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
    assert [int((t[..., 1:] != 0).sum()) for t in shared.tokens] == [16, 4]
    one, two = _state(), _state()
    for _ in range(3):
        one, metrics_of_one = _step(batch_stats=batch_stats)(one, batch, jax.random.key(0))
        two, metrics_of_two = on_two(two, shared, jax.random.key(0))
        _assert_close(metrics_of_two, metrics_of_one, rtol=1e-4)
    assert one.step == two.step == 3
    _assert_close(two.params, one.params, atol=1e-5)
    _assert_close(two.batch_stats, one.batch_stats, atol=1e-5)
    assert _changed(two.params["encoder"], _variables()["params"]["encoder"])
    assert _changed(two.batch_stats, _variables()["batch_stats"]) is (batch_stats == "trained")
    # What out_axes=None promises and nothing checks: every device holds the same.
    for leaf in jax.tree.leaves((two.params, two.batch_stats)):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 2
        np.testing.assert_array_equal(*shards)


@pytest.mark.slow
def test_two_devices_drop_different_words() -> None:
    """Both hold the same images and captions; with equal keys they would drop the same words."""
    half = _batch(images=2)
    shared = jax.tree.map(lambda x: np.stack([x, x]), half)
    losses: list[float] = []

    def objective(logits: Any, targets: Any, mask: Any) -> Any:
        loss = cross_entropy(logits, targets, mask)
        jax.debug.callback(lambda x: losses.append(float(x)), loss.total)
        return loss

    step = jax.pmap(
        functools.partial(
            train_step, model=_model(0.5, "batch"), tx=SGD, objective=objective, axis_name="batch"
        ),
        "batch",
        in_axes=(None, 0, None),
        out_axes=None,
        devices=jax.local_devices()[:2],
    )
    jax.block_until_ready(step(_state(), shared, jax.random.key(0)))
    jax.effects_barrier()
    assert len(losses) == 2
    assert abs(losses[0] - losses[1]) > 1e-3


def test_the_state_is_donated() -> None:
    state = _state()
    leaves = jax.tree.leaves(state)
    _step()(state, _batch(), jax.random.key(0))
    assert all(x.is_deleted() for x in leaves)


@pytest.mark.slow
def test_missing_captions_change_nothing() -> None:
    """Neither rows of padding alone nor a longer bucket."""
    batch = _batch()
    padded = batch._replace(tokens=np.pad(batch.tokens, ((0, 0), (0, 3), (0, 4))))
    found, expected = (_step()(_state(), x, jax.random.key(0)) for x in (padded, batch))
    _assert_close(found, expected, atol=1e-5)
    assert found[1].words == expected[1].words


def test_a_batch_without_words_does_not_move_parameters() -> None:
    empty = _batch(lengths=[[0, 0]] * 4)
    after, metrics = _step()(_state(), empty, jax.random.key(0))
    assert metrics == StepMetrics(0, 0, 0)
    assert not _changed(after.params, _state().params)


@pytest.mark.slow
def test_the_step_is_a_function_of_state_batch_and_key() -> None:
    step, batch = _step(dropout=0.5), _batch()
    first, again = (step(_state(), batch, jax.random.key(0)) for _ in range(2))
    assert not _changed(first, again)
    assert step(_state(), batch, jax.random.key(1))[1].loss != first[1].loss


def test_dropout_changes_with_the_step_and_needs_no_saved_key() -> None:
    """The key stays the same; only the step number differs."""
    step, batch, rng = _step(dropout=0.5), _batch(), jax.random.key(0)
    losses = [
        float(step(_state().replace(step=jnp.int32(t)), batch, rng)[1].loss) for t in (0, 1, 2, 1)
    ]
    assert len(set(losses)) == 3
    assert losses[1] == losses[3]
    # Without dropout the step number has no effect.
    plain = [
        float(_step()(_state().replace(step=jnp.int32(t)), batch, rng)[1].loss) for t in (0, 1)
    ]
    assert plain[0] == plain[1]


def test_resumed_training_is_uninterrupted_training() -> None:
    step, rng = _step(dropout=0.5), jax.random.key(0)
    batches = [_batch(seed) for seed in range(4)]
    straight = functools.reduce(lambda state, batch: step(state, batch, rng)[0], batches, _state())
    half = functools.reduce(lambda state, batch: step(state, batch, rng)[0], batches[:2], _state())
    kept = jax.tree.map(lambda x: jnp.array(np.asarray(x)), half)  # as through a checkpoint
    resumed = functools.reduce(lambda state, batch: step(state, batch, rng)[0], batches[2:], kept)
    assert not _changed(resumed, straight)


def test_the_state_holds_arrays_only() -> None:
    state = _state(optax.adam(1e-3))
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
    assert state.variables == {"params": state.params, "batch_stats": state.batch_stats}
    assert state.step == 0


def test_normalised_images_do_not_pass_as_features(monkeypatch: pytest.MonkeyPatch) -> None:
    # The captioner itself refuses them, even where types are not checked at run time.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    batch = _batch()
    normalised = (batch.pixels / np.float32(255)).astype(np.float32)
    step = functools.partial(train_step, model=_model(), tx=SGD, objective=cross_entropy)
    for wrong, message in (
        (Batch(batch.tokens, pixels=normalised), "must be uint8 pixels"),
        (Batch(batch.tokens, features=normalised), r"must be \[B, P, D\], not \[4, 16, 16, 3\]"),
        (Batch(batch.tokens), "give images or features"),
        (batch._replace(features=np.zeros((4, 1, 8), np.float32)), "not both"),
    ):
        with pytest.raises(TypeError, match=message):
            jax.eval_shape(step, _state(), wrong, jax.random.key(0))


class _Logits(NamedTuple):
    logits: Any


class _Bigrams(nn.Module):
    """Predicts the next word from the last one: no image, no attention, no statistics."""

    @nn.compact
    def __call__(self, images: Any, tokens: Any, **_: Any) -> _Logits:
        return _Logits(nn.Embed(VOCABULARY, VOCABULARY)(tokens))


def test_a_model_without_attention_weights_learns() -> None:
    model, batch = _Bigrams(), Batch(_batch().tokens)
    variables = model.init(jax.random.key(0), None, jnp.asarray(batch.tokens))
    tx = optax.adam(0.5)
    state = TrainState.create({"params": variables["params"], "batch_stats": {}}, tx)
    step = jax.jit(functools.partial(train_step, model=model, tx=tx, objective=cross_entropy))
    for _ in range(60):
        state, metrics = step(state, batch, jax.random.key(0))
    # The best a bigram can do: the entropy of the next word given the last, counted.
    words = batch.tokens.reshape(-1, 7)
    pairs = np.zeros((VOCABULARY, VOCABULARY))
    for row in words:
        for last, following in itertools.pairwise(row[row != PAD]):
            pairs[last, following] += 1
    seen = pairs[pairs > 0] / np.broadcast_to(pairs.sum(1, keepdims=True), pairs.shape)[pairs > 0]
    best = -(pairs[pairs > 0] * np.log(seen)).sum()
    np.testing.assert_allclose(metrics.loss, best, atol=0.2)
    assert metrics.words == pairs.sum()
