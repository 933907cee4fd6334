"""The inputs and outputs of every search.

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
"""Log probability of a forbidden choice; finite, so that differences stay defined."""

MAX_UNROLLED = 8
"""Loops of so many steps are written out in the program; thousands would take minutes to compile.
The options of a search, which may come with a stranger's model, decide how many steps there are."""


class Output(Protocol):
    """The output of a step function.

    It may also have `weights`, attention weights `[B, N, P]` or None.
    """

    @property
    def logits(self) -> Float[Array, "B N V"]: ...


def attention_weights(output: Any) -> Float[Array, "B N P"]:
    """Return the weights of a step function's output; P is 0 if it has none."""
    weights = getattr(output, "weights", None)
    return jnp.zeros((*output.logits.shape[:2], 0)) if weights is None else weights


def repeat_captions(tree: Any, n: int) -> Any:
    """Broadcast arrays `[B, 1, …]` to `n` captions per image, `[B, n, …]`."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (x.shape[0], n, *x.shape[2:])), tree)


StepFunction = Callable[[Any, Int[Array, "B N"]], tuple[Any, Any]]
"""`step(carry, tokens) -> (carry, Output)`: reads one word per caption and predicts the next.

The first carry is `[B, 1, …]`, one per image; a search repeats it for its N beams or samples.
"""

Processor = Callable[
    [Float[Array, "B N V"], Int[Array, "B N T"], Int[Array, ""]], Float[Array, "B N V"]
]
"""A constraint, `(log_probs, tokens, time) -> log_probs`: sets forbidden next words to `NEVER`.

It leaves the other log probabilities unchanged, so that scores remain the model's own.
`guiding.costs` alone changes them, and normalises them again.
`tokens[..., :time]` are the words so far without `<bos>`; the rest is `<pad>`. A processor is
pure, and several are applied in order. Its result for finished captions is ignored. If it forbids
every word, the caption ends: `<eos>` is then allowed, whatever forbade it.
"""


class SpecialTokens(NamedTuple):
    """Reserved ids. A search never chooses `pad`, `bos` or `unk`."""

    pad: int = 0
    bos: int = 1
    eos: int = 2
    unk: int = 3


class SearchResult(NamedTuple):
    """N captions of each image; from beam search, best first.

    Attributes:
      tokens: ids without `<bos>`, up to and including `<eos>`, then `<pad>`, `[B, N, T]`.
      word_log_probs: log p of each token given the tokens before it, 0 at `<pad>`, `[B, N, T]`.
      scores: the scores by which captions are ranked, `[B, N]`.
      weights: attention while each word was chosen, 0 at `<pad>`, `[B, N, T, P]`. P is 0 if the
        step function has no attention.
      satisfied: whether the caption contains all required words, `[B, N]`.
    """

    tokens: Int[Array, "B N T"]
    word_log_probs: Float[Array, "B N T"]
    scores: Float[Array, "B N"]
    weights: Float[Array, "B N T P"]
    satisfied: Bool[Array, "B N"]

    @property
    def log_probs(self) -> Float[Array, "B N"] | Float[np.ndarray, "B N"]:
        """log p of each whole caption, `[B, N]`, in nats."""
        return self.word_log_probs.sum(axis=-1)

    @property
    def exists(self) -> Bool[Array, "B N"] | Bool[np.ndarray, "B N"]:
        """Whether there is a caption, `[B, N]`: False if fewer are possible than there are beams.

        Missing captions come last; their tokens are all `<pad>` and their scores `NEVER` or NaN.
        """
        return self.scores > NEVER / 2
