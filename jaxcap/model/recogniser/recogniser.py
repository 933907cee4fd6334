"""Recognise words: ImageNet's classes in the words of captions, and a detector of caption words.

Two sources give the probability that a person's caption of an image contains a word:

* the ImageNet classifier that is published with the encoder, by a table from its classes to words
  (`imagenet_words.csv`). It knows a thousand kinds of things, many of them rare in captions.
* a detector of the frequent content words, learned from captions: multi-label classification over
  positions (Fang et al. 2015, "From Captions to Visual Concepts and Back",
  https://arxiv.org/abs/1411.4952, section 3; Wu et al. 2016, https://arxiv.org/abs/1506.01144).

Their log-odds are added; scale and offset of the classifier's are learned too, so that the
probabilities are calibrated to captions.

B images   P positions   D features   R recognisable words   K words that are read   C classes
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcap.config import RecognitionConfig
from jaxcap.messages.errors import InputError, counted
from jaxcap.model.encoders.base import Encoder
from jaxcap.model.encoders.freezing import stages_between
from jaxcap.model.recogniser.words import RecognisedWords, read_table, words_for_people
from jaxcap.text.function_words import ENGLISH_FUNCTION_WORDS
from jaxcap.text.vocabulary import SPECIALS

CLASSES = 1000

_NOT_CONTENT = {
    *ENGLISH_FUNCTION_WORDS,
    *("on", "off", "up", "out", "down", "there", "it", "he", "she", "him", "her", "they", "them"),
    *("what", "can", "not", "so", "also", "very", "just", "we", "you", "i", "s", "t"),
    # Descriptions of a picture as such, and of places in it.
    *("see", "image", "picture", "photo", "photograph", "view", "background", "foreground"),
    *("side", "front", "top", "bottom", "left", "right", "middle", "objects", "things", "by"),
}
# Bounds the log-odds, so that the classifier alone never settles a word.
_LEAST = 1e-4


class Recognisable(NamedTuple):
    """The words of a vocabulary that can be recognised.

    Attributes:
      ids: their ids, R of them; those with a detector first.
      detected: how many have a detector.
      links: pairs `(class, index into ids)` from ImageNet's classes to words.
      people: the ids of words for people.
    """

    ids: tuple[int, ...]
    detected: int
    links: tuple[tuple[int, int], ...]
    people: frozenset[int] = frozenset()


class Detection(NamedTuple):
    """The words and the classes of images, for `losses.word_detection`.

    Attributes:
      logits: log-odds of each recognisable word.
      forgotten: KL(p ‖ q) in nats between the published classifier's class probabilities: p from
        the features of the published encoder, q from those of the recogniser's own stages.
    """

    logits: Float[Array, "B R"]
    forgotten: Float[Array, " B"]


@functools.cache
def words_of_classes() -> tuple[tuple[str, ...], ...]:
    """Return the words that people use for each of ImageNet's 1,000 classes, in its order."""
    return tuple(tuple(row["words"].split()) for row in read_table("imagenet_words.csv"))


def with_words(config: RecognitionConfig, vocabulary: Sequence[str]) -> RecognitionConfig:
    """Fill in the words to recognise, where the configuration leaves them open.

    A model keeps these words, whatever later tables or vocabularies hold.

    Args:
      vocabulary: all words by id, in falling order of frequency, special tokens first.
    """
    content = [w for w in vocabulary[len(SPECIALS) :] if w not in _NOT_CONTENT]
    return dataclasses.replace(
        config,
        detected_words=config.detected_words or tuple(content[: config.detected]),
        class_words=config.class_words or tuple(map(" ".join, words_of_classes())),
    )


def words_to_recognise(config: RecognitionConfig) -> set[str]:
    """Return the words that the configuration names, or that ImageNet's table holds."""
    if not config.words:
        return set()
    classes = map(str.split, config.class_words) if config.class_words else words_of_classes()
    return {*config.detected_words, *itertools.chain.from_iterable(classes)}


def recognisable(config: RecognitionConfig, vocabulary: Sequence[str]) -> Recognisable:
    """Find the words that the configuration names in a vocabulary.

    Args:
      vocabulary: all words by id, in falling order of frequency, special tokens first.

    Raises:
      InputError: a word with a detector is not in the vocabulary, or the table of classes has
        another length.
    """
    config = with_words(config, vocabulary)
    number = {word: id for id, word in enumerate(vocabulary) if id >= len(SPECIALS)}
    unknown = [word for word in config.detected_words if word not in number]
    if unknown:
        raise InputError(
            f"recognition.detected_words has {counted(len(unknown), 'word')} not in the"
            f" vocabulary, such as '{unknown[0]}'; give words of the training captions."
        )
    if len(config.class_words) != CLASSES:
        raise InputError(
            f"recognition.class_words has {len(config.class_words)} elements; expected {CLASSES},"
            " one for each class of ImageNet."
        )
    place = {number[word]: at for at, word in enumerate(config.detected_words)}
    detected, links = len(place), []
    for class_, words in enumerate(config.class_words):
        for word in words.split():
            if (id := number.get(word)) is not None:
                links.append((class_, place.setdefault(id, len(place))))
    if not place:
        raise InputError(
            f"recognition.words is {config.words}, but none of the {len(number)} words of the"
            " vocabulary can be recognised. Give --recognition.words 0."
        )
    people = frozenset(number[word] for word in words_for_people() if number.get(word) in place)
    return Recognisable(tuple(place), detected, tuple(links), people)


