"""The data sets to train on: records, captions, and shares of the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxcap.config import Config, DataConfig
from jaxcap.data.captions import Captions
from jaxcap.data.mixture import shares_of, steps_of_epoch
from jaxcap.data.pipeline import Source, TrainingSet, has_images
from jaxcap.data.simulated_words import SimulatedWords
from jaxcap.datasets.prepare import load_source
from jaxcap.messages.errors import InputError, counted
from jaxcap.model.recogniser.recogniser import Recogniser

_MAX_STEPS = 10**7
"""Steps of a run or a stage. The data set of each is computed beforehand and kept in memory."""


@dataclass(frozen=True)
class TrainingData:
    """The training splits of all data sets, by name.

    Attributes:
      sets: in the order of `DataConfig.names`.
      captions: the captions of all photographs, by their numbers.
    """

    sets: Mapping[str, TrainingSet]
    captions: Captions

    @classmethod
    def create(
        cls,
        sources: Mapping[str, Source],
        captions: Captions,
        *,
        names: Sequence[str],
        recogniser: Recogniser | None = None,
    ) -> TrainingData:
        """Number the images of several data sets, and simulate words for captions without images.

        Args:
          sources: as `load_sources` returns them.
          captions: those of all sources, in the same order.
          names: the data sets in the order of `DataConfig.names`.
          recogniser: the model's.

        Raises:
          InputError: a data set has no captions.
        """
        sets: dict[str, TrainingSet] = {}
        photographs = end = 0
        for name, source in sources.items():
            begin, end = end, end + len(source)
            part, words = Captions(captions.rows.part(begin, end)), None
            if not part.longest.any():
                raise InputError(
                    f"the training split of '{name}' has no captions; prepare it with captions, "
                    "or leave it out of data.mixed_with."
                )
            if has_images(source):
                photographs = end
            elif recogniser is not None:
                people = recogniser.words.people if recogniser.people_share else ()
                words = SimulatedWords(part, recogniser.words.ids, recogniser.count, people)
            sets[name] = TrainingSet(source, part, words=words, first_number=begin)
        return cls(
            {name: sets[name] for name in names}, Captions(captions.rows.part(0, photographs))
        )

    def shares(self, data: DataConfig) -> tuple[float, ...]:
        """Return the share of the steps of each data set."""
        return shares_of(data.weights, [len(each.captions) for each in self.sets.values()])

    def steps_per_epoch(self, config: Config) -> int:
        """Count the steps of an epoch of a run or a stage.

        Raises:
          InputError: a data set that is read has fewer images than a batch, or has captions alone
            where the stage needs images or the model reads no words; or there are too many steps.
        """
        size, shares = config.train.batch_size, self.shares(config.data)
        for (name, each), share in zip(self.sets.items(), shares, strict=True):
            if share == 0:
                continue
            if len(each.captions) < size:
                raise InputError(
                    f"train.batch_size is {size}, but the training split of '{name}' has only "
                    f"{counted(len(each.captions), 'image')}; give --train.batch-size "
                    f"{len(each.captions)} or less."
                )
            if not has_images(each.source):
                _check_text(name, config)
                self._check_random_images(name, config.data)
        steps = steps_of_epoch(shares, [len(each.captions) // size for each in self.sets.values()])
        if (total := steps * max(1, config.train.epochs)) > _MAX_STEPS:
            weights = config.data.weights
            raise InputError(
                f"train.epochs is {config.train.epochs}, and an epoch has {counted(steps, 'step')}"
                + (f" with data.weights {weights}" if weights else "")
                + f": {total:,} in all; expected at most {_MAX_STEPS:,}. Give fewer epochs"
                + (", or the first data set a larger weight." if weights else ".")
            )
        return steps

    def _check_random_images(self, name: str, data: DataConfig) -> None:
        """Refuse to show random images where no data set with images is read."""
        read = [
            each for each, share in zip(self.sets.values(), self.shares(data), strict=True) if share
        ]
        if data.random_images and not any(has_images(each.source) for each in read):
            raise InputError(
                f"data.random_images is true, but no data set of images is read beside '{name}'. "
                "Give one a weight above 0, or --data.no-random-images."
            )

    def record(self, number: int) -> dict[str, Any]:
        """Return the record with a number, as batches have them."""
        of = max(
            (each for each in self.sets.values() if each.first_number <= number),
            key=lambda each: each.first_number,
        )
        return of.source[number - of.first_number]

    def __str__(self) -> str:
        text = sum(len(each.captions) for each in self.sets.values()) - len(self.captions)
        without = f", {counted(text, 'text')} without images" if text else ""
        return f"{counted(len(self.captions), 'training image')}{without}"


def load_sources(data: DataConfig) -> dict[str, Source]:
    """Load the training split of each data set, those with images first.

    Raises:
      InputError: a data set is not prepared, or has no training split.
    """
    sources = {
        name: load_source(name, "train", data.directory, text_too=True) for name in data.names
    }
    return dict(sorted(sources.items(), key=lambda item: not has_images(item[1])))


def _check_text(name: str, config: Config) -> None:
    """Refuse to read captions without images where nothing can be learned from them."""
    way_out = f"Give data.weights with 0 for '{name}' there"
    if not config.recognition.words:
        raise InputError(
            f"'{name}' holds captions without images, which are learned from recognised words, but "
            f"recognition.words is 0. {way_out}, or --recognition.words 20."
        )
    if config.train.objective == "word_detection":
        raise InputError(
            f"'{name}' holds captions without images, but train.objective is word_detection, which "
            f"learns from images. {way_out}."
        )
