"""Self-critical Sequence Training for Image Captioning (Rennie et al. 2017).

https://arxiv.org/abs/1612.00563. The model samples captions, each is rewarded with its score
against the references of the image, and the words of samples that beat a baseline become more
likely. The baseline is the reward of greedy search (the paper's), or the mean reward of the other
samples of the image (Luo 2020, "A Better Variant of Self-Critical Sequence Training",
https://arxiv.org/abs/2003.09971, after Kool et al. 2019): one search less, and less variance.

A step runs two programs on the device, with the host in between: the first samples captions with
the current parameters, the host rewards them, and `step.train_step` trains on them. Each batch is
sampled in parts, so that the host rewards one part while the device samples the next.

    B images   N samples of each   T tokens   P image positions   D feature width
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxcap.captioning.decoding import Encoded, ImageInput, encode, start_search
from jaxcap.config import Config, TrainConfig
from jaxcap.data.batch import Batch, Samples
from jaxcap.data.captions import Captions
from jaxcap.devices import hosts
from jaxcap.devices.parallel import Step, over_local_devices
from jaxcap.messages.errors import InputError
from jaxcap.metrics.reward import CiderReward
from jaxcap.model.captioner import Captioner
from jaxcap.search import greedy_search, sample
from jaxcap.text.vocabulary import BOS, EOS, PAD
from jaxcap.training.step.state import TrainState
from jaxcap.training.step.train_step import StepMetrics

PARTS = 2
"""The parts that a batch is sampled in."""
# Keeps sampling keys apart from dropout keys, which are folded with the number of a step.
_SAMPLING = 2**32 - 1


class Drawn(NamedTuple):
    """The captions that the device sampled for a part of a batch.

    Attributes:
      tokens: without `<bos>`, up to and including `<eos>`, padded with `<pad>`.
      encoded: features and words of images given as pixels, if a later program needs them too.
    """

    tokens: Int[Array, "B N T"]
    encoded: Encoded | None


class SelfCritical:
    """Samples captions with the parameters of a state, and rewards them."""

    def __init__(self, model: Captioner, config: Config, reward: CiderReward):
        """Compile nothing yet.

        Args:
          reward: rewards the images of the training split, by their numbers.
        """
        train = config.train
        self._reward = reward
        self._longest = config.search.max_length + 2  # <bos> and <eos>
        self._lengths = [x for x in config.data.length_buckets if x < self._longest]
        frozen, greedy = not model.train_encoder, train.baseline == "greedy"

        def draw(policy: tuple[Any, Any], images: tuple[ImageInput, Any]) -> Drawn:
            (variables, step), (given, numbers) = policy, images
            encoded = encode(model, variables, given)
            rng = jax.random.fold_in(jax.random.key(train.seed), jnp.uint32(_SAMPLING))
            rng = jax.random.fold_in(rng, step)
            # A key per image number, whatever its place in the batch and its device.
            rngs = jax.vmap(lambda number: jax.random.fold_in(rng, number))(numbers)
            result = sample(
                *start_search(model, variables, encoded),
                rngs,
                n=train.samples,
                max_length=config.search.max_length + 1,
            )
            needed = (frozen or greedy) and given.features is None
            return Drawn(result.tokens, encoded if needed else None)

        def search(variables: Any, encoded: Encoded) -> Int[Array, "B 1 T"]:
            result = greedy_search(
                *start_search(model, variables, encoded), max_length=config.search.max_length + 1
            )
            return result.tokens

        self._frozen = frozen
        self._draw = over_local_devices(jax.jit(draw))
        self._search = over_local_devices(jax.jit(search)) if greedy else None

    def wrap(self, update: Step, *, text: Step) -> Step:
        """Return a training step that samples and rewards captions, then calls `update` on them.

        Args:
          text: the step for captions that have no photograph of their own. Rewards would teach the
            model to put the recognised words into the same sentence every time.
        """

        def step(state: TrainState, batch: Batch, rng: Any) -> tuple[TrainState, StepMetrics]:
            if _numbers(batch)[0] >= self._reward.index.images:
                return text(state, batch, rng)
            return update(state, self(state, batch), rng)

        return step

    def __call__(self, state: TrainState, batch: Batch) -> Samples:
        """Sample captions of the images of `batch`, and reward them.

        The samples of an image depend only on the seed, the step and parameters of the state, and
        the number of the image.

        Args:
          batch: images and their numbers; its own captions are not read.

        Raises:
          ValueError: the batch has no image numbers.
        """
        numbers = _numbers(batch)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        rows, devices = len(numbers), jax.local_device_count()
        parts = 1 if rows % (PARTS * devices) else PARTS
        shares = [
            slice(*bounds) for bounds in itertools.pairwise(range(0, rows + 1, rows // parts))
        ]
        images = [
            jax.tree.map(
                lambda x, rows=rows: x[rows], ImageInput(batch.pixels, batch.features, batch.words)
            )
            for rows in shares
        ]
        drawn = [
            self._draw((variables, state.step), (given, numbers[rows]))
            for given, rows in zip(images, shares, strict=True)
        ]
        greedy = []
        if self._search is not None:
            for given, part in zip(images, drawn, strict=True):
                encoded = part.encoded
                if encoded is None:
                    assert given.features is not None
                    encoded = Encoded(jnp.asarray(given.features), given.words)
                greedy.append(self._search(variables, encoded))
        # Everything is dispatched. From here on the host works in parallel with the device.
        rewards = self._rewards(numbers, shares, [part.tokens for part in drawn])
        if greedy:
            baselines = np.broadcast_to(self._rewards(numbers, shares, greedy), rewards.shape)
        else:
            baselines = mean_of_others(rewards)
        pixels, known, words = batch.pixels, batch.features, batch.words
        if self._frozen and known is None:
            # The update would compute the same features again.
            encoded = jax.tree.map(
                lambda *parts: np.concatenate([np.asarray(part) for part in parts]),
                *(part.encoded for part in drawn),
            )
            pixels, known, words = None, encoded.features, encoded.words
        return Samples(
            tokens=self._trimmed(np.concatenate([np.asarray(part.tokens) for part in drawn])),
            rewards=rewards.astype(np.float32),
            baselines=baselines.astype(np.float32),
            pixels=pixels,
            features=known,
            words=words,
        )

    def _rewards(
        self, numbers: Int[np.ndarray, " B"], shares: list[slice], tokens: list[Any]
    ) -> Float[np.ndarray, "B N"]:
        return np.concatenate(
            [
                self._reward(numbers[rows], np.asarray(part))
                for rows, part in zip(shares, tokens, strict=True)
            ]
        )

    def _trimmed(self, tokens: Int[np.ndarray, "B N T"]) -> Int[np.ndarray, "B N U"]:
        """Prepend `<bos>` and trim padding to the shortest bucket that fits on all processes."""
        longest = 1 + max(hosts.gather(int((tokens != PAD).sum(axis=2).max())))
        length = next((x for x in self._lengths if x >= longest), self._longest)
        return np.pad(tokens, ((0, 0), (0, 0), (1, 0)), constant_values=BOS)[:, :, :length]


def _numbers(batch: Batch) -> Int[np.ndarray, " B"]:
    if batch.numbers is None:
        raise ValueError("SelfCritical: the batch has no `numbers` to look up references by.")
    return np.asarray(batch.numbers)


def mean_of_others(rewards: Float[np.ndarray, "B N"]) -> Float[np.ndarray, "B N"]:
    """Return, for each sample, the mean reward of the other samples of its image.

    It does not depend on the sample itself, so the gradient stays unbiased.
    """
    return (rewards.sum(axis=1, keepdims=True) - rewards) / (rewards.shape[1] - 1)


def create_reward(captions: Captions, train: TrainConfig) -> CiderReward:
    """Create the configured reward, with the references and n-grams of a training split.

    Raises:
      InputError: an image has no captions.
    """
    check_references(captions)
    return CiderReward.from_references(
        [captions.rows[image] for image in range(len(captions))],
        eos=EOS,
        ignored=(PAD, BOS),
        cider=train.reward_cider,
        bleu=train.reward_bleu,
    )


def check_references(captions: Captions) -> None:
    """Check that every image of a training split has captions.

    Raises:
      InputError: an image has no captions.
    """
    without = np.flatnonzero(captions.longest == 0)
    if len(without):
        raise InputError(
            "train.objective is self_critical, which scores samples against the captions of the "
            f"data, but {len(without)} of {len(captions)} training images have none (the first is "
            f"record {without[0]}). Prepare the data set without them, or train with "
            "cross_entropy."
        )
