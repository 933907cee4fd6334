"""Compute with JAX's own rules of promotion, whatever the caller has set.

Projects that embed jaxcap may make JAX refuse implicit conversions (`jax_numpy_dtype_promotion`,
`jax_numpy_rank_promotion`). These settings apply to every program that is traced, ours as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def standard_promotion() -> Iterator[None]:
    """Apply JAX's standard promotion in this thread; also usable as a decorator."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
