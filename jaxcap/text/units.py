"""What a caption is made of: words, characters, or pieces of words; and text again.

A model writes a caption unit by unit. Words are the Penn Treebank's, as in papers on English
captions. Characters are for scripts that set no spaces between words, pieces for any language:
frequent words whole, rare ones in parts, by a SentencePiece model (Kudo and Richardson 2018,
https://aclanthology.org/D18-2012/), either a given one or one that learns by byte-pair encoding
(Sennrich et al. 2016, https://aclanthology.org/P16-1162/) from the training captions.

What is split is lower-case. Before that, Unicode normalisation makes one of the ways to write one
and the same letter: NFC for an é in one part or two, NFKC for letters of full and half width, too.
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jaxcap.config import DataConfig
from jaxcap.errors import InputError
from jaxcap.metrics.graphemes import graphemes
from jaxcap.metrics.tokenize import tokenize

UNKNOWN = "<unk>"

_MISSING = (
    "captions in pieces need the package sentencepiece, which is not installed; "
    "run: pip install 'jaxcap[pieces]'"
)
_SPACE = "\u2581"  # what SentencePiece writes for a space
_LONGEST = 1 << 16  # bytes; SentencePiece leaves longer captions out of training


def normalise(text: str, form: str) -> str:
    """The text in a normal form of Unicode: "NFC", "NFKC", or "none" for as it is."""
    return text if form == "none" else unicodedata.normalize(form, text)  # type: ignore[arg-type]


def _plain(text: str, form: str) -> str:
    """Lower case, normalised, single spaces, and characters only that can be written down."""
    text = normalise(normalise(text, form).lower(), form)
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(text.split())


@dataclass(frozen=True)
class Words:
    """Penn Treebank tokens, without punctuation; joined by spaces."""

    normalisation: str = "NFC"
    name: ClassVar[str] = "words"

    def split(self, caption: str) -> list[str]:
        """The units of a caption; none for one that is empty or all punctuation."""
        return tokenize(normalise(caption, self.normalisation))

    def join(self, units: Sequence[str]) -> str:
        """Text of units."""
        return " ".join(units)

    def clean(self, caption: str) -> str:
        """What is left of a caption when it is split and joined again."""
        return " ".join(self.split(caption))


WORDS = Words()
"""What captions are made of unless told otherwise."""


@dataclass(frozen=True)
class Characters:
    """Characters as readers see them, with all marks on them; spaces and punctuation are some."""

    normalisation: str = "NFC"
    name: ClassVar[str] = "characters"

    def split(self, caption: str) -> list[str]:
        """The units of a caption; none for one that is empty or all spaces."""
        return graphemes(self.clean(caption))

    def join(self, units: Sequence[str]) -> str:
        """Text of units."""
        return "".join(units)

    def clean(self, caption: str) -> str:
        """What is left of a caption when it is split and joined again."""
        return _plain(caption, self.normalisation)


@dataclass(frozen=True)
class Pieces:
    """Pieces of words, by a SentencePiece model.

    Attributes:
      model: the whole content of a `.model` file.
    """

    model: bytes = field(repr=False)
    normalisation: str = "NFC"
    name: ClassVar[str] = "pieces"

    @classmethod
    def read(cls, path: Path, *, normalisation: str = "NFC") -> Pieces:
        """Takes the model of a `.model` file.

        Raises:
          InputError: no such file, no such model, or SentencePiece is not installed.
        """
        try:
            pieces = cls(path.read_bytes(), normalisation)
        except OSError as error:
            raise InputError(f"{path}: no readable SentencePiece model ({error.strerror}).") from (
                error
            )
        return pieces.checked(str(path))

    @classmethod
    def train(cls, captions: Iterable[str], *, size: int, normalisation: str = "NFC") -> Pieces:
        """Learns at most `size` pieces from captions, by byte-pair encoding.

        The same captions in the same order give the same model, byte for byte.

        Raises:
          InputError: fewer pieces than the captions have characters, no text, or SentencePiece
            is not installed.
        """
        library = _sentencepiece()
        texts = (text for each in captions if (text := _piece_text(each, normalisation)))
        file = io.BytesIO()
        try:
            library.SentencePieceTrainer.train(
                sentence_iterator=texts,
                model_writer=file,
                model_type="bpe",
                vocab_size=size,
                hard_vocab_limit=False,
                character_coverage=1.0,
                normalization_rule_name="identity",
                max_sentence_length=_LONGEST,
                bos_id=-1,
                eos_id=-1,
                num_threads=1,
                minloglevel=3,
            )
        except RuntimeError as error:
            if match := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
                raise InputError(
                    f"data.vocabulary_size is {size}, but the training captions hold "
                    f"{int(match[1]) - 1} different characters, each of which is a piece; give at "
                    f"least {match[1]} (some thousands are usual)."
                ) from error
            reason = str(error).rpartition("] ")[2].strip() or str(error)
            raise InputError(f"No pieces can be learnt from the training captions: {reason}") from (
                error
            )
        return cls(file.getvalue(), normalisation)

    def checked(self, where: str) -> Pieces:
        """Itself, if the model can be used.

        Args:
          where: the file that holds it, for the message.
        """
        library = _sentencepiece()
        try:
            size = self._processor.get_piece_size() if self.model else 0
        except RuntimeError:
            size = 0
        if not size:
            raise InputError(
                f"{where}: no SentencePiece model (a .model file, as spm_train and "
                f"sentencepiece {library.__version__} write it)."
            )
        return self

    @functools.cached_property
    def _processor(self) -> Any:
        return _sentencepiece().SentencePieceProcessor(model_proto=self.model)

    def split(self, caption: str) -> list[str]:
        """The units of a caption; none for one that is empty or all spaces."""
        pieces: list[str] = self._processor.encode(self.clean(caption), out_type=str)
        return pieces

    def join(self, units: Sequence[str]) -> str:
        """Text of units, as the model joins them."""
        # Spelled so, a piece is no piece of the model, and stays as it is.
        shown = [_SPACE + UNKNOWN if unit == UNKNOWN else unit for unit in units]
        text: str = self._processor.decode_pieces(shown)
        return text.replace(_SPACE, " ").strip()

    def clean(self, caption: str) -> str:
        """What is left of a caption when it is split and joined again.

        A given model may have a normalisation of its own, which comes after this one.
        """
        return _piece_text(caption, self.normalisation)


def _piece_text(caption: str, form: str) -> str:
    # Its own sign for spaces could not be told from a space.
    return _plain(caption.replace(_SPACE, " ").replace("\0", " "), form)


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise InputError(_MISSING) from error
    return sentencepiece


TextUnits = Words | Characters | Pieces


def create_units(config: DataConfig, captions: Callable[[], Iterable[str]]) -> TextUnits:
    """The units that `config` asks for.

    Args:
      captions: gives the training captions, in case that pieces are to be learnt from them.

    Raises:
      InputError: the model of the pieces is missing or faulty, or none can be learnt.
    """
    form = config.normalisation
    if config.units == "words":
        return Words(form)
    if config.units == "characters":
        return Characters(form)
    if config.pieces_model is None:
        return Pieces.train(captions(), size=config.vocabulary_size, normalisation=form)
    return Pieces.read(Path(config.pieces_model).expanduser(), normalisation=form)


def units_to_json(units: TextUnits) -> dict[str, str]:
    """All that it takes to have the same units again."""
    values = {"units": units.name, "normalisation": units.normalisation}
    if isinstance(units, Pieces):
        values["model"] = base64.b64encode(units.model).decode("ascii")
    return values


def units_from_json(values: Any, *, where: str) -> TextUnits:
    """Reads what `units_to_json` gave.

    Args:
      values: JSON values; None, as in runs from before there was a choice, means words.
      where: the file, for messages.

    Raises:
      InputError: anything else, or SentencePiece is needed and not installed.
    """
    if values is None:
        return WORDS
    try:
        name, form = values["units"], values["normalisation"]
        if form not in ("none", "NFC", "NFKC"):
            raise ValueError(form)
        if name in ("words", "characters"):
            return Words(form) if name == "words" else Characters(form)
        if name != "pieces":
            raise ValueError(name)
        pieces = Pieces(base64.b64decode(values["model"], validate=True), form)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise InputError(
            f"{where}: no readable units of text ({error!r}); expected words, characters or "
            "pieces, and their normalisation."
        ) from error
    return pieces.checked(where)
