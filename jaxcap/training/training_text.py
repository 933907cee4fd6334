"""The vocabulary of a training, and its captions in the ids of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jaxcap.config import DataConfig
from jaxcap.data.captions import Captions
from jaxcap.data.pipeline import Source, all_captions, tokenised_captions
from jaxcap.datasets.inspection import caption_warnings
from jaxcap.errors import InputError
from jaxcap.text.units import Pieces, TextUnits, create_units
from jaxcap.text.vocabulary import Vocabulary


def training_text(
    source: Source,
    config: DataConfig,
    *,
    saved: Path,
    given: Vocabulary | None = None,
    warn: Callable[[str], None] | None = None,
) -> tuple[Vocabulary, Captions]:
    """Finds the words (or other units) of the training split, and encodes its captions.

    Args:
      saved: the vocabulary of the run, if it has begun already: the data must still give it.
      given: a vocabulary to use in the place of the split's own.
      warn: told what of the captions will hurt a training that begins with them.

    Raises:
      InputError: no word is frequent enough, the model of the pieces is missing or faulty, or
        the data set or that model is not the one that the run began with.
    """
    begun = Vocabulary.load(saved) if saved.exists() else None
    if begun is None and given is not None:
        units = given.units
    elif begun is None:
        units = create_units(
            config, lambda: (text for captions in all_captions(source) for text in captions)
        )
    else:
        # Pieces are not learnt again, and the file of their model need not be there.
        units = _checked(begun.units, saved, config)
    texts = tokenised_captions(source, units)
    vocabulary = given or Vocabulary.from_counts(
        texts.counts(), min_count=config.min_count, units=units
    )
    if begun is not None and begun != vocabulary:
        whose, what = f"the training split of '{config.name}'", "the data set"
        if given is not None:
            whose = what = "train.start_from"
        raise InputError(
            f"{saved} is not the vocabulary of {whose}: {what} has changed since this run began. "
            "Give a new --workdir."
        )
    if warn is not None and begun is None and given is None:
        for warning in caption_warnings(texts, config):
            if warning.level == "warning":
                warn(f"warning: {warning.text}")
    return vocabulary, Captions.encode(texts, vocabulary, config=config)


def _checked(units: TextUnits, saved: Path, config: DataConfig) -> TextUnits:
    found, expected = (units.name, units.normalisation), (config.units, config.normalisation)
    if found != expected:
        raise InputError(
            f"{saved} is of {' in '.join(found)}, but this run is of {' in '.join(expected)}. "
            "Give a new --workdir."
        )
    if isinstance(units, Pieces) and config.pieces_model is not None:
        file = Path(config.pieces_model).expanduser()
        if file.exists() and file.read_bytes() != units.model:
            raise InputError(
                f"data.pieces_model is '{config.pieces_model}', but {saved} holds another model, "
                "with which this run began. Leave the option out, or give a new --workdir."
            )
    return units
