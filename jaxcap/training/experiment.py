"""The parts of a training run: data, model, optimizer and the compiled step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optax
from rich.console import Console

from jaxcap.captioning.decoding import Decode, create_decode
from jaxcap.config import Config
from jaxcap.data.batch import Batch
from jaxcap.data.feature_cache import EncodedImages
from jaxcap.data.mixture import Turns
from jaxcap.data.pipeline import Source, training_batches
from jaxcap.devices import hosts
from jaxcap.devices.parallel import Parallel, Step, over_local_devices
from jaxcap.model.captioner import Captioner
from jaxcap.text.vocabulary import NEVER_SAID, Vocabulary
from jaxcap.training.self_critical import SelfCritical, create_reward
from jaxcap.training.step import optimizer
from jaxcap.training.step.losses import cross_entropy, policy_gradient, word_detection
from jaxcap.training.step.scheduled_sampling import scheduled_sampling
from jaxcap.training.step.train_step import Objective, train_step
from jaxcap.training.training_data import TrainingData


@dataclass(frozen=True)
class Experiment:
    """Everything that stays constant during a training run, or during one of its stages.

    Attributes:
      data: the data sets to train on.
      validation: the split to caption after every epoch.
      turns: which data set each step reads.
      first_epoch: the number of epochs in earlier stages.
      start: the `{"params": …, "batch_stats": …}` to start from, if given.
      validation_features: cached features of a frozen encoder for the images of `validation`.
    """

    config: Config
    workdir: Path
    console: Console
    model: Captioner
    tx: optax.GradientTransformation
    vocabulary: Vocabulary
    data: TrainingData
    validation: Source
    turns: Turns
    steps_per_epoch: int
    parallel: Parallel
    first_epoch: int = 0
    start: dict[str, Any] | None = None
    validation_features: EncodedImages | None = None

    @property
    def first_step(self) -> int:
        """The number of steps in earlier stages."""
        return self.turns.first_step

    def epoch(self, step: int) -> float:
        """Return the number of epochs completed after a step, including those of earlier stages."""
        return self.first_epoch + (step - self.first_step) / self.steps_per_epoch

    @property
    def total(self) -> int:
        """The number of steps at the end of the run or stage."""
        return self.first_step + self.config.train.epochs * self.steps_per_epoch

    def step(self) -> Step:
        """Return the compiled `train_step`, which donates its state.

        In self-critical training, it first samples and rewards captions of photographs; captions
        without photographs are learned by cross-entropy.
        """
        train = self.config.train
        likelihood = functools.partial(cross_entropy, label_smoothing=train.label_smoothing)
        step = self._compiled(likelihood)
        match train.objective:
            case "word_detection":
                assert self.model.recogniser is not None
                ids = self.model.recogniser.words.ids
                return self._compiled(functools.partial(word_detection, ids=ids), method="detect")
            case "self_critical":
                reinforce = self._compiled(functools.partial(policy_gradient, never=NEVER_SAID))
                reward = create_reward(self.data.captions, train)
                return SelfCritical(self.model, self.config, reward).wrap(reinforce, text=step)
            case _:
                return step

    def _compiled(self, objective: Objective, *, method: str = "__call__") -> Step:
        train = self.config.train
        return self.parallel.compile(
            functools.partial(
                train_step,
                model=self.model,
                tx=self.tx,
                objective=objective,
                method=method,
                axis_name=self.parallel.axis_name,
                attention_penalty=train.attention_penalty,
                sampling=scheduled_sampling(train, first_step=self.first_step),
                accumulate=train.accumulate,
                ema_decay=train.ema_decay,
            )
        )

    def batches(self, first: int, stop: int, *, whole: bool = False) -> Iterator[Batch]:
        """Yield the batches of the steps `first` to `stop`, counted from 0, `stop` excluded.

        Args:
          whole: whether to read all rows, or only those of this process.
        """
        return training_batches(
            list(self.data.sets.values()),
            config=self.config.data,
            batch_size=self.config.train.batch_size,
            seed=self.config.train.seed,
            first_step=first,
            steps=stop,
            turns=self.turns,
            shard=(0, 1) if whole else hosts.share(),
        )

    def learning_rate(self) -> Callable[[int], Any]:
        """Return the learning rate as a function of the step, counted from 0."""
        schedule = optimizer.learning_rate(self.config.train, steps_per_epoch=self.steps_per_epoch)
        return lambda step: schedule(step - self.first_step)

    def decode(self) -> Decode:
        """Return the search to evaluate with."""
        return over_local_devices(create_decode([self.model], self.config.search, self.vocabulary))
