"""Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks (Bengio et al. 2015).

https://arxiv.org/abs/1506.03099. Under teacher forcing a decoder never reads its own mistakes
until it is used. With scheduled sampling, a coin flip before each word decides whether it reads
the true word or its own prediction; as training goes on, its own more and more often.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxcap.config import TrainConfig
from jaxcap.model.decoders import OwnWords
from jaxcap.model.decoders.dropout import draw_rows
from jaxcap.text.vocabulary import NEVER_SAID


@dataclass(frozen=True)
class ScheduledSampling:
    """A schedule of probabilities, and how predicted words are chosen. Symbols as in the paper.

    Attributes:
      schedule: how the probability εᵢ of reading the true word decays with step i (section 2.4):
        `linear` max(ε, k − c i), `exponential` kⁱ, or `inverse_sigmoid` k / (k + exp(i / k)).
      k: see `schedule`.
      c: see `schedule`.
      floor: ε, the smallest probability, for every schedule.
      words: `sampled` from the softmax, or `greedy`, the likeliest.
      first_step: the training step at which i is 0.
    """

    schedule: Literal["linear", "exponential", "inverse_sigmoid"]
    k: float
    c: float = 0.0
    floor: float = 0.0
    words: Literal["sampled", "greedy"] = "sampled"
    first_step: int = 0

    def true_word_probability(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """Return εᵢ."""
        i, k = jnp.asarray(step - self.first_step, jnp.float32), self.k
        match self.schedule:
            case "linear":
                probability = k - self.c * i
            case "exponential":
                probability = jnp.float32(k) ** i
            case "inverse_sigmoid":
                # k / (k + exp(i / k)), but the exponential would overflow.
                probability = jax.nn.sigmoid(jnp.log(jnp.float32(k)) - i / k)
        return jnp.clip(probability, self.floor, 1.0)

    def own_words(
        self,
        step: Int[Array, ""] | int,
        rng: PRNGKeyArray,
        tokens: Int[Array, "B N T"],
        *,
        axis_name: str | None = None,
    ) -> OwnWords:
        """Flip the coins of a step, one for each word of each caption.

        Args:
          tokens: the true words.
          axis_name: the mapped axis if `tokens` is one device's share of the batch.

        Returns:
          The positions at which to read predicted words, and how to choose them.
        """
        coins, draws = jax.random.split(rng)
        flip = functools.partial(jax.random.bernoulli, coins, self.true_word_probability(step))
        true = draw_rows(flip, tokens.shape, axis_name=axis_name)
        choice = functools.partial(
            predict_words, greedy=self.words == "greedy", axis_name=axis_name
        )
        return OwnWords(~true, draws, choice)


def scheduled_sampling(train: TrainConfig, *, first_step: int = 0) -> ScheduledSampling | None:
    """Create the configured scheduled sampling, or None for teacher forcing."""
    if train.sampling == "none":
        return None
    return ScheduledSampling(
        train.sampling,
        train.sampling_k,
        train.sampling_c,
        train.sampling_floor,
        train.sampling_words,
        first_step,
    )


def predict_words(
    logits: Float[Array, "B N V"],
    rng: PRNGKeyArray,
    *,
    greedy: bool,
    axis_name: str | None = None,
) -> Int[Array, "B N"]:
    """Choose the next words from the logits, among those that a search may choose."""
    ids = jnp.arange(logits.shape[-1])
    logits = jnp.where(jnp.isin(ids, jnp.array(NEVER_SAID)), -jnp.inf, logits)
    if greedy:
        return logits.argmax(axis=-1).astype(jnp.int32)
    # The Gumbel trick of jax.random.categorical, with noise drawn for the whole batch.
    gumbel = functools.partial(jax.random.gumbel, rng, dtype=logits.dtype)
    noise = draw_rows(gumbel, logits.shape, axis_name=axis_name)
    return (logits + noise).argmax(axis=-1).astype(jnp.int32)
