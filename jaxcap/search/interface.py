"""What a search is given and what it returns.

B images   N captions, beams or samples of each   T tokens at most   V vocabulary
P image positions
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

NEVER = -1e9
"""Log probability of what must not be chosen; finite, so that differences stay defined."""


class Output(Protocol):
    """What a step function returns beside its carry."""

    @property
    def logits(self) -> Float[Array, "B N V"]: ...

    @property
    def weights(self) -> Float[Array, "B N P"]: ...


def repeat_captions(tree: Any, n: int) -> Any:
    """Broadcast arrays `[B, 1, …]` to `n` captions per image, `[B, n, …]`."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (x.shape[0], n, *x.shape[2:])), tree)


StepFunction = Callable[[Any, Int[Array, "B N"]], tuple[Any, Any]]
"""`step(carry, tokens) -> (carry, Output)`: reads a word, predicts the next.

The first carry is `[B, 1, …]`, one per image; a search spreads it over its N beams or samples.
"""

Processor = Callable[
    [Float[Array, "B N V"], Int[Array, "B N T"], Int[Array, ""]], Float[Array, "B N V"]
]
"""A constraint, `(log_probs, tokens, time) -> log_probs`: sets words that may not come next to
`NEVER`, and leaves the others as they are, so that scores stay the model's own.

`tokens[..., :time]` are the words so far without `<bos>`, the rest is `<pad>`. Pure, and applied
in turn. What is returned for captions that have ended is ignored. Where nothing is left, the
caption ends: `<eos>` is then let through, whatever ruled it out.
"""


class SpecialTokens(NamedTuple):
    """Ids with a meaning of their own. `pad`, `bos` and `unk` are never chosen."""

    pad: int = 0
    bos: int = 1
    eos: int = 2
    unk: int = 3


class SearchResult(NamedTuple):
    """N captions of each image; from beam search, best first.

    Attributes:
      tokens: ids without `<bos>`, up to and with `<eos>`, then `<pad>`, `[B, N, T]`.
      word_log_probs: log p of each of them given the words before, 0 at `<pad>`, `[B, N, T]`.
      scores: what the captions are ranked by, `[B, N]`.
      weights: attention while each word was chosen, 0 at `<pad>`, `[B, N, T, P]`.
      satisfied: whether the caption holds all that was required of it, `[B, N]`.
    """

    tokens: Int[Array, "B N T"]
    word_log_probs: Float[Array, "B N T"]
    scores: Float[Array, "B N"]
    weights: Float[Array, "B N T P"]
    satisfied: Bool[Array, "B N"]

    @property
    def log_probs(self) -> Float[Array, "B N"] | Float[np.ndarray, "B N"]:
        """log p of the whole caption, `[B, N]`, in nats."""
        return self.word_log_probs.sum(axis=-1)

    @property
    def exists(self) -> Bool[Array, "B N"] | Bool[np.ndarray, "B N"]:
        """False where the constraints allow fewer captions than there are beams, `[B, N]`.

        The tokens there are all `<pad>`, and the score is `NEVER`. Existing captions come first.
        """
        return self.scores > NEVER / 2
