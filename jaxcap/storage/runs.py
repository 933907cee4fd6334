"""Read the captioner of a run directory, and compare the run's files with its checkpoints."""

from __future__ import annotations

import filecmp
from itertools import zip_longest
from pathlib import Path

from jaxcap.config import Config, differences, load_config
from jaxcap.messages.errors import InputError, did_you_mean, within
from jaxcap.model.captioner import create_captioner, variable_shapes
from jaxcap.storage.trained import TrainedCaptioner, check_finite
from jaxcap.text.vocabulary import Vocabulary


def read(path: Path, *, best: bool) -> TrainedCaptioner:
    """Read a run directory.

    Args:
      best: read the checkpoint with the best score, or else the latest.

    Raises:
      InputError: this is no run, it has no intact checkpoint or does not match it, or weights are
        not finite.
    """
    if not path.exists():
        raise InputError(
            f"{path}: no such run directory.{did_you_mean(path)} Train one with jaxcap train or "
            "jaxcap finetune."
        )
    missing = [
        name
        for name in ("config.json", "vocabulary.json", "checkpoints")
        if not (path / name).exists()
    ]
    if missing:
        raise InputError(
            f"{path}: not a run directory: it has no {' and no '.join(missing)}. "
            "Give the --workdir of a run (runs/NAME)."
        )
    # Orbax takes a while to import, and published files do not need it.
    from jaxcap.storage.checkpoints import Checkpoints

    config = load_config(path / "config.json")
    vocabulary = Vocabulary.load(path / "vocabulary.json")
    with within(str(path / "config.json")):
        model = create_captioner(config, len(vocabulary), words=vocabulary.words)
    like = variable_shapes(model, image_size=config.data.image_size)
    with Checkpoints(
        path / "checkpoints", metric=config.evaluation.metric, reading_only=True
    ) as checkpoints:
        restored = checkpoints.restore_sound_variables(like, best=best)
    if restored is None:
        raise InputError(f"{path}: no checkpoint yet; training saves one after every epoch.")
    step, variables = restored
    check_finite(variables, where=f"{path / 'checkpoints' / str(step)}")
    check_copies(path, config, vocabulary, step)
    return TrainedCaptioner(path, config, vocabulary, variables, step)


def check_copies(run: Path, config: Config, vocabulary: Vocabulary, step: int) -> None:
    """Compare a run's configuration and vocabulary with their copies in a sound checkpoint.

    Options that only training or evaluation reads do not count. `search` may have been edited, and
    the folder of the data may have moved.

    Raises:
      InputError: they differ.
    """
    for name in ("config.json", "vocabulary.json"):
        file, copy = run / name, run / "checkpoints" / str(step) / name
        try:
            if filecmp.cmp(file, copy, shallow=False):
                continue
        except FileNotFoundError:  # a running training may just have removed the step
            continue
        if name == "config.json":
            lines = [
                line
                for line in differences(config, load_config(copy))
                if not line.startswith(_NOT_DECISIVE)
            ]
        else:
            lines = _first_difference(vocabulary, Vocabulary.load(copy))
        if lines:
            raise InputError(
                f"{file} is not the one that the checkpoint was trained with:",
                *(f"  {line}" for line in lines),
                f"Correct it, or copy {copy} over it.",
            )


_NOT_DECISIVE = (
    *("train.", "stages", "search.", "evaluation.split", "evaluation.batch_size"),
    *("evaluation.units", "encoder.train", "encoder.batch_stats", "encoder.learning_rate_factor"),
    *("recognition.trainable", "decoder.embedding_dropout", "decoder.feature_dropout"),
    *("decoder.output_dropout", "decoder.word_dropout", "decoder.image_dropout"),
    *("data.mixed_with", "data.weights", "data.random_images", "data.captions_per_image"),
    *("data.min_count", "data.max_words", "data.vocabulary_size", "data.length_buckets"),
    *("data.crop_min_scale", "data.flip", "data.color_jitter"),
)
"""How `differences` begins the lines of options that do not decide the model and its text."""


def _first_difference(found: Vocabulary, expected: Vocabulary) -> list[str]:
    for number, (word, other) in enumerate(zip_longest(found.words, expected.words)):
        if word != other:
            return [f"word {number}: {word!r}, expected {other!r}"]
    return [] if found == expected else ["the rules of splitting text into words differ"]
