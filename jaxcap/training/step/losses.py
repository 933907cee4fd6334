"""Training objectives. Sum and number of words travel together, to be divided once, at the end."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxcap.text.vocabulary import EOS

FORGETTING = 10.0
"""λ of `word_detection`."""


class Loss(NamedTuple):
    """The result of every objective: sums over a batch, or over a part of one.

    Attributes:
      total: the sum to differentiate.
      words: the number of words in the sum, the divisor of the mean.
      logged: further sums, by the name of their field in `StepMetrics`. Under `loss`, the sum to
        log in place of `total`.
    """

    total: Float[Array, ""]
    words: Float[Array, ""]
    logged: dict[str, Float[Array, ""]]


def cross_entropy(
    logits: Float[Array, "B N T V"],
    targets: Int[Array, "B N T"],
    mask: Bool[Array, "B N T"],
    *,
    label_smoothing: float = 0.0,
) -> Loss:
    """Compute the masked cross-entropy −Σ q log p, in nats.

    With smoothing ε the target is q = (1 − ε) one-hot + ε / V (Szegedy et al. 2015,
    https://arxiv.org/abs/1512.00567, section 7), so the smallest loss is above zero.

    Args:
      targets: the word to predict at each position.
      mask: True for words, False for padding.
      label_smoothing: ε.
    """
    # Both terms share the normaliser, so the [B,N,T,V] log-softmax is never stored.
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = normaliser - (1 - label_smoothing) * target
    if label_smoothing:
        loss = loss - label_smoothing * logits.mean(axis=-1)
    return Loss(jnp.where(mask, loss, 0).sum(), mask.sum().astype(loss.dtype), {})


def policy_gradient(
    logits: Float[Array, "B N T V"],
    targets: Int[Array, "B N T"],
    mask: Bool[Array, "B N T"],
    rewards: Float[Array, "B N"],
    baselines: Float[Array, "B N"],
    *,
    never: Collection[int] = (),
) -> Loss:
    """Compute the REINFORCE loss −Σₙ Aₙ Σₜ log p(wₜ) of sampled captions n.

    With the advantage Aₙ = r(wₙ) − b, and a baseline b that does not depend on wₙ given the image,
    its gradient is in expectation that of −Σₙ r(wₙ), the negative expected reward (Williams 1992;
    Rennie et al. 2017, https://arxiv.org/abs/1612.00563, equations 5 to 9). Its value measures
    nothing, so −Σₙ Σₜ log p(wₜ) is logged instead: per word, an estimate of the entropy in
    nats.

    Args:
      targets: the sampled words.
      mask: True for words, False for padding.
      rewards: r(wₙ).
      baselines: b.
      never: ids that could not be sampled. p is renormalised over the others, as it was for
        sampling; the logits of these ids get no gradient.
    """
    barred = jnp.isin(jnp.arange(logits.shape[-1]), jnp.array(list(never), jnp.int32))
    normaliser = jax.nn.logsumexp(jnp.where(barred, -jnp.inf, logits), axis=-1)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    surprise = jnp.where(mask, normaliser - target, 0).sum(axis=2)  # (B, N)
    logged = {
        "loss": surprise.sum(),
        "samples": jnp.float32(rewards.size),
        "reward": rewards.sum(),
        "baseline": baselines.sum(),
        "ended": (targets == EOS).any(axis=2).sum().astype(jnp.float32),
    }
    total = ((rewards - baselines) * surprise).sum()
    return Loss(total, mask.sum().astype(total.dtype), logged)


def word_detection(
    detection: tuple[Float[Array, "B R"], Float[Array, " B"]],
    targets: Int[Array, "B N T"],
    mask: Bool[Array, "B N T"],
    *,
    ids: Sequence[int],
) -> Loss:
    """Compute the binary cross-entropy of which words the captions of an image contain.

    A word counts as contained if any of the N captions has it (Fang et al. 2015,
    https://arxiv.org/abs/1411.4952, section 3). Words that are rare in the data keep the
    probability of their ImageNet classes, up to the two numbers that all share.

    Stages that learn are kept from forgetting ImageNet's classes (Li and Hoiem 2016, "Learning
    without Forgetting", https://arxiv.org/abs/1606.09282, equation 2), by λ KL(p ‖ q) per image.

    Args:
      detection: log-odds of each recognisable word, and KL(p ‖ q), as `Captioner.detect` returns
        them.
      targets: the captions.
      mask: True for words, False for padding.
      ids: the id of each recognisable word.

    Returns:
      The sum over images and words, in nats, and the number of images times words.
    """
    images, vocabulary = jnp.arange(targets.shape[0])[:, None, None], max(ids) + 1
    said = jnp.zeros((targets.shape[0], vocabulary), bool)
    said = said.at[images, jnp.where(mask, targets, vocabulary)].set(True, mode="drop")
    contained = said[:, jnp.array(ids)]
    logits, forgotten = detection
    loss = jax.nn.softplus(jnp.where(contained, -logits, logits)).sum(axis=1)
    captioned = mask.any(axis=(1, 2))
    total = jnp.where(captioned, loss + FORGETTING * forgotten, 0).sum()
    return Loss(total, captioned.sum().astype(loss.dtype) * len(ids), {})


def attention_imbalance(
    weights: Float[Array, "B N T P"], mask: Bool[Array, "B N T"]
) -> Float[Array, ""]:
    """Compute Σᵢ (1 − Σₜ αₜᵢ)², summed over captions that have words.

    As a penalty it makes attention "doubly stochastic" (Xu et al. 2015,
    https://arxiv.org/abs/1502.03044, section 4.2.1 and the second term of equation 14): weights
    sum to one over the positions i at each word t, and are pushed to sum to one over the words at
    each position.

    Args:
      weights: attention when each word was predicted. A decoder whose weights may sum to less
        than one is also pushed to look at the image.
      mask: True for words, False for padding.
    """
    per_position = jnp.where(mask[..., None], weights, 0).sum(axis=2)  # (B, N, P)
    imbalance = jnp.square(1 - per_position).sum(axis=2)
    return jnp.where(mask.any(axis=2), imbalance, 0).sum()
