"""Create the vocabulary of the training captions, and encode them."""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from jaxcap.config import DataConfig
from jaxcap.data.captions import Captions, SplitCaptions, split_captions
from jaxcap.data.pipeline import Source, all_captions
from jaxcap.datasets.inspection import caption_warnings
from jaxcap.datasets.records import Records
from jaxcap.files import cache_dir
from jaxcap.messages.errors import InputError
from jaxcap.storage.program_cache import Store, digest_of_sources
from jaxcap.text.units import Pieces, TextUnits, create_units, units_to_json
from jaxcap.text.vocabulary import Vocabulary

_KEPT = 16
"""Data sets with their captions split, in the user's cache; a million images take 270 MB."""


def training_text(
    sources: Sequence[Source],
    config: DataConfig,
    *,
    saved: Path,
    given: Vocabulary | None = None,
    extend: bool = False,
    always: Collection[str] = (),
    warn: Callable[[str], None] | None = None,
) -> tuple[Vocabulary, Captions]:
    """Create the vocabulary of all training splits together, and encode their captions.

    Args:
      sources: the training split of each data set.
      config: describes the vocabulary and the form of the captions.
      saved: the vocabulary file of the run. If it exists, the data must still give the same.
      given: a vocabulary to use in place of the captions' own.
      extend: append the frequent words of the captions that `given` lacks.
      always: words that enter the vocabulary, however rare, if a caption has them.
      warn: called with warnings about the captions, in a new run without `given`.

    Returns:
      The vocabulary, and the captions of all sources, one after the other.

    Raises:
      InputError: no word is frequent enough, the piece model is missing or invalid, or the data
        set or the piece model has changed since the run started.
    """

    def captions() -> Iterator[list[str]]:
        return itertools.chain.from_iterable(map(all_captions, sources))

    before = Vocabulary.load(saved) if saved.exists() else None
    if before is None and given is not None:
        units = given.units
    elif before is None:
        units = create_units(config, lambda: itertools.chain.from_iterable(captions()))
    else:
        # Pieces are not learned again, and their model file need not exist any more.
        units = _checked(before.units, saved, config)
    texts = _split_once(sources, units)
    if given is None:
        vocabulary = Vocabulary.from_counts(
            texts.counts(),
            min_count=config.min_count,
            max_words=config.max_words,
            always=always,
            units=units,
        )
    else:
        vocabulary = given
        if extend:
            vocabulary = given.extended(texts.counts(), min_count=config.min_count, always=always)
    if before is not None and before != vocabulary:
        names = " and ".join(f"'{name}'" for name in config.names)
        whose, what = f"the training split of {names}", "the data set"
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


def _split_once(sources: Sequence[Source], units: TextUnits) -> SplitCaptions:
    """Split the captions of all sources, or read the result of an earlier run on the same files.

    Reading a million records and splitting their captions takes minutes.
    """

    def split() -> SplitCaptions:
        return split_captions(itertools.chain.from_iterable(map(all_captions, sources)), units)

    directory = cache_dir("captions")
    prepared = [source.identity for source in sources if isinstance(source, Records)]
    if directory is None or len(prepared) < len(sources):
        return split()
    rules = digest_of_sources("text", "metrics"), unicodedata.unidata_version
    facts = repr((prepared, units_to_json(units), rules))
    store, key = Store(directory, _KEPT), hashlib.sha256(facts.encode()).hexdigest()
    if (content := store.get(key)) is not None:
        return SplitCaptions.from_bytes(content)
    texts = split()
    store.put(key, texts.to_bytes())
    return texts


def _checked(units: TextUnits, saved: Path, config: DataConfig) -> TextUnits:
    found, expected = (units.name, units.normalisation), (config.units, config.normalisation)
    if found != expected:
        raise InputError(
            f"{saved} holds {' in '.join(found)}, but this run uses {' in '.join(expected)}. "
            "Give a new --workdir."
        )
    if isinstance(units, Pieces) and config.pieces_model is not None:
        file = Path(config.pieces_model).expanduser()
        if file.exists() and Pieces.read(file).model != units.model:
            raise InputError(
                f"data.pieces_model is '{config.pieces_model}', but this run started with another "
                f"model, which {saved} holds. Omit the option, or give a new --workdir."
            )
    return units
