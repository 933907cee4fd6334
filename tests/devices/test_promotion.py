"""Callers may make JAX refuse implicit conversions; jaxcap still works."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcap.captioning.loaded_model import load
from jaxcap.devices.promotion import standard_promotion


def test_settings_of_the_caller_do_not_apply_within_and_come_back() -> None:
    def mixed() -> jax.Array:
        return jnp.ones((2, 3), jnp.float32) * np.uint8([1, 2, 3])

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        with pytest.raises(Exception, match="promotion"):
            mixed()
        with standard_promotion():
            assert mixed().tolist() == [[1, 2, 3]] * 2
        with pytest.raises(Exception, match="promotion"):
            mixed()


@pytest.mark.slow
def test_captioning_with_a_strict_caller(tiny_run: Path) -> None:
    image = np.full((20, 30, 3), 90, np.uint8)
    (expected,) = load(tiny_run).caption(image)
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.transfer_guard("disallow"),
    ):
        (found,) = load(tiny_run).caption(image)
    assert found.captions[0].text == expected.captions[0].text
