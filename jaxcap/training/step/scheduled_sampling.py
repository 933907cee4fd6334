"""Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks (Bengio et al. 2015).

https://arxiv.org/abs/1506.03099. A decoder that has only ever read true words meets its own
mistakes for the first time when it is used. So, as training goes on, a coin decides before each
word whether the decoder reads the true one or the one that it would have said itself.
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
    """Which words are read, and what the model's own are. Names and symbols as in the paper.

    Attributes:
      schedule: how the probability εᵢ of a true word falls with the number i of the step
        (section 2.4): `linear` max(ε, k − c i), `exponential` kⁱ, or `inverse_sigmoid`
        k / (k + exp(i / k)); `floor`, the paper's ε, holds for all of them.
      words: `sampled` from the softmax, or the likeliest.
      first_step: of the training's steps the one that i is counted from.
    """

    schedule: Literal["linear", "exponential", "inverse_sigmoid"]
    k: float
    c: float = 0.0
    floor: float = 0.0
    words: Literal["sampled", "greedy"] = "sampled"
    first_step: int = 0

    def true_word_probability(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """εᵢ."""
        i, k = jnp.asarray(step - self.first_step, jnp.float32), self.k
        match self.schedule:
            case "linear":
                probability = k - self.c * i
            case "exponential":
                probability = jnp.float32(k) ** i
            case "inverse_sigmoid":
                # k / (k + exp(i / k)) without an exponential that overflows.
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
        """The coins of a step, one for each word of each caption.

        Args:
          axis_name: the mapped axis, where `tokens` are one device's share of the batch.
        """
        coins, draws = jax.random.split(rng)
        toss = functools.partial(jax.random.bernoulli, coins, self.true_word_probability(step))
        true = draw_rows(toss, tokens.shape, axis_name=axis_name)
        choice = functools.partial(say, greedy=self.words == "greedy", axis_name=axis_name)
        return OwnWords(~true, draws, choice)


def scheduled_sampling(train: TrainConfig, *, first_step: int = 0) -> ScheduledSampling | None:
    """What the options ask for; None where all words that are read are the true ones."""
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


def say(
    logits: Float[Array, "B N V"],
    rng: PRNGKeyArray,
    *,
    greedy: bool,
    axis_name: str | None = None,
) -> Int[Array, "B N"]:
    """The next word by the model; never one that a search would not choose either."""
    ids = jnp.arange(logits.shape[-1])
    logits = jnp.where(jnp.isin(ids, jnp.array(NEVER_SAID)), -jnp.inf, logits)
    if greedy:
        return logits.argmax(axis=-1).astype(jnp.int32)
    # The Gumbel trick, as jax.random.categorical has it, with noise drawn for the whole batch.
    gumbel = functools.partial(jax.random.gumbel, rng, dtype=logits.dtype)
    noise = draw_rows(gumbel, logits.shape, axis_name=axis_name)
    return (logits + noise).argmax(axis=-1).astype(jnp.int32)
