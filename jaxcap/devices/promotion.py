"""Compute with JAX's default rules for promotion and transfers, whatever the caller has set.

Projects that embed jaxcap may make JAX refuse implicit conversions (`jax_numpy_dtype_promotion`,
`jax_numpy_rank_promotion`) or transfers to a device (`jax_transfer_guard`). These settings apply to
everything that the process computes, ours as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def standard_promotion() -> Iterator[None]:
    """Apply JAX's defaults in this thread; also usable as a decorator."""
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.transfer_guard("allow"),
    ):
        yield
