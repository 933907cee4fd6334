"""One experiment, written down: frozen, typed dataclasses that load, override and save.

A file in `configs/` builds a `Config`; the command line overrides single fields of it; the
run keeps the resolved whole as `config.json`, from which alone the model is built again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import runpy
import traceback
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeVar

from jaxcap.errors import InputError, did_you_mean
from jaxcap.files import write_text

T = TypeVar("T")


@dataclass(frozen=True)
class DataConfig:
    """Which pictures and captions, and the form in which they reach the model."""

    name: str = "flickr8k"
    """A data set built by `jaxcap prepare`."""
    data_dir: str | None = None
    """Where prepared data sets lie; default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    image_size: int = 224
    """Side in pixels of the square that every image is stretched to."""
    captions_per_image: int = 5
    """The axis N: captions of one image that are trained on together."""
    min_count: int = 5
    """A word seen less often than this in the training split becomes <unk>."""
    length_buckets: tuple[int, ...] = (16, 20, 24, 32)
    """Token lengths that batches are padded to; captions are cut at the longest. With more than
    one, images of similar caption length share a batch."""
    crop_min_scale: float = 1.0
    """Augmentation: smallest share of the area a random crop keeps; 1 means no crop."""
    flip: bool = False
    """Augmentation: mirror half of the images."""

    @property
    def directory(self) -> Path | None:
        """`data_dir` as a path."""
        return None if self.data_dir is None else Path(self.data_dir).expanduser()


@dataclass(frozen=True)
class EncoderConfig:
    """The convolutional network, and whether it learns."""

    name: str = "resnet50"
    """An architecture; an unknown name lists them."""
    weights: str | None = None
    """"imagenet", an installed weight package's name, a weight file, or none (random)."""
    trainable: bool = True
    """False keeps parameters and batch statistics bit-identical."""
    train_from: str | None = None
    """The first stage that learns, such as stage4; those before it are frozen, parameters and
    batch statistics, bit for bit. None: all learn. An unknown name lists the encoder's stages."""
    batch_stats: Literal["trained", "frozen"] = "trained"
    """What learning stages normalise by: the batch, updating the stored statistics; or the stored
    ones, which then stay bit-identical (usual for small batches and published weights)."""
    learning_rate_factor: float = 1.0
    """The encoder's learning rate relative to the decoder's. 0 is not frozen: batch statistics
    still follow the data, and all is computed as if it learned."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the encoder computes in. Parameters, statistics, checkpoints, the decoder and the
    features given to it are float32 in any case. bfloat16 keeps two to three digits, and is for
    GPU and TPU: on a CPU it is no faster."""
    cache_features: bool = False
    """Of a frozen encoder, without augmentation: compute the features of each image once, keep
    them on disk, and train the decoder from there. Losses are the same."""
    cache_dir: str | None = None
    """Where features are kept; default $XDG_CACHE_HOME/jaxcap/features, else
    ~/.cache/jaxcap/features. What lies there may be deleted at any time."""


@dataclass(frozen=True)
class DecoderConfig:
    """The language model on top of the image features."""

    name: Literal["attention", "lstm"] = "attention"
    """Show, Attend and Tell (Xu et al. 2015), or Show and Tell (Vinyals et al. 2015)."""
    hidden_size: int = 512
    """H, width of the LSTM."""
    embedding_size: int = 512
    """E, width of the word embeddings."""
    attention_size: int = 512
    """A, width of the projected features and of the space they are scored in."""
    scoring: Literal["additive", "dot"] = "additive"
    """How attention compares state and features: Bahdanau's MLP or a scaled dot product."""
    embedding_dropout: float = 0.0
    feature_dropout: float = 0.0
    output_dropout: float = 0.5


