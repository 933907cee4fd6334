"""Self-critical Sequence Training for Image Captioning (Rennie et al. 2017).

https://arxiv.org/abs/1612.00563. The model draws captions, each is rewarded with a score against
the references of its image, and the words of those that do better than a baseline become likelier.
The baseline is the reward of the likeliest word each time (the paper's), or the mean reward of the
other captions drawn for the image (Luo 2020, "A Better Variant of Self-Critical Sequence Training",
https://arxiv.org/abs/2003.09971, after Kool et al. 2019): one search less, and less variance.

A step is two programs of the device, and the host between them: captions are drawn by the
parameters of this very step, and `steps.train_step` reads them as it reads any captions. A batch is
drawn in parts, so that the host rewards one part while the device draws the next.

    B images   N samples of each   T tokens   P image positions   D feature width
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxcap.captioning.decoding import begin
from jaxcap.config import Config, TrainConfig
from jaxcap.data.batch import Batch, Samples
from jaxcap.data.captions import Captions
from jaxcap.devices import hosts
from jaxcap.devices.parallel import Step, over_local_devices
from jaxcap.errors import InputError
from jaxcap.metrics.reward import CiderReward
from jaxcap.model.captioner import Captioner
from jaxcap.search import greedy_search, sample
from jaxcap.text.vocabulary import BOS, EOS, PAD
from jaxcap.training.step.state import TrainState
from jaxcap.training.step.train_step import StepMetrics

_PARTS = 2
# Told apart by it from the keys of dropout, which are folded with the number of a step.
_DRAWING = 2**32 - 1


class Drawn(NamedTuple):
    """What the device draws for a part of a batch.

    Attributes:
      tokens: without `<bos>`, up to and with `<eos>`, then `<pad>`, `[B, N, T]`.
      features: of images that came as pixels, `[B, P, D]`, where somebody needs them again.
    """

    tokens: Int[Array, "B N T"]
    features: Float[Array, "B P D"] | None


class SelfCritical:
    """Draws captions with the parameters of a state, and rewards them."""

    def __init__(self, model: Captioner, config: Config, reward: CiderReward):
        """Takes `reward` for the images of the training split, by their numbers."""
        train = config.train
        self._reward = reward
        self._longest = config.search.max_length + 2  # <bos> and <eos>
        self._lengths = [x for x in config.data.length_buckets if x < self._longest]
        frozen, greedy = not model.train_encoder, train.baseline == "greedy"

        def draw(policy: tuple[Any, Any], images: tuple[Any, Any]) -> Drawn:
            (variables, step), (pixels, numbers) = policy, images
            features: Any = pixels
            if pixels.ndim == 4:
                features = model.apply(variables, pixels, method="encode")
            rng = jax.random.fold_in(jax.random.key(train.seed), jnp.uint32(_DRAWING))
            rng = jax.random.fold_in(rng, step)
            # By the number of the image, wherever in the batch and on whichever device it is.
            rngs = jax.vmap(lambda number: jax.random.fold_in(rng, number))(numbers)
            result = sample(
                *begin(model, variables, features),
                rngs,
                n=train.samples,
                max_length=config.search.max_length + 1,
            )
            needed = (frozen or greedy) and pixels.ndim == 4
            return Drawn(result.tokens, features if needed else None)

        def say(variables: Any, features: Any) -> Int[Array, "B 1 T"]:
            search = greedy_search(
                *begin(model, variables, features), max_length=config.search.max_length + 1
            )
            return search.tokens

        self._frozen = frozen
        self._draw = over_local_devices(jax.jit(draw))
        self._say = over_local_devices(jax.jit(say)) if greedy else None

    def of(self, update: Step) -> Step:
        """A step of training that draws captions and gives them to `update`, on the same state."""

        def step(state: TrainState, batch: Batch, rng: Any) -> tuple[TrainState, StepMetrics]:
            return update(state, self(state, batch), rng)

        return step

    def __call__(self, state: TrainState, batch: Batch) -> Samples:
        """Captions of the images of `batch` (whose own are not looked at), with rewards.

        What is drawn for an image follows from the seed, the state's step and parameters, and the
        number of the image, and from nothing else.
        """
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        rows, devices = len(batch.numbers), jax.local_device_count()
        parts = 1 if rows % (_PARTS * devices) else _PARTS
        bounds = itertools.pairwise(range(0, rows + 1, rows // parts))
        shares = [jax.tree.map(lambda x, s=slice(*b): x[s], batch) for b in bounds]
        drawn = [self._draw((variables, state.step), (x.images, x.numbers)) for x in shares]
        said = []
        if self._say is not None:
            for share, part in zip(shares, drawn, strict=True):
                features = share.images if part.features is None else part.features
                said.append(self._say(variables, features))
        # All is on its way; from here on the host works beside the device.
        rewards = self._rewards(shares, [x.tokens for x in drawn])
        if said:
            baselines = np.broadcast_to(self._rewards(shares, said), rewards.shape)
        else:
            baselines = mean_of_others(rewards)
        tokens = np.concatenate([np.asarray(x.tokens) for x in drawn])
        images = batch.images
        if self._frozen and drawn[0].features is not None:
            # The encoder would make the same of them in the update.
            images = np.concatenate([np.asarray(x.features) for x in drawn])
        return Samples(
            images=images,
            tokens=self._trimmed(tokens),
            rewards=rewards.astype(np.float32),
            baselines=baselines.astype(np.float32),
        )

    def _rewards(self, shares: list[Batch], tokens: list[Any]) -> Float[np.ndarray, "B N"]:
        return np.concatenate(
            [
                self._reward(np.asarray(share.numbers), np.asarray(of_share))
                for share, of_share in zip(shares, tokens, strict=True)
            ]
        )

    def _trimmed(self, tokens: Int[np.ndarray, "B N T"]) -> Int[np.ndarray, "B N U"]:
        """With `<bos>`, and as few `<pad>` as the buckets and the other processes allow."""
        longest = 1 + max(hosts.gather(int((tokens != PAD).sum(axis=2).max())))
        length = next((x for x in self._lengths if x >= longest), self._longest)
        return np.pad(tokens, ((0, 0), (0, 0), (1, 0)), constant_values=BOS)[:, :, :length]


def mean_of_others(rewards: Float[np.ndarray, "B N"]) -> Float[np.ndarray, "B N"]:
    """For each caption the mean reward of the other ones of its image.

    It does not depend on what the caption itself says, so the gradient stays unbiased.
    """
    return (rewards.sum(axis=1, keepdims=True) - rewards) / (rewards.shape[1] - 1)


def create_reward(captions: Captions, train: TrainConfig) -> CiderReward:
    """The reward that the options ask for, with the references and n-grams of a training split.

    Raises:
      InputError: an image has no captions.
    """
    check_references(captions)
    return CiderReward.from_references(
        [captions.rows.of(image) for image in range(len(captions))],
        eos=EOS,
        ignored=(PAD, BOS),
        cider=train.reward_cider,
        bleu=train.reward_bleu,
    )


def check_references(captions: Captions) -> None:
    """Refuses a training split that holds images without captions.

    Raises:
      InputError: it does; with how many, and the number of the first.
    """
    without = np.flatnonzero(captions.longest == 0)
    if len(without):
        raise InputError(
            f"train.objective is self_critical, which compares captions with those of the data, "
            f"but {len(without)} of {len(captions)} training images have none (the first is record "
            f"{without[0]}). Prepare the data set without them, or train by cross_entropy."
        )
