"""The whole model of `configs/show_and_tell.py`: every parameter learns."""

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from configurations import changed
from shared_programs import shared

from jaxcap.config import Config, DecoderConfig, EncoderConfig
from jaxcap.data.batch import Batch
from jaxcap.messages.errors import InputError
from jaxcap.model.captioner import Captioner, create_captioner, encoder_shapes, init_variables
from jaxcap.model.decoders import DECODERS
from jaxcap.search.interface import repeat_captions
from jaxcap.training.step.losses import cross_entropy
from jaxcap.training.step.state import TrainState
from jaxcap.training.step.train_step import train_step

SHOW_AND_TELL = Config(
    encoder=EncoderConfig(name="resnet50"),
    decoder=DecoderConfig(name="lstm", output_dropout=0.0),
)
SMALL = Config(
    encoder=EncoderConfig(name="resnet_small"),
    decoder=DecoderConfig(
        name="attention", hidden_size=16, embedding_size=12, attention_size=14, output_dropout=0.0
    ),
)
VOCABULARY = 20


def _size(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def _images(number: int, side: int) -> np.ndarray:
    """Pictures that differ in colour and pattern."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (number, 4, 4, 3))
    return np.kron(coarse, np.ones((1, side // 4, side // 4, 1))).astype(np.uint8)


# Four images, and a caption of each that says which it is with its first word.
CAPTIONS = np.array(
    [
        [1, 4, 8, 9, 10, 2, 0],
        [1, 5, 8, 11, 2, 0, 0],
        [1, 6, 8, 9, 12, 13, 2],
        [1, 7, 8, 14, 2, 0, 0],
    ],
    np.int32,
)
BLIND = 4 * np.log(4) / (CAPTIONS[:, 1:] != 0).sum()
"""Mean loss of a model that has memorised the captions but cannot see the image."""


class Training(NamedTuple):
    """Adam's first moments after one and after two steps, and the loss of every step.

    The moment after the first step is 0.1 g₁, after the second 0.09 g₁ + 0.1 g₂.
    """

    first: Any
    second: Any
    losses: list[float]


def _train(model: Captioner, steps: int) -> Training:
    """By the library's own step."""
    variables = init_variables(model, jax.random.key(0), image_size=32)
    tx = optax.adam(1e-3)
    state = jax.jit(functools.partial(TrainState.create, tx=tx))(variables)
    step = jax.jit(
        functools.partial(train_step, model=model, tx=tx, objective=cross_entropy),
        donate_argnums=0,
    )
    batch = Batch(pixels=_images(4, 32), tokens=CAPTIONS[:, None])
    moments, losses = [], []
    for _ in range(steps):
        state, metrics = step(state, batch, jax.random.key(1))
        losses.append(float(metrics.loss / metrics.words))
        if len(moments) < 2:
            moments.append(jax.device_get(state.opt_state[0].mu))
    return Training(*moments, losses)


@pytest.fixture(scope="module")
def training() -> Training:
    """Two steps of Show and Tell."""
    return _train(create_captioner(SHOW_AND_TELL, VOCABULARY), 2)


def _unmoved(moments: Any) -> set[str]:
    """Return the paths of the parameters whose gradient is all zero."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(moments)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, x in leaves
        if not np.any(np.abs(x) > 1e-9)
    }


@pytest.mark.slow
def test_only_the_insides_of_residual_branches_get_no_gradient_at_first(training: Training) -> None:
    """Each branch ends in a scale of zero (Goyal et al. 2017), which blocks the gradient."""
    blocks = [f"stage{i + 1}_block{j}" for i, n in enumerate((3, 4, 6, 3)) for j in range(n)]
    inside = {
        f"encoder/{block}/{leaf}"
        for block in blocks
        for leaf in (
            *(f"conv{i}/conv/kernel" for i in (1, 2, 3)),
            *(f"conv{i}/norm/{x}" for i in (1, 2) for x in ("scale", "bias")),
        )
    }
    assert _unmoved(training.first) == inside


@pytest.mark.slow
def test_every_parameter_learns_from_the_second_step(training: Training) -> None:
    assert (
        len(jax.tree.leaves(training.second["encoder"])) == 3 * 53
    )  # convolutions, each with norm
    assert len(jax.tree.leaves(training.second["decoder"])) == 2 + 1 + 12 + 2
    assert _unmoved(training.second) == set()


@pytest.mark.slow
def test_only_words_that_were_read_update_their_embedding(training: Training) -> None:
    moved = np.any(training.second["decoder"]["word_embed"]["embedding"] != 0, axis=-1)
    read = np.unique(CAPTIONS[:, :-1][CAPTIONS[:, 1:] != 0])
    assert np.flatnonzero(moved).tolist() == read.tolist()


@pytest.mark.slow
def test_thirty_steps_overfit_four_captions() -> None:
    """Reach a loss far below that of a blind model, with an encoder of few channels."""
    model = create_captioner(SHOW_AND_TELL, VOCABULARY)
    model = model.clone(encoder=model.encoder.clone(stage_sizes=(1, 1, 1, 1), width=16))
    with shared(optimise_steps=True):
        training = _train(model, 30)
    np.testing.assert_allclose(training.losses[0], np.log(VOCABULARY), rtol=0.15)
    assert training.losses[-1] < 0.03 < BLIND / 5, training.losses


def test_parameter_count_of_show_and_tell() -> None:
    """ResNet-50 has 25,557,032 (torchvision) with its classifier of 2048 × 1000 + 1000."""
    model = create_captioner(SHOW_AND_TELL, 5000)
    variables = jax.eval_shape(
        functools.partial(init_variables, model, image_size=32), jax.random.key(0)
    )
    assert _size(variables["params"]["encoder"]) == 25_557_032 - 2_049_000
    assert _size(variables["params"]["decoder"]) == (
        (2048 * 512 + 512) + 5000 * 512 + 4 * (2 * 512 * 512 + 512) + (512 * 5000 + 5000)
    )


@functools.cache
def _small(trainable: bool = True) -> tuple[Captioner, Any]:
    config = replace(SMALL, encoder=replace(SMALL.encoder, trainable=trainable))
    model = create_captioner(config, VOCABULARY)
    model = model.clone(encoder=model.encoder.clone(stage_sizes=(1, 1), width=4))
    return model, init_variables(model, jax.random.key(0), image_size=32)


@pytest.mark.slow
def test_encode_start_and_step_equal_the_whole_call() -> None:
    model, variables = _small()
    images, tokens = _images(4, 32), np.stack([CAPTIONS, CAPTIONS[::-1]], axis=1)
    whole = jax.jit(model.apply)(variables, images, tokens)
    features = jax.jit(functools.partial(model.apply, method="encode"))(variables, images)
    assert features.shape == (4, 64, 8)
    carry, context = model.apply(variables, features, method="start")
    carry = repeat_captions(carry, 2)
    step = jax.jit(functools.partial(model.apply, method="step"))
    for t in range(tokens.shape[2]):
        carry, output = step(variables, carry, tokens[:, :, t], context)
        np.testing.assert_allclose(output.logits, whole.logits[:, :, t], atol=1e-5)
        np.testing.assert_allclose(output.weights, whole.weights[:, :, t], atol=1e-5)


@pytest.mark.slow
def test_equal_models_share_compiled_programs_and_print_on_one_line() -> None:
    """Linen clones modules as it runs them, so a clone must equal its original."""
    model, _ = _small()
    assert repr(model) == "Captioner(ResNet → AttentionDecoder)"
    assert model == model.clone()
    assert hash(model) == hash(model.clone())
    assert model != model.clone(train_encoder=False)


@pytest.mark.slow
def test_features_take_the_place_of_images() -> None:
    model, variables = _small()
    images, tokens = jnp.asarray(_images(4, 32)), jnp.asarray(CAPTIONS[:, None])
    features = model.apply(variables, images, method="encode")
    expected = model.apply(variables, images, tokens)
    found = model.apply(variables, None, tokens, features=features)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "features", "reason"),
    [
        (jnp.zeros((1, 32, 32, 3)), None, r"uint8 pixels .* not float32 \[1, 32, 32, 3\]"),
        (jnp.zeros((1, 64, 8)), None, r"not float32 \[1, 64, 8\].* as `features`"),
        (jnp.zeros((1, 32, 32, 3), jnp.uint8), jnp.zeros((1, 64, 8)), "not both"),
        (None, None, "give images or features"),
    ],
)
def test_other_images_and_features_are_errors(
    images: Any, features: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the run-time checks that only the tests have."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model, variables = _small()
    with pytest.raises(TypeError, match=reason):
        model.apply(variables, images, CAPTIONS[:1, None], features=features)


def test_pixels_are_normalised_as_imagenet_networks_want_them() -> None:
    model, _ = _small()
    white = model.preprocessing.normalise(jnp.full((1, 1, 1, 3), 255, jnp.uint8))
    # (1 − mean) / std of torchvision's transforms.
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(white[0, 0, 0], expected, rtol=1e-5)


@pytest.mark.slow
def test_images_are_encoded_once_however_many_captions() -> None:
    model, variables = _small()
    convolutions = {
        n: str(
            jax.make_jaxpr(model.apply)(variables, _images(2, 32), np.zeros((2, n, 3), np.int32))
        ).count("conv_general_dilated[")
        for n in (1, 5)
    }
    assert convolutions[1] == convolutions[5] == 5  # the shortcut's is a matrix product
    flops = [
        jax.jit(model.apply)
        .lower(variables, _images(2, 32), np.zeros((2, n, 3), np.int32))
        .cost_analysis()["flops"]
        for n in (1, 2)
    ]
    assert flops[1] < 1.1 * flops[0]


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [True, False])
def test_a_frozen_encoder_gives_no_gradient_and_keeps_its_statistics(trainable: bool) -> None:
    model, variables = _small(trainable)

    @jax.jit
    def loss(params: Any) -> Any:
        output, updates = model.apply(
            {**variables, "params": params},
            jnp.asarray(_images(4, 32)),
            jnp.asarray(CAPTIONS[:, None]),
            train=True,
            mutable=["batch_stats"],
        )
        return (output.logits**2).sum(), updates["batch_stats"]

    grads, batch_stats = jax.grad(loss, has_aux=True)(variables["params"])
    assert any(np.any(x) for x in jax.tree.leaves(grads["encoder"])) is trainable
    assert all(np.any(x) for x in jax.tree.leaves(grads["decoder"]))
    for before, after in zip(
        *map(jax.tree.leaves, (variables["batch_stats"], batch_stats)), strict=True
    ):
        assert np.any(before != after) == trainable


@pytest.mark.slow
def test_pretrained_encoders_leave_the_decoder_initialisation_unchanged() -> None:
    model, variables = _small()
    given = {
        name: jax.tree.map(lambda x: np.asarray(x) + 1, tree["encoder"])
        for name, tree in variables.items()
    }
    found = init_variables(model, jax.random.key(0), image_size=32, encoder=given)
    expected = {name: {**tree, "encoder": given[name]} for name, tree in variables.items()}
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(found))


def test_encoder_shapes_are_abstract() -> None:
    model, variables = _small()
    shapes = encoder_shapes(model, image_size=32)
    assert shapes.keys() == {"params", "batch_stats"}
    for name, tree in shapes.items():
        for x, y in zip(*map(jax.tree.leaves, (tree, variables[name]["encoder"])), strict=True):
            assert isinstance(x, jax.ShapeDtypeStruct)
            assert (x.shape, x.dtype) == (y.shape, y.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_a_penalty_on_attention_needs_a_decoder_that_has_it(name: str) -> None:
    config = changed(
        SMALL, decoder__name=name, decoder__attention_size=16, train__attention_penalty=1.0
    )
    model = create_captioner(changed(config, train__attention_penalty=0.0), VOCABULARY)
    tokens = jax.ShapeDtypeStruct((1, 1, 2), jnp.int32)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    output, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images, tokens)
    assert model.decoder.has_attention == (output.weights.shape[-1] > 0)
    if model.decoder.has_attention:
        create_captioner(config, VOCABULARY)
    else:
        with pytest.raises(
            InputError, match=r"attention_penalty is 1\.0.* is 'lstm', which has no"
        ):
            create_captioner(config, VOCABULARY)


def test_an_unknown_stage_is_refused_with_a_list_of_the_known_ones() -> None:
    encoder = EncoderConfig(name="efficientnet_lite0", train_from="stage4")
    with pytest.raises(InputError, match=r"has no such stage.*stem, block0, .*, block15, head\."):
        create_captioner(Config(encoder=encoder), VOCABULARY)
