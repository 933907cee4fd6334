"""Training objectives, each returning (sum, weight) so that they are divided once, at the end."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def cross_entropy(
    logits: Float[Array, "B N T V"],
    targets: Int[Array, "B N T"],
    mask: Bool[Array, "B N T"],
    *,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Masked cross-entropy in nats, −Σ q log p over the real words.

    With smoothing ε the target is q = (1 − ε) one-hot + ε / V (Szegedy et al. 2015,
    https://arxiv.org/abs/1512.00567, section 7), so the smallest loss is above zero.

    Returns:
      The sum over words where `mask` is true, and their number.
    """
    # The normaliser is shared by both terms, so the [B,N,T,V] log-softmax is never stored.
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = normaliser - (1 - label_smoothing) * target
    if label_smoothing:
        loss = loss - label_smoothing * logits.mean(axis=-1)
    return jnp.where(mask, loss, 0).sum(), mask.sum().astype(loss.dtype)