@dataclass(frozen=True)
class TrainConfig:
    """How the parameters move."""

    batch_size: int = 32
    """B, images per step; each brings all its captions."""
    epochs: int = 10
    learning_rate: float = 1e-3
    """Peak of the schedule: linear warm-up, then cosine decay to zero."""
    warmup_epochs: float = 1.0
    weight_decay: float = 1e-4
    """AdamW's; on matrices only, not on biases and normalisation."""
    clip_norm: float = 5.0
    """Global norm that gradients are clipped to."""
    label_smoothing: float = 0.0
    seed: int = 0
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""


@dataclass(frozen=True)
class SearchConfig:
    """How captions are decoded in evaluation."""

    beam_size: int = 3
    max_length: int = 24
    """Longest caption, in words."""
    length_penalty: float = 1.0
    """Exponent a of score = log p / length**a: 0 sums log probabilities, 1 averages them."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is looked at after every epoch."""

    split: str = "dev"
    metric: str = "CIDEr-D"
    """The score that decides which checkpoint is best (higher is better)."""
    batch_size: int = 50


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


# What a number must be, whether it is that, and the options that it is asked of.
_BOUNDS: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    (
        "greater than 0 (and finite)",
        lambda x: 0 < x < math.inf,
        (
            "data.image_size",
            "data.captions_per_image",
            "data.min_count",
            "decoder.hidden_size",
            "decoder.embedding_size",
            "decoder.attention_size",
            "train.batch_size",
            "train.epochs",
            "train.learning_rate",
            "train.clip_norm",
            "train.log_every",
            "search.beam_size",
            "search.max_length",
            "evaluation.batch_size",
        ),
    ),
    (
        "at least 0 (and finite)",
        lambda x: 0 <= x < math.inf,
        (
            "encoder.learning_rate_factor",
            "train.warmup_epochs",
            "train.weight_decay",
            "search.length_penalty",
        ),
    ),
    (
        "at least 0 and less than 1",
        lambda x: 0 <= x < 1,
        (
            "decoder.embedding_dropout",
            "decoder.feature_dropout",
            "decoder.output_dropout",
            "train.label_smoothing",
        ),
    ),
    (
        "greater than 0 and at most 1 (1: no crop)",
        lambda x: 0 < x <= 1,
        ("data.crop_min_scale",),
    ),
)


def validate(config: Config) -> Config:
    """Returns `config` when every value is of its type and possible; else `InputError`.

    Names that only a registry knows (the encoder, its stages, the data set) are looked up
    where they are used.
    """
    config = from_dict(Config, dataclasses.asdict(config), where="config")
    for requirement, holds, options in _BOUNDS:
        for option in options:
            value = attrgetter(option)(config)
            if not holds(value):
                raise InputError(f"{option} is {value}; it must be {requirement}.")
    buckets = config.data.length_buckets
    if not buckets or list(buckets) != sorted(set(buckets)) or buckets[0] < 2:
        raise InputError(
            f"data.length_buckets is {buckets}; it must be rising lengths of at least 2."
        )
    if config.encoder.train_from is not None and not config.encoder.trainable:
        raise InputError(
            f"encoder.train_from is '{config.encoder.train_from}', but encoder.trainable is false: "
            "nothing of the encoder would learn. Leave one of the two out."
        )
    if config.encoder.cache_features:
        _check_features_stay(config)
    return config


