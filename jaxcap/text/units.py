"""Split captions into words, characters or pieces of words, and join these again.

A model generates a caption unit by unit. Words are Penn Treebank tokens, as in papers on English
captions, or Unicode's words where those would lose letters. Characters are for scripts without
spaces between words. Pieces are for any language: frequent words are whole, rare words are split by
a SentencePiece model (Kudo and Richardson 2018, https://aclanthology.org/D18-2012/). That model is
given, or learned from the training captions by byte-pair encoding (Sennrich et al. 2016,
https://aclanthology.org/P16-1162/).

Captions are normalised and lower-cased first. NFC unifies composed and decomposed letters such as
é; NFKC also unifies compatibility forms such as fullwidth letters.
"""

from __future__ import annotations

import base64
import functools
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxcap.config import DataConfig
from jaxcap.files import read_bytes
from jaxcap.files.normal_form import normal_form
from jaxcap.messages.errors import InputError
from jaxcap.metrics.graphemes import graphemes
from jaxcap.metrics.lost_letters import loses_letters
from jaxcap.metrics.tokenize import tokenize
from jaxcap.text.unicode_words import is_punctuation, unicode_words

UNKNOWN = "<unk>"

_MISSING = (
    "splitting captions into pieces needs the package sentencepiece, which is not installed; "
    "run: pip install 'jaxcap[pieces]'"
)
_SPACE = "\u2581"  # SentencePiece's sign for a space
_LONGEST = 1 << 16  # bytes; SentencePiece skips longer captions in training
_MAX_MODEL = 1 << 25  # bytes; models of 250,000 pieces take 5 MB
_MAX_REPLACEMENT = 64  # bytes; the longest of NFKC, for U+FDFA, takes 33


def normalise(text: str, form: str) -> str:
    """Return the text in the Unicode normal form "NFC" or "NFKC", or unchanged for "none"."""
    return text if form == "none" else normal_form(form, text)  # type: ignore[arg-type]


def _plain(text: str, form: str) -> str:
    """Normalise and lower-case a text, collapse spaces, and replace lone surrogates."""
    text = normalise(normalise(text, form).lower(), form)
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(text.split())


Boundaries = Literal["treebank", "unicode"]
"""How captions are split into words: into Penn Treebank tokens, whatever becomes of the letters of
other scripts, as in old runs; or such captions at Unicode's word boundaries."""


@dataclass(frozen=True)
class Words:
    """Words without punctuation, joined by spaces.

    They are the scorer's Penn Treebank tokens. Captions from which the scorer's tokenizer drops
    letters are split at Unicode's word boundaries instead.
    """

    normalisation: str = "NFC"
    boundaries: Boundaries = "unicode"
    name: ClassVar[str] = "words"

    def split(self, caption: str) -> list[str]:
        """Split a caption; the result is empty if it is empty or only punctuation."""
        text = normalise(caption, self.normalisation)
        if self.boundaries == "treebank" or text.isascii():
            return tokenize(text)
        if loses_letters(text):
            return unicode_words(_plain(text, self.normalisation))
        return [word for word in tokenize(text) if word.isascii() or not is_punctuation(word)]

    def join(self, units: Sequence[str]) -> str:
        """Join units into text."""
        return " ".join(units)

    def clean(self, caption: str) -> str:
        """Return the caption as it is after splitting and joining."""
        return " ".join(self.split(caption))


WORDS = Words()
"""The default units."""
OLD_WORDS = Words(boundaries="treebank")
"""The units of runs that do not name them."""


@dataclass(frozen=True)
class Characters:
    """Grapheme clusters, including spaces and punctuation."""

    normalisation: str = "NFC"
    name: ClassVar[str] = "characters"

    def split(self, caption: str) -> list[str]:
        """Split a caption into units; a blank caption has none."""
        return graphemes(self.clean(caption))

    def join(self, units: Sequence[str]) -> str:
        """Join units into text."""
        return "".join(units)

    def clean(self, caption: str) -> str:
        """Return the caption as it is after splitting and joining."""
        return _plain(caption, self.normalisation)


