"""Rules for captions: which words may not come next.

Each function makes a `Processor`, the constraint that every search takes; several are applied in
turn, in any order, since all that a rule does is to rule words out.

    B images   N beams or samples   T tokens at most   V vocabulary
"""

from __future__ import annotations

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxcap.search.interface import NEVER, Processor, SpecialTokens

ENGLISH_FUNCTION_WORDS: tuple[str, ...] = (
    # determiners and possessives
    *("a", "an", "the", "this", "these", "each", "some", "several", "no"),
    *("his", "its", "their", "my", "our"),
    # prepositions
    *("about", "across", "after", "against", "along", "among", "amongst", "as", "at", "beneath"),
    *("beside", "between", "beyond", "during", "for", "from", "in", "into", "like", "near", "of"),
    *("onto", "over", "than", "through", "to", "toward", "towards", "under", "upon", "with"),
    *("within", "without"),
    # conjunctions and relative pronouns
    *("and", "because", "but", "if", "or", "that", "when", "where", "which", "while", "who"),
    *("whom", "whose"),
    # forms of be and have
    *("am", "are", "be", "been", "being", "had", "has", "have", "having", "is", "was", "were"),
    # what qualifies a word to come
    *("next", "very"),
)
"""English words that announce another, so that a caption that ends on one is cut short.

Scores of n-grams hardly notice such endings, and training on them, as on CIDEr, may even bring
them about; Luo's captioning code therefore counts and bars seventeen `bad_endings`
(https://github.com/ruotianluo/self-critical.pytorch, `AttModel.py` and `eval_utils.py`). This list
is longer, and checked: in 35,000 captions of Flickr8k (training and development images) each word
is the last of its caption in fewer than one in a hundred of its places, and all of them together
in 52 of 144,647. That leaves out `on`, `by`, `up`, `down`, `her`, `outside` and the numerals: "a
dog looks on", "two boys walk by".
"""


def never(ids: Collection[int]) -> Processor:
    """No caption holds any of these words.

    `<unk>`, `<pad>` and `<bos>` need not be among them: no search chooses those.
    """

    def process(
        log_probs: Float[Array, "B N V"], tokens: Int[Array, "B N T"], time: Int[Array, ""]
    ) -> Float[Array, "B N V"]:
        return jnp.where(_among(ids, log_probs.shape[-1]), NEVER, log_probs)

    return process


def no_repetition() -> Processor:
    """No word comes twice in succession."""

    def process(
        log_probs: Float[Array, "B N V"], tokens: Int[Array, "B N T"], time: Int[Array, ""]
    ) -> Float[Array, "B N V"]:
        last = _last(tokens, time)[..., None]  # (B, N, 1)
        again = (jnp.arange(log_probs.shape[-1]) == last) & (time > 0)
        return jnp.where(again, NEVER, log_probs)

    return process


def no_repeated_ngram(n: int) -> Processor:
    """No `n` words in succession come twice (Paulus et al. 2017, section 2.5, with n = 3).

    https://arxiv.org/abs/1705.04304. With n = 1 no word comes twice at all. The two places may
    overlap: n = 2 allows "very very", and not "very very very".
    """
    if n < 1:
        raise ValueError(f"an n-gram has at least one word, not {n}")

    def process(
        log_probs: Float[Array, "B N V"], tokens: Int[Array, "B N T"], time: Int[Array, ""]
    ) -> Float[Array, "B N V"]:
        size, places = log_probs.shape[-1], tokens.shape[-1] - n + 1
        if places < 1:
            return log_probs
        # The n − 1 words before the next, against those at every place before.
        before = jax.lax.dynamic_slice_in_dim(tokens, time - n + 1, n - 1, axis=-1)
        same = jnp.broadcast_to(jnp.arange(places) + n - 1 < time, (*tokens.shape[:-1], places))
        for offset in range(n - 1):
            word = tokens[..., offset : offset + places]  # (B, N, places)
            same &= word == before[..., offset : offset + 1]
        # What followed there may not follow here; `size` is no word, and is dropped.
        barred = jnp.where(same, tokens[..., n - 1 :], size)
        images, captions = jnp.indices(tokens.shape[:-1], sparse=True)
        return log_probs.at[images[..., None], captions[..., None], barred].set(NEVER, mode="drop")

    return process


def no_ending_on(
    ids: Collection[int],
    special: SpecialTokens = SpecialTokens(),  # noqa: B008 (immutable)
) -> Processor:
    """No caption has one of these words as its last.

    `<eos>` may not follow them. Nor may they stand in the last two of the T places, of which the
    last is for `<eos>`: a caption that is cut for its length does not end on one either.
    """

    def process(
        log_probs: Float[Array, "B N V"], tokens: Int[Array, "B N T"], time: Int[Array, ""]
    ) -> Float[Array, "B N V"]:
        size = log_probs.shape[-1]
        among = _among(ids, size)  # (V,)
        bad = among[_last(tokens, time)] & (time > 0)  # (B, N)
        end = jnp.arange(size) == special.eos
        barred = (bad[..., None] & end) | (among & (time >= tokens.shape[-1] - 2))
        return jnp.where(barred, NEVER, log_probs)

    return process


def _among(ids: Collection[int], size: int) -> Bool[Array, "V"]:
    """Which of `size` words are among `ids`."""
    outside = [i for i in ids if not 0 <= i < size]
    if outside:
        raise ValueError(f"no words have the ids {outside}; there are {size}")
    among = np.zeros(size, bool)
    among[list(ids)] = True
    return jnp.asarray(among)


def _last(tokens: Int[Array, "B N T"], time: Int[Array, ""]) -> Int[Array, "B N"]:
    """The words before the next, some word or other where `time` is 0."""
    return jax.lax.dynamic_index_in_dim(tokens, jnp.maximum(time - 1, 0), axis=-1, keepdims=False)
