"""Training objectives, each returning (sum, weight) so that they are divided once, at the end."""

from __future__ import annotations

from collections.abc import Collection

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


def policy_gradient(
    logits: Float[Array, "B N T V"],
    targets: Int[Array, "B N T"],
    mask: Bool[Array, "B N T"],
    advantages: Float[Array, "B N"],
    *,
    never: Collection[int] = (),
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """−Σₙ Aₙ Σₜ log p(wₜ), the sum of REINFORCE over sampled captions n.

    Where Aₙ = r(wₙ) − b, with a baseline b that does not depend on wₙ, its gradient is in
    expectation that of −Σₙ r(wₙ), the reward of what is drawn (Williams 1992; Rennie et al. 2017,
    https://arxiv.org/abs/1612.00563, equations 5 to 9). Its value says nothing.

    Args:
      targets: the sampled words.
      never: ids that were barred from the sample. p is of the others only, as it was drawn from;
        the logits of these get no gradient.

    Returns:
      The sum, and −Σₙ Σₜ log p(wₜ) for the log: divided by the words, the entropy of a word in
      nats, as estimated from the samples.
    """
    barred = jnp.isin(jnp.arange(logits.shape[-1]), jnp.array(list(never), jnp.int32))
    normaliser = jax.nn.logsumexp(jnp.where(barred, -jnp.inf, logits), axis=-1)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    surprise = jnp.where(mask, normaliser - target, 0).sum(axis=2)  # (B, N)
    return (advantages * surprise).sum(), surprise.sum()


def attention_imbalance(
    weights: Float[Array, "B N T P"], mask: Bool[Array, "B N T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Σᵢ (1 − Σₜ αₜᵢ)², how unevenly a caption looks at the positions i of its image.

    Added to the loss, it makes attention "doubly stochastic": weights come to one at every word,
    and are asked to come to one at every position too (Xu et al. 2015,
    https://arxiv.org/abs/1502.03044, section 4.2.1 and the second term of equation 14).

    Args:
      weights: attention as each word was predicted. Where they may come to less than one, the sum
        also draws attention to the image.
      mask: which words are real; only these are summed over.

    Returns:
      The sum over captions that have words, and their number.
    """
    looked = jnp.where(mask[..., None], weights, 0).sum(axis=2)  # (B, N, P)
    real = mask.any(axis=2)
    imbalance = jnp.square(1 - looked).sum(axis=2)
    return jnp.where(real, imbalance, 0).sum(), real.sum().astype(imbalance.dtype)