class Recogniser(nn.Module):
    """Finds words in images.

    Attributes:
      words: the words that it can recognise.
      count: K, the words returned for each image.
      encoder: a copy of the encoder's stages from `branch` on; None to read the encoder's own
        features.
      branch: the first stage of `encoder`.
      people_share: see `RecognitionConfig.people_share`.
    """

    words: Recognisable
    count: int
    encoder: Encoder | None = None
    branch: str | None = None
    people_share: float = 0.0

    @property
    def own_stages(self) -> tuple[str, ...]:
        """The stages of `encoder`."""
        encoder: Any = self.encoder  # with `stages`, which not every encoder has
        return () if encoder is None else stages_between(encoder.stages, self.branch, None)

    @property
    def trains(self) -> bool:
        """Whether its own stages learn."""
        return self.encoder is not None and self.branch not in self.encoder.frozen_stages

    def setup(self) -> None:
        self.classifier = nn.Dense(CLASSES)
        self.detector = nn.Dense(self.words.detected)
        # Log-odds of a word = scale · those of its classes + offset + the detector's.
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        self.scale = self.param("scale", ones, ())
        self.offset = self.param("offset", zeros, ())

    def features(self, x: Float[Array, "B ..."]) -> Float[Array, "B P D"]:
        """Return the features that words are recognised from.

        Args:
          x: the output of the encoder's last stage before `branch`, or the encoder's features.
        """
        encoder: Any = self.encoder  # with `begin`, which not every encoder has
        if encoder is not None:
            x = encoder(x, train=False, begin=self.branch)
        return x.astype(jnp.float32)

    def logits(self, features: Float[Array, "B P D"]) -> Float[Array, "B R"]:
        """Return the log-odds of each recognisable word.

        The detector scores every position. Their log-mean-exp, between mean and maximum, scores
        the image, since a small thing fills few positions.
        """
        classes = nn.softmax(self.classifier(features.mean(axis=1)))  # (B, C)
        links = np.array(self.words.links, np.int32).reshape(-1, 2)
        named = jax.ops.segment_sum(
            classes[:, links[:, 0]].T, links[:, 1], num_segments=len(self.words.ids)
        ).T  # (B, R)
        p = jnp.clip(named, _LEAST, 1 - _LEAST)
        is_named = jnp.zeros(len(self.words.ids), bool).at[links[:, 1]].set(True)
        odds = self.scale * jnp.log(p / (1 - p)) + self.offset
        at_positions = self.detector(features)  # (B, P, detected)
        pooled = jax.nn.logsumexp(at_positions, axis=1) - jnp.log(features.shape[1])
        detected = jnp.pad(pooled, ((0, 0), (0, len(self.words.ids) - self.words.detected)))
        return jnp.where(is_named, odds, 0) + detected

    def detect(
        self, x: Float[Array, "B ..."], published: Float[Array, "B P D"] | None = None
    ) -> Detection:
        """Return the log-odds of words, and how much the stages of a `trainable` recogniser forgot.

        Args:
          x: see `features`.
          published: the features of the published encoder.
        """
        features = self.features(x)
        forgotten = jnp.zeros(len(features))
        if published is not None:
            p, q = (nn.log_softmax(self.classifier(f.mean(axis=1))) for f in (published, features))
            forgotten = (jnp.exp(p) * (p - q)).sum(axis=1)
        return Detection(self.logits(features), forgotten)

    def __call__(self, x: Float[Array, "B ..."]) -> RecognisedWords:
        """Return the K most probable words of each image; see `features` for `x`."""
        return self.read(self.features(x))

    def read(self, features: Float[Array, "B P D"]) -> RecognisedWords:
        """Return the K most probable words of the `features` of each image."""
        probabilities = jax.lax.stop_gradient(nn.sigmoid(self.logits(features)))
        best, at = jax.lax.top_k(probabilities, self.count)
        ids = jnp.array(self.words.ids, jnp.int32)[at]
        if not self.people_share:
            return RecognisedWords(ids, best)
        # An image unlike the training photographs has a little of every word, people included.
        expected = probabilities[:, : self.words.detected].sum(axis=1, keepdims=True)
        people = jnp.isin(ids, np.array(sorted(self.words.people), np.int32))
        share = best.sum(axis=1, keepdims=True, where=people) / expected
        best = jnp.where(people & (share < self.people_share), 0.0, best)
        best, order = jax.lax.top_k(best, self.count)
        ids = jnp.take_along_axis(ids, order, axis=1)
        return RecognisedWords(jnp.where(best > 0, ids, 0), best)
