"""Turn recognised words into requirements of constrained beam search.

Guided search (Anderson et al. 2017, "Guided Open Vocabulary Image Captioning with Constrained Beam
Search", https://arxiv.org/abs/1612.00576, section 3.3) requires the words that an image tagger is
sure of, each of them as a set of its forms.

B images   K recognised words   C requirements   M forms of a word   V vocabulary
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxcap.search.interface import Processor

_NONE = 0
"""`<pad>`, which no caption contains."""

_CERTAIN = 0.5
"""The probability from which an animal is taken for the one in the image."""


def word_forms(
    groups: Iterable[Sequence[str]], vocabulary: Sequence[str], excluded: Collection[int] = ()
) -> Int[np.ndarray, "V M"]:
    """Return the forms of each word of the vocabulary, itself among them.

    Args:
      groups: the forms of each thing, such as "cat", "cats" and "kitten". A word of several
        groups belongs to the first.
      vocabulary: all words by id.
      excluded: ids of words that no requirement may concern. Their whole groups are left out.

    Returns:
      The ids of the forms that the vocabulary has, padded with 0; only 0 for a word without a
      group.
    """
    ids: Mapping[str, int] = {word: id for id, word in enumerate(vocabulary)}
    group_of: dict[int, list[int]] = {}
    for group in groups:
        members = [ids[word] for word in group if word in ids]
        if not set(members) & set(excluded):
            for id in members:
                group_of.setdefault(id, members)
    forms = np.full((len(ids), max(map(len, group_of.values()), default=1)), _NONE, np.int32)
    for id, members in group_of.items():
        forms[id, : len(members)] = members
    return forms


def guide_requirements(
    ids: Int[Array, "B K"],
    probabilities: Float[Array, "B K"],
    forms: Int[Array, "V M"],
    *,
    threshold: float,
    at_most: int,
) -> Int[Array, "B C M"]:
    """Require the most probable recognised words, for `constrained_beam_search`.

    Args:
      ids: recognised words in falling order of probability, 0 where there is none.
      probabilities: the probability that a person's caption contains the word.
      forms: see `word_forms`.
      threshold: words below this probability are not required.
      at_most: C, requirements per image; the most probable words are kept.

    Returns:
      The forms of each required word, padded with 0. Words of one group are one requirement.
    """
    groups = forms[ids]  # (B, K, M)
    strong = (probabilities >= threshold) & (ids != _NONE) & (groups != _NONE).any(-1)
    # A group's first form identifies it.
    same = groups[:, :, None, 0] == groups[:, None, :, 0]
    repeated = jnp.tril(same & strong[:, None], -1).any(-1)
    ranks = jnp.where(strong & ~repeated, probabilities, -1.0)
    best, places = jax.lax.top_k(ranks, min(at_most, ranks.shape[-1]))
    chosen = jnp.take_along_axis(groups, places[..., None], axis=1)
    return jnp.where(best[..., None] >= 0, chosen, _NONE)


@partial(jnp.vectorize, signature="(v),(v),(k),(k)->(v)")
def doubts(
    group_of: Int[Array, " V"],
    is_animal: Bool[Array, " V"],
    ids: Int[Array, " K"],
    probabilities: Float[Array, " K"],
) -> Int[Array, " V"]:
    """Count what speaks against each word.

    It may name a thing that none of the recognised words names. It may also name an animal that is
    not certain, where another one is: few photographs show animals of two kinds, and a decoder that
    has seen thousands of dogs says "dog" of a sheep.

    Args:
      group_of: the number of the thing that each word names, below V; 0 for other words.
      is_animal: which of these things are animals, none of them a kind of another.
      ids: the recognised words of an image.
      probabilities: their probabilities; 0 where an image has fewer words.
    """
    found = jnp.zeros(group_of.shape[0]).at[group_of[ids]].max(probabilities)[group_of]
    unrecognised = (group_of > 0) & (found == 0)
    certain = jnp.max(found, where=is_animal, initial=0.0) >= _CERTAIN
    another = is_animal & certain & (found < _CERTAIN)
    return unrecognised.astype(jnp.int32) + another


def costs(of_words: Float[Array, "B V"]) -> Processor:
    """Subtract what each word costs in an image, and normalise again.

    A word that the model is sure of loses less than its cost: at p = 0.95, a cost of 3 leaves 0.49.
    """

    def process(
        log_probs: Float[Array, "B N V"], tokens: Int[Array, "B N T"], time: Int[Array, ""]
    ) -> Float[Array, "B N V"]:
        return jax.nn.log_softmax(log_probs - of_words[:, None])

    return process
