"""What every decoder is: a start, one step, and the scan of that step over a caption.

B images   N captions of each   T tokens   P image positions   D feature width
H LSTM width   E embedding width   V vocabulary
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class StepOutput(NamedTuple):
    """What one step says; stacked over time it gains the axis T after N.

    Attributes:
      logits: unnormalised log probabilities of the next word, `[B, N, V]`.
      weights: attention over the image, `[B, N, P]`; P is 0 for a decoder without attention.
    """

    logits: Float[Array, "B N *T V"]
    weights: Float[Array, "B N *T P"]


def repeat(carry: Any, n: int) -> Any:
    """A fresh carry `[B, 1, …]` shared by the `n` captions of each image: `[B, n, …]`."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (x.shape[0], n, *x.shape[2:])), carry)


class Decoder(nn.Module):
    """Base of the decoders.

    A subclass gives `start`, `advance` and `readout`. Search calls `step`; training scans
    `advance`, the recurrent part of that same step, and applies `readout`, which depends on
    no earlier time, to all times at once: one large matrix product instead of T small ones.
    """

    def start(self, features: Float[Array, "B P D"], *, train: bool) -> tuple[Any, Any]:
        """Returns the first carry `[B, 1, …]`, and the context: what of the image each step
        looks at, computed once."""
        raise NotImplementedError

    def advance(
        self, carry: Any, tokens: Int[Array, "B N"], context: Any, *, train: bool
    ) -> tuple[Any, tuple[Any, Float[Array, "B N P"]]]:
        """One turn of the recurrence: `(carry, (state for readout, attention weights))`."""
        raise NotImplementedError

    def readout(self, state: Any, *, train: bool) -> Float[Array, "B N *T V"]:
        """Logits of the next word from the states of `advance`."""
        raise NotImplementedError

    def step(
        self, carry: Any, tokens: Int[Array, "B N"], context: Any, *, train: bool = False
    ) -> tuple[Any, StepOutput]:
        """Reads the words `tokens` and predicts the next: `(carry, StepOutput)`."""
        carry, (state, weights) = self.advance(carry, tokens, context, train=train)
        return carry, StepOutput(self.readout(state, train=train), weights)

    def __call__(
        self, features: Float[Array, "B P D"], tokens: Int[Array, "B N T"], *, train: bool
    ) -> StepOutput:
        """Teacher forcing: logits `[B, N, T, V]` of the word after each of `tokens`."""
        carry, context = self.start(features, train=train)

        def body(
            decoder: Decoder, carry: Any, tokens: Int[Array, "B N"], context: Any
        ) -> tuple[Any, Any]:
            return decoder.advance(carry, tokens, context, train=train)

        scan = nn.scan(
            body,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            in_axes=(2, nn.broadcast),
            out_axes=2,
        )
        _, (state, weights) = scan(self, repeat(carry, tokens.shape[1]), tokens, context)
        return StepOutput(self.readout(state, train=train), weights)