@dataclass(frozen=True)
class Pieces:
    """Pieces of words from a SentencePiece model.

    Attributes:
      model: the contents of a `.model` file.
      normalisation: the Unicode normal form, "NFC", "NFKC" or "none".
    """

    model: bytes = field(repr=False)
    normalisation: str = "NFC"
    name: ClassVar[str] = "pieces"

    @classmethod
    def read(cls, path: Path, *, normalisation: str = "NFC") -> Pieces:
        """Read the model in a `.model` file.

        Raises:
          InputError: the file cannot be read or is not a SentencePiece model, or SentencePiece is
            not installed.
        """
        return cls(read_bytes(path, at_most=_MAX_MODEL), normalisation).checked(str(path))

    @classmethod
    def train(cls, captions: Iterable[str], *, size: int, normalisation: str = "NFC") -> Pieces:
        """Learn at most `size` pieces from captions by byte-pair encoding.

        The result is deterministic: equal captions in equal order give the same bytes.

        Raises:
          InputError: `size` is less than the number of different characters, the captions hold no
            text, or SentencePiece is not installed.
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
            raise InputError(
                f"No pieces can be learned from the training captions: {reason}"
            ) from error
        return cls(file.getvalue(), normalisation)

    def checked(self, where: str) -> Pieces:
        """Return `self` if the model is usable.

        Args:
          where: the file of the model, for error messages.

        Raises:
          InputError: this is not a SentencePiece model, it multiplies text, or SentencePiece is not
            installed.
        """
        library = _sentencepiece()
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        try:
            self._check_replacements(where)  # first, for the processor tests itself on some text
            size = self._processor.get_piece_size() if self.model else 0
        except (RuntimeError, DecodeError, UnicodeError):
            size = 0
        if not size:
            raise InputError(
                f"{where}: not a SentencePiece model, the .model file that spm_train and "
                f"sentencepiece {library.__version__} write."
            )
        return self

    def _check_replacements(self, where: str) -> None:
        """Refuse a model whose rules could multiply a text."""
        from sentencepiece.sentencepiece_model_pb2 import ModelProto

        model = ModelProto.FromString(self.model)
        rules = model.normalizer_spec.precompiled_charsmap
        texts = 4 + int.from_bytes(rules[:4], "little")  # they follow a trie, each before a NUL
        is_long = re.compile(rb"[^\0]{%d}" % (_MAX_REPLACEMENT + 1)).search(rules, texts)
        if is_long or len(model.trainer_spec.unk_surface) > _MAX_REPLACEMENT:
            raise InputError(
                f"{where}: this SentencePiece model writes more than {_MAX_REPLACEMENT} bytes for "
                "a character or an unknown piece, so that captions could fill the memory. Train it "
                "without such replacements."
            )
        if model.denormalizer_spec.precompiled_charsmap:
            raise InputError(
                f"{where}: this SentencePiece model has denormalization rules, which jaxcap does "
                "not support. Train it without them."
            )

    @functools.cached_property
    def _processor(self) -> Any:
        return _sentencepiece().SentencePieceProcessor(model_proto=self.model)

    def split(self, caption: str) -> list[str]:
        """Split a caption into units; a blank caption has none."""
        pieces: list[str] = self._processor.encode(self.clean(caption), out_type=str)
        return pieces

    def join(self, units: Sequence[str]) -> str:
        """Join units into text, as the model does."""
        # With a space before it, "<unk>" is not a piece of the model and remains unchanged.
        shown = [_SPACE + UNKNOWN if unit == UNKNOWN else unit for unit in units]
        text: str = self._processor.decode_pieces(shown)
        return text.replace(_SPACE, " ").strip()

    def clean(self, caption: str) -> str:
        """Return the caption as it is after splitting and joining.

        The model may apply its own normalisation after this one.
        """
        return _piece_text(caption, self.normalisation)


def _piece_text(caption: str, form: str) -> str:
    # SentencePiece cannot distinguish its sign for a space from a space.
    return _plain(caption.replace(_SPACE, " ").replace("\0", " "), form)


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise InputError(_MISSING) from error
    return sentencepiece


TextUnits = Words | Characters | Pieces


def create_units(config: DataConfig, captions: Callable[[], Iterable[str]]) -> TextUnits:
    """Create the units that `config` selects.

    Args:
      config: the section `data` of a configuration.
      captions: returns the training captions; called only if pieces are learned.

    Raises:
      InputError: the SentencePiece model is missing or invalid, or cannot be learned.
    """
    form = config.normalisation
    if config.units == "words":
        return Words(form)
    if config.units == "characters":
        return Characters(form)
    if config.pieces_model is None:
        return Pieces.train(captions(), size=config.vocabulary_size, normalisation=form)
    return Pieces.read(Path(config.pieces_model).expanduser(), normalisation=form)


@dataclass(frozen=True)
class StoredUnits:
    """The JSON values of text units.

    Attributes:
      units: the name of the units.
      normalisation: the Unicode normal form.
      boundaries: of words: how they are split; "treebank" in old runs, which do not record it.
      model: of pieces: the contents of the `.model` file in base 64.
    """

    units: Literal["words", "characters", "pieces"]
    normalisation: Literal["none", "NFC", "NFKC"]
    boundaries: Boundaries = "treebank"
    model: str | None = None


def units_to_json(units: TextUnits) -> dict[str, str]:
    """Return JSON values from which `units_from_json` restores the units."""
    values = {"units": units.name, "normalisation": units.normalisation}
    if isinstance(units, Words) and units.boundaries != "treebank":
        values["boundaries"] = units.boundaries
    if isinstance(units, Pieces):
        values["model"] = base64.b64encode(units.model).decode("ascii")
    return values


def units_from_json(stored: StoredUnits, *, where: str) -> TextUnits:
    """Restore the units that `units_to_json` described.

    Args:
      where: the file, for error messages.

    Raises:
      InputError: the model is damaged, or SentencePiece is needed but not installed.
    """
    if stored.units == "words":
        return Words(stored.normalisation, stored.boundaries)
    if stored.units == "characters":
        return Characters(stored.normalisation)
    try:
        model = base64.b64decode(stored.model or "", validate=True)
    except ValueError:
        model = b""
    return Pieces(model, stored.normalisation).checked(where)
