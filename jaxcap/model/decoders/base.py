"""What every decoder is: a start, one step, and the scan of that step over a caption.

B images   N captions of each   T tokens   P image positions   D feature width
H LSTM width   E embedding width   V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxcap.model.decoders.products import FLOAT32
from jaxcap.search.interface import repeat_captions


class StepOutput(NamedTuple):
    """What one step says; stacked over time it gains the axis T after N.

    Attributes:
      logits: unnormalised log probabilities of the next word, `[B, N, V]`.
      weights: attention over the image, `[B, N, P]`, none negative; P is 0 for a decoder without
        attention. They come to 1; to less where the decoder may look beside the image
        (`AdaptiveDecoder`).
    """

    logits: Float[Array, "B N *T V"]
    weights: Float[Array, "B N *T P"]


class OwnWords(NamedTuple):
    """Words that the decoder reads as it said them, in the place of the true ones.

    Attributes:
      where: which words of the captions, `[B, N, T]`; never the first, which nobody said.
      rng: what random choices are made by.
      say: `(logits [B, N, V], key) -> tokens [B, N]`, the choice.
    """

    where: Bool[Array, "B N T"]
    rng: PRNGKeyArray
    say: Callable[..., Int[Array, "B N"]]


class Decoder(nn.Module):
    """Base of the decoders.

    A subclass gives `start`, `advance` and `readout`. Search calls `step`; training scans
    `advance`, the recurrent part of that same step, and applies `readout`, which depends on
    no earlier time, to all times at once: one large matrix product instead of T small ones.
    Where attention depends on no earlier attention, it is no part of the recurrence either: such
    a decoder gives `look`, too, which comes between the two.

    Attributes:
      dtype: what matrix products are computed in (`decoders/products.py`); all else is float32.
      remat: keep nothing of a step for its gradient but the carry; compute the rest again.
      axis_name: the mapped axis that the batch is shared out over, under `jax.pmap`.
    """

    dtype: Any = field(default=FLOAT32, kw_only=True)
    remat: bool = field(default=False, kw_only=True)
    axis_name: str | None = field(default=None, kw_only=True)

    def start(self, features: Float[Array, "B P D"], *, train: bool) -> tuple[Any, Any]:
        """Returns the first carry `[B, 1, …]`, and the context: what of the image each step
        looks at, computed once."""
        raise NotImplementedError

    def advance(
        self, carry: Any, tokens: Int[Array, "B N"], context: Any, *, train: bool
    ) -> tuple[Any, tuple[Any, Float[Array, "B N P"]]]:
        """One turn of the recurrence: `(carry, (state for readout, attention weights))`."""
        raise NotImplementedError

    def look(
        self, state: Any, weights: Float[Array, "B N *T P"], context: Any, *, train: bool
    ) -> tuple[Any, Float[Array, "B N *T P"]]:
        """What of a step no later step waits for: `advance`'s `(state, weights)` to readout's."""
        return state, weights

    def readout(self, state: Any, *, train: bool) -> Float[Array, "B N *T V"]:
        """Logits of the next word from the states of `advance`, or of `look`."""
        raise NotImplementedError

    def step(
        self, carry: Any, tokens: Int[Array, "B N"], context: Any, *, train: bool = False
    ) -> tuple[Any, StepOutput]:
        """Reads the words `tokens` and predicts the next: `(carry, StepOutput)`."""
        carry, (state, weights) = self.advance(carry, tokens, context, train=train)
        state, weights = self.look(state, weights, context, train=train)
        return carry, StepOutput(self.readout(state, train=train), weights)

    def __call__(
        self,
        features: Float[Array, "B P D"],
        tokens: Int[Array, "B N T"],
        *,
        train: bool,
        own_words: OwnWords | None = None,
    ) -> StepOutput:
        """Teacher forcing: logits `[B, N, T, V]` of the word after each of `tokens`.

        Args:
          own_words: scheduled sampling. No gradient passes through the choice of a word.
        """
        carry, context = self.start(features, train=train)
        first = repeat_captions(carry, tokens.shape[1])

        def body(
            decoder: Decoder, carry: Any, tokens: Int[Array, "B N"], context: Any
        ) -> tuple[Any, Any]:
            return decoder.advance(carry, tokens, context, train=train)

        def body_of_own_words(
            decoder: Decoder, carry: tuple[Any, Any], words: tuple[Any, Any, Any], context: Any
        ) -> tuple[Any, Any]:
            (carry, said), (true, own, rng) = carry, words
            carry, (state, weights) = decoder.advance(
                carry, jnp.where(own, said, true), context, train=train
            )
            seen, _ = decoder.look(state, weights, context, train=False)
            logits = jax.lax.stop_gradient(decoder.readout(seen, train=False))
            assert own_words is not None
            return (carry, own_words.say(logits, rng)), (state, weights)

        def scan(body: Any, carry: Any, words: Any, axes: Any) -> Any:
            # In a loop nothing can be merged with the way forward, as remat else guards against.
            lifted = nn.scan(
                nn.remat(body, prevent_cse=False) if self.remat else body,
                variable_broadcast="params",
                split_rngs={"params": False, "dropout": True},
                in_axes=(axes, nn.broadcast),
                out_axes=2,
            )
            return lifted(self, carry, words, context)[1]

        if own_words is None:
            state, weights = scan(body, first, tokens, 2)
        else:
            rngs = jax.random.split(own_words.rng, tokens.shape[2])
            own = own_words.where.at[:, :, 0].set(False)
            state, weights = scan(
                body_of_own_words, (first, tokens[:, :, 0]), (tokens, own, rngs), (2, 2, 0)
            )
        state, weights = self.look(state, weights, context, train=train)
        return StepOutput(self.readout(state, train=train), weights)
