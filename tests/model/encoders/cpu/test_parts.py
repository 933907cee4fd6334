"""Encoding a few images at a time equals encoding them all at once."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxcap.model.encoders import encoder_spec
from jaxcap.model.encoders.cpu import parts
from jaxcap.model.encoders.cpu.parts import encode_in_parts


@pytest.fixture(scope="module", params=["resnet_small", "vgg_like"])
def encoder_and_variables(request):
    if request.param == "resnet_small":
        encoder = encoder_spec("resnet_small").build().clone(stage_sizes=(1, 1), width=4)
    else:  # without batch statistics

        class Tiny(nn.Module):
            @nn.compact
            def __call__(self, images, *, train):
                x = nn.relu(nn.Conv(5, (3, 3), strides=(4, 4))(images))
                return x.reshape(x.shape[0], -1, x.shape[-1])

        encoder = Tiny()
    images = jax.random.normal(jax.random.key(1), (6, 32, 32, 3))
    return encoder, jax.jit(functools.partial(encoder.init, train=False))(jax.random.key(0), images)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "part"), [(6, 2), (6, 4), (5, 2), (4, 4), (1, 2)])
def test_equals_the_whole_batch(encoder_and_variables, monkeypatch, batch, part) -> None:
    encoder, variables = encoder_and_variables
    monkeypatch.setattr(parts, "_PART", part)
    images = jax.random.normal(jax.random.key(2), (batch, 32, 32, 3))
    found = jax.jit(nn.apply(encode_in_parts, encoder))(variables, images)
    expected = jax.jit(functools.partial(encoder.apply, train=False))(variables, images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_six_images_by_four_go_three_at_a_time(encoder_and_variables, monkeypatch) -> None:
    """The largest part that divides the batch: no image is encoded twice or left out."""
    encoder, variables = encoder_and_variables
    monkeypatch.setattr(parts, "_PART", 4)
    images = jax.numpy.zeros((6, 32, 32, 3))
    jaxpr = jax.make_jaxpr(nn.apply(encode_in_parts, encoder))(variables, images)
    (scan,) = (e for e in jaxpr.eqns if e.primitive.name == "scan")
    assert scan.params["length"] == 2


def test_elsewhere_than_on_a_cpu_the_batch_stays_whole(encoder_and_variables, monkeypatch) -> None:
    encoder, variables = encoder_and_variables
    monkeypatch.setattr(parts, "_PART", 2)
    monkeypatch.setattr(parts, "on_cpu", lambda: False)
    images = jax.numpy.zeros((6, 32, 32, 3))
    jaxpr = jax.make_jaxpr(nn.apply(encode_in_parts, encoder))(variables, images)
    assert "scan" not in {e.primitive.name for e in jaxpr.eqns}