def _check_features_stay(config: Config) -> None:
    """Refuses a cache of features that change from one epoch to the next."""
    crop = config.data.crop_min_scale
    moving = [
        (found, way_out)
        for moves, found, way_out in (
            (config.encoder.trainable, "encoder.trainable is true", "--encoder.no-trainable"),
            (config.data.flip, "data.flip is true", "--data.no-flip"),
            (crop < 1, f"data.crop_min_scale is {crop}", "--data.crop-min-scale 1"),
        )
        if moves
    ]
    if moving:
        found, ways_out = zip(*moving, strict=True)
        raise InputError(
            "encoder.cache_features needs a frozen encoder and no augmentation, but "
            f"{' and '.join(found)}; give {' '.join(ways_out)}, or --encoder.no-cache-features."
        )


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as nested dictionaries of JSON types."""
    result: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return result


def from_dict(cls: type[T], values: Any, *, where: str) -> T:
    """Builds a configuration dataclass from JSON values, checking names and types.

    Args:
      cls: the dataclass, whose fields may be dataclasses themselves.
      values: nested dictionaries; absent fields take their defaults.
      where: the file or option named in errors.

    Raises:
      InputError: a field that does not exist (the nearest is suggested), or a wrong type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected a table of options, found {values!r}.")
    hints = typing.get_type_hints(cls)
    known: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise InputError(
                f"{where}: there is no option '{name}'.{did_you_mean(name, hints)} "
                f"Known: {', '.join(hints)}."
            )
        known[name] = _typed(hints[name], value, where=f"{where}.{name}")
    return cls(**known)


def _typed(hint: Any, value: Any, *, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where=where)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (h for h in arguments if h is not type(None))
        return _typed(hint, value, where=where)
    if origin is Literal:
        if value not in arguments:
            raise InputError(
                f"{where} is {value!r}; it must be one of {', '.join(map(repr, arguments))}."
                f"{did_you_mean(str(value), arguments)}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} is {value!r}; expected a list of {arguments[0].__name__}.")
        return tuple(_typed(arguments[0], v, where=f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(
            f"{where} is {value!r} ({type(value).__name__}); expected {hint.__name__}."
        )
    return value


# Where data and features lie, and whether they are computed anew, may change in between.
_SAME_EXPERIMENT = ("data.data_dir", "encoder.cache_dir", "encoder.cache_features")


def differences(found: Config, expected: Config) -> list[str]:
    """Lines `option: found, expected` for every field that differs, but for `_SAME_EXPERIMENT`."""
    lines = []
    for section, values in to_dict(found).items():
        for name, value in values.items():
            other = to_dict(expected)[section][name]
            if value != other and f"{section}.{name}" not in _SAME_EXPERIMENT:
                lines.append(f"{section}.{name}: {value!r}, expected {other!r}")
    return lines


def load_config_file(path: Path) -> Config:
    """Runs a file of `configs/` and returns its `CONFIG`.

    Raises:
      InputError: no such file, no `CONFIG` in it, an unknown option, or a wrong type.
    """
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.py")])
        raise InputError(f"{path}: there is no such configuration file.{near}")
    try:
        config = runpy.run_path(str(path)).get("CONFIG")
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: {error.msg}.") from error
    except Exception as error:  # the file is the user's, and so is whatever goes wrong in it
        raise InputError(f"{path}{_line_in(path, error)}: {_unknown_option(error)}") from error
    if not isinstance(config, Config):
        raise InputError(f"{path}: it must define CONFIG = jaxcap.config.Config(...).")
    try:
        return validate(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _line_in(path: Path, error: Exception) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _unknown_option(error: Exception) -> str:
    """The error in words; for an option that a section does not have, with those it has."""
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    options = next((c for c in _SECTIONS if match and c.__name__ == match[1]), None)
    if match is None or options is None:
        return f"{type(error).__name__}: {error}"
    known = [f.name for f in dataclasses.fields(options)]
    return (
        f"{match[1]} has no option '{match[2]}'.{did_you_mean(match[2], known)} "
        f"Known: {', '.join(known)}."
    )


_SECTIONS = (
    Config,
    DataConfig,
    EncoderConfig,
    DecoderConfig,
    TrainConfig,
    SearchConfig,
    EvaluationConfig,
)


def save_config(config: Config, path: Path) -> None:
    """Writes the whole configuration as JSON."""
    write_text(path, json.dumps(to_dict(config), indent=2) + "\n")


def load_config(path: Path) -> Config:
    """Reads what `save_config` wrote; `InputError` for anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no readable configuration ({error}).") from error
    return validate(from_dict(Config, values, where=str(path)))
