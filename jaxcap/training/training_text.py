"""Create the vocabulary of a training split, and encode its captions."""

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
    extend: bool = False,
    warn: Callable[[str], None] | None = None,
) -> tuple[Vocabulary, Captions]:
    """Create the vocabulary of the training split, and encode its captions.

    Args:
      saved: the vocabulary file of the run. If it exists, the data must still give the same.
      given: a vocabulary to use in place of the split's own.
      extend: append the frequent words of the split that `given` lacks.
      warn: called with warnings about the captions, in a new run without `given`.

    Raises:
      InputError: no word is frequent enough, the piece model is missing or invalid, or the data
        set or the piece model has changed since the run started.
    """
    before = Vocabulary.load(saved) if saved.exists() else None
    if before is None and given is not None:
        units = given.units
    elif before is None:
        units = create_units(
            config, lambda: (text for captions in all_captions(source) for text in captions)
        )
    else:
        # Pieces are not learned again, and their model file need not exist any more.
        units = _checked(before.units, saved, config)
    texts = tokenised_captions(source, units)
    if given is None:
        vocabulary = Vocabulary.from_counts(texts.counts(), min_count=config.min_count, units=units)
    else:
        vocabulary = given
        if extend:
            vocabulary = given.extended(texts.counts(), min_count=config.min_count)
    if before is not None and before != vocabulary:
        whose, what = f"the training split of '{config.name}'", "the data set"
        if given is not None:
            whose = what = "train.start_from"
        raise InputError(
            f"{saved} is not the vocabulary of {whose}: {what} has changed since this run started. "
            "Give a new --workdir."
        )
    if warn is not None and before is None and given is None:
        for warning in caption_warnings(texts, config):
            if warning.level == "warning":
                warn(f"warning: {warning.text}")
    return vocabulary, Captions.encode(texts, vocabulary, config=config)


def _checked(units: TextUnits, saved: Path, config: DataConfig) -> TextUnits:
    found, expected = (units.name, units.normalisation), (config.units, config.normalisation)
    if found != expected:
        raise InputError(
            f"{saved} holds {' in '.join(found)}, but this run uses {' in '.join(expected)}. "
            "Give a new --workdir."
        )
    if isinstance(units, Pieces) and config.pieces_model is not None:
        file = Path(config.pieces_model).expanduser()
        if file.exists() and file.read_bytes() != units.model:
            raise InputError(
                f"data.pieces_model is '{config.pieces_model}', but this run started with another "
                f"model, which {saved} holds. Omit the option, or give a new --workdir."
            )
    return units
