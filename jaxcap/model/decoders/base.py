"""The interface of all decoders: a start, one step, and the scan of that step over a caption.

B images   N captions per image   T tokens   P image positions   D feature width
H LSTM width   E embedding width   V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxcap.model.decoders.dropout import Dropout
from jaxcap.model.decoders.products import FLOAT32, dense
from jaxcap.model.recogniser.words import RecognisedWords
from jaxcap.search.interface import repeat_captions


class StepOutput(NamedTuple):
    """The output of one step; stacked over time it gains the axis T after N.

    Attributes:
      logits: unnormalised log probabilities of the next word, `[B, N, V]`.
      weights: attention over the image, `[B, N, P]`, never negative; P is 0 for a decoder without
        attention. They sum to 1, or to less if the decoder may look away from the image
        (`AdaptiveDecoder`).
    """

    logits: Float[Array, "B N *T V"]
    weights: Float[Array, "B N *T P"]


class OwnWords(NamedTuple):
    """Scheduled sampling: the words to replace by the decoder's own predictions.

    Attributes:
      where: which words of the captions, `[B, N, T]`; never the first, which is not predicted.
      rng: key of the random choices.
      choose: `(logits [B, N, V], key) -> tokens [B, N]`, the choice of a word.
    """

    where: Bool[Array, "B N T"]
    rng: PRNGKeyArray
    choose: Callable[..., Int[Array, "B N"]]


CarryT = TypeVar("CarryT")
ContextT = TypeVar("ContextT")
StateT = TypeVar("StateT")


class Decoder(nn.Module, Generic[CarryT, ContextT, StateT]):
    """Base of the decoders, generic in their carry, context and state.

    A subclass defines `start`, `advance` and `readout`, and extends `setup`. Search calls `step`.
    Training scans `advance`, the recurrent part of that same step, and applies `readout` to all
    times at once: it depends on no earlier time, so T small matrix products become a large one.
    A decoder whose attention depends on no earlier attention moves that out of the recurrence
    too: it defines `look`, which runs between `advance` and `readout`.

    Attributes:
      has_attention: whether steps return attention weights, so that P is above 0.
      vocabulary_size: V.
      hidden_size: H, width of the LSTM.
      embedding_size: E, width of the word embeddings.
      embedding_dropout, feature_dropout, output_dropout: rates of dropout on word embeddings, on
        image features and before the output layer.
      dtype: the type of matrix products (`decoders/products.py`); everything else is float32.
      remat: store only the carry of each step for the gradient, and recompute the rest.
      axis_name: the mapped axis over which the batch is sharded, under `jax.pmap`.
    """

    has_attention: ClassVar[bool] = True
    vocabulary_size: int = field(kw_only=True)
    hidden_size: int = field(default=512, kw_only=True)
    embedding_size: int = field(default=512, kw_only=True)
    embedding_dropout: float = field(default=0.0, kw_only=True)
    feature_dropout: float = field(default=0.0, kw_only=True)
    output_dropout: float = field(default=0.0, kw_only=True)
    dtype: Any = field(default=FLOAT32, kw_only=True)
    remat: bool = field(default=False, kw_only=True)
    axis_name: str | None = field(default=None, kw_only=True)

    def setup(self) -> None:
        self.word_embed = nn.Embed(self.vocabulary_size, self.embedding_size)
        self.output = dense(self.vocabulary_size, self.dtype)
        self.drop_embedding = Dropout(self.embedding_dropout, self.axis_name)
        self.drop_feature = Dropout(self.feature_dropout, self.axis_name)
        self.drop_output = Dropout(self.output_dropout, self.axis_name)

    def start(self, features: Float[Array, "B P D"], *, train: bool) -> tuple[CarryT, ContextT]:
        """Return the first carry `[B, 1, …]` and the context.

        The context is the part of the computation on the image that all steps share.
        """
        raise NotImplementedError

    def start_with(
        self, features: Float[Array, "B P D"] | None, words: RecognisedWords | None, *, train: bool
    ) -> tuple[CarryT, ContextT]:
        """Call `start`, with `words` if there are any; only decoders that read words take them."""
        start: Any = self.start
        given = () if words is None else (words,)
        carry, context = start(features, *given, train=train)
        return carry, context

    def advance(
        self, carry: CarryT, tokens: Int[Array, "B N"], context: ContextT, *, train: bool
    ) -> tuple[CarryT, tuple[StateT, Float[Array, "B N P"]]]:
        """Read `tokens`: return `(carry, (state for readout, attention weights))`."""
        raise NotImplementedError

    def look(
        self, state: StateT, weights: Float[Array, "B N *T P"], context: ContextT, *, train: bool
    ) -> tuple[Any, Float[Array, "B N *T P"]]:
        """Compute the part of a step that no later step needs.

        Maps the `(state, weights)` of `advance` to those of `readout`; by default the same.
        """
        return state, weights

    def readout(self, state: Any, *, train: bool) -> Float[Array, "B N *T V"]:
        """Return the logits of the next word from the state of `advance`, or of `look`."""
        raise NotImplementedError

    def embed(self, tokens: Int[Array, "B N"], *, train: bool) -> Float[Array, "B N E"]:
        """Embed words, with dropout."""
        return self.drop_embedding(self.word_embed(tokens), deterministic=not train)

    def step(
        self, carry: CarryT, tokens: Int[Array, "B N"], context: ContextT, *, train: bool = False
    ) -> tuple[CarryT, StepOutput]:
        """Read `tokens` and predict the next: return `(carry, StepOutput)`."""
        carry, (state, weights) = self.advance(carry, tokens, context, train=train)
        state, weights = self.look(state, weights, context, train=train)
        return carry, StepOutput(self.readout(state, train=train), weights)

    def __call__(
        self,
        features: Float[Array, "B P D"] | None,
        tokens: Int[Array, "B N T"],
        *,
        train: bool,
        words: RecognisedWords | None = None,
        own_words: OwnWords | None = None,
    ) -> StepOutput:
        """Predict the word after each of `tokens` (teacher forcing): logits `[B, N, T, V]`.

        Args:
          features: None for words without an image.
          words: recognised words, for a decoder that reads them.
          own_words: scheduled sampling. The choice of a word passes no gradient.
        """
        carry, context = self.start_with(features, words, train=train)
        first = repeat_captions(carry, tokens.shape[1])

        def read_true_word(
            decoder: Decoder[CarryT, ContextT, StateT],
            carry: CarryT,
            tokens: Int[Array, "B N"],
            context: ContextT,
        ) -> tuple[Any, Any]:
            return decoder.advance(carry, tokens, context, train=train)

        def read_own_word(
            decoder: Decoder[CarryT, ContextT, StateT],
            carry: tuple[CarryT, Any],
            words: tuple[Any, Any, Any],
            context: ContextT,
        ) -> tuple[Any, Any]:
            (inner, predicted), (true, own, rng) = carry, words
            inner, (state, weights) = decoder.advance(
                inner, jnp.where(own, predicted, true), context, train=train
            )
            seen, _ = decoder.look(state, weights, context, train=False)
            logits = jax.lax.stop_gradient(decoder.readout(seen, train=False))
            assert own_words is not None
            return (inner, own_words.choose(logits, rng)), (state, weights)

        def scan(body: Any, carry: Any, words: Any, axes: Any) -> Any:
            # No CSE can merge a scan's recomputation with its forward pass, so `nn.remat` need
            # not insert barriers against it.
            lifted = nn.scan(
                nn.remat(body, prevent_cse=False) if self.remat else body,
                variable_broadcast="params",
                split_rngs={"params": False, "dropout": True},
                in_axes=(axes, nn.broadcast),
                out_axes=2,
            )
            return lifted(self, carry, words, context)[1]

        if own_words is None:
            state, weights = scan(read_true_word, first, tokens, 2)
        else:
            rngs = jax.random.split(own_words.rng, tokens.shape[2])
            own = own_words.where.at[:, :, 0].set(False)
            state, weights = scan(
                read_own_word, (first, tokens[:, :, 0]), (tokens, own, rngs), (2, 2, 0)
            )
        state, weights = self.look(state, weights, context, train=train)
        return StepOutput(self.readout(state, train=train), weights)
