"""Which options are possible, alone and together, and what the stages of a training come to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container
from operator import attrgetter
from typing import Any

from jaxcap.config.conversion import from_dict
from jaxcap.config.sections import Config, SearchConfig, Stage, TrainConfig
from jaxcap.errors import InputError, did_you_mean

# What a number must be, whether it is that, and the options that it is asked of.
_BOUNDS: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    (
        "greater than 0 (and finite)",
        lambda x: 0 < x < math.inf,
        (
            "data.image_size",
            "data.captions_per_image",
            "data.min_count",
            "data.vocabulary_size",
            "decoder.hidden_size",
            "decoder.embedding_size",
            "decoder.attention_size",
            "decoder.heads",
            "train.batch_size",
            "train.epochs",
            "train.learning_rate",
            "train.clip_norm",
            "train.decay_rate",
            "train.decay_epochs",
            "train.accumulate",
            "train.samples",
            "train.coordinator_timeout",
            "train.log_every",
            "search.beam_size",
            "search.max_length",
            "search.groups",
            "search.samples",
            "search.temperature",
            "evaluation.batch_size",
        ),
    ),
    (
        "at least 0 (and finite)",
        lambda x: 0 <= x < math.inf,
        (
            "decoder.refiner_layers",
            "encoder.learning_rate_factor",
            "train.warmup_epochs",
            "train.weight_decay",
            "train.attention_penalty",
            "train.sampling_k",
            "train.sampling_c",
            "train.reward_cider",
            "train.reward_bleu",
            "train.save_every",
            "train.save_minutes",
            "train.patience",
            "train.seed",
            "search.n_best",
            "search.min_length",
            "search.length_penalty",
            "search.diversity",
            "search.top_k",
            "search.seed",
            "search.no_repeated_ngram",
        ),
    ),
    (
        "at least 0 and less than 1",
        lambda x: 0 <= x < 1,
        (
            "decoder.embedding_dropout",
            "decoder.feature_dropout",
            "decoder.output_dropout",
            "data.color_jitter",
            "train.label_smoothing",
            "train.momentum",
            "train.ema_decay",
        ),
    ),
    (
        "greater than 0 and at most 1 (1: no crop)",
        lambda x: 0 < x <= 1,
        ("data.crop_min_scale",),
    ),
    (
        "at least 0 and at most 1",
        lambda x: 0 <= x <= 1,
        ("train.sampling_floor",),
    ),
    (
        "greater than 0 and at most 1 (1: all words)",
        lambda x: 0 < x <= 1,
        ("search.top_p",),
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
    if config.data.pieces_model is not None and config.data.units != "pieces":
        raise InputError(
            f"data.pieces_model is '{config.data.pieces_model}', but data.units is "
            f"{config.data.units}; give --data.units pieces, or leave the model out."
        )
    if config.encoder.train_from is not None and not config.encoder.trainable:
        raise InputError(
            f"encoder.train_from is '{config.encoder.train_from}', but encoder.trainable is false: "
            "nothing of the encoder would learn. Leave one of the two out."
        )
    if config.encoder.cache_features:
        _check_features_stay(config)
    _check_methods(config)
    _check_search(config.search)
    for stage in stage_configs(config) if config.stages else ():
        validate(stage)
    return config


def stage_configs(config: Config) -> tuple[Config, ...]:
    """The configuration of each stage, in order; of a run without stages its own.

    Raises:
      InputError: a stage changes an option that is unknown, or the same for the whole run.
    """
    return tuple(
        _stage_config(config, stage, f"stages[{i}]") for i, stage in enumerate(config.stages)
    ) or (config,)


# What a stage may change: how parameters move and how images are augmented, not which they are.
_OF_A_STAGE = {
    "data": ("crop_min_scale", "flip", "color_jitter"),
    "train": (
        "optimizer",
        "learning_rate",
        "warmup_epochs",
        "schedule",
        "decay_rate",
        "decay_epochs",
        "momentum",
        "weight_decay",
        "clip_norm",
        "label_smoothing",
        "attention_penalty",
        "sampling",
        "sampling_k",
        "sampling_c",
        "sampling_floor",
        "sampling_words",
        "objective",
        "samples",
        "baseline",
        "reward_cider",
        "reward_bleu",
        "accumulate",
        "remat",
    ),
    "encoder": (
        "trainable",
        "train_from",
        "batch_stats",
        "learning_rate_factor",
        "dtype",
        "cache_features",
    ),
}


# Options of training that say how the data's captions are learnt, when they are off.
_OF_CROSS_ENTROPY: dict[str, Any] = {
    "label_smoothing": 0.0,
    "attention_penalty": 0.0,
    "sampling": "none",
}


def _stage_config(config: Config, stage: Stage, where: str) -> Config:
    sections: dict[str, Any] = {}
    for section in _OF_A_STAGE:
        options = getattr(stage, section)
        known = _OF_A_STAGE[section]
        for name in options:
            if name not in known:
                raise InputError(
                    f"{where}.{section}: a stage cannot change '{name}'."
                    f"{did_you_mean(name, known)} It may change {', '.join(known)}."
                )
        of_run = getattr(config, section)
        values = dataclasses.asdict(of_run)
        if options.get("objective") == "self_critical":
            values |= _OF_CROSS_ENTROPY  # not inherited; given to the stage, they are refused
        values |= options
        sections[section] = from_dict(type(of_run), values, where=f"{where}.{section}")
    if stage.epochs < 1:
        raise InputError(f"{where}.epochs is {stage.epochs}; it must be at least 1.")
    sections["train"] = dataclasses.replace(sections["train"], epochs=stage.epochs)
    return dataclasses.replace(config, **sections, stages=())


def _check_methods(config: Config) -> None:
    """Refuses options of training that contradict each other."""
    train = config.train
    if train.batch_size % train.accumulate:
        raise InputError(
            f"train.accumulate is {train.accumulate}, which does not divide the train.batch_size "
            f"of {train.batch_size}; give a number that does."
        )
    if train.attention_penalty and config.decoder.name == "lstm":
        raise InputError(
            f"train.attention_penalty is {train.attention_penalty}, but decoder.name is 'lstm', "
            "which has no attention; give --decoder.name attention, or no penalty."
        )
    if train.objective == "self_critical":
        _check_self_critical(train)
    decoder = config.decoder
    if decoder.name == "aoa" and decoder.attention_size % decoder.heads:
        raise InputError(
            f"decoder.heads is {decoder.heads}, which does not divide the decoder.attention_size "
            f"of {decoder.attention_size}; give a number that does."
        )
    k = train.sampling_k
    possible, needed = {
        "none": (True, ""),
        "linear": (0 <= k <= 1, "at least 0 and at most 1"),
        "exponential": (0 < k < 1, "greater than 0 and less than 1, such as 0.9999"),
        "inverse_sigmoid": (1 <= k < math.inf, "at least 1 (and finite), such as 1000"),
    }[train.sampling]
    if not possible:
        raise InputError(
            f"train.sampling_k is {k}; with train.sampling {train.sampling} it must be {needed}."
        )
    if train.sampling == "linear" and k == 1 and not train.sampling_c:
        raise InputError(
            "train.sampling is linear, but with train.sampling_k 1 and train.sampling_c 0 no word "
            "is ever the model's own; give a --train.sampling-c such as 0.0001."
        )


def _check_self_critical(train: TrainConfig) -> None:
    """Refuses what cannot be rewarded, and options that samples have no use for."""
    for option, off in _OF_CROSS_ENTROPY.items():
        if (found := getattr(train, option)) != off:
            raise InputError(
                f"train.{option} is {found}, but train.objective is self_critical, which learns "
                f"from no true words; give --train.{option.replace('_', '-')} {off}. (A stage that "
                'sets "objective" to "self_critical" does not inherit it.)'
            )
    if train.baseline == "mean" and train.samples < 2:
        raise InputError(
            "train.samples is 1, but train.baseline is mean, the mean of the other samples; give "
            "--train.samples 5, or --train.baseline greedy."
        )
    if not train.reward_cider and not train.reward_bleu:
        raise InputError(
            "train.reward_cider and train.reward_bleu are both 0, so no caption is better than "
            "another; give one of them a weight."
        )


_BEAMS = ("beam", "diverse")
_METHODS_OF: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("beam_size", "n_best", "length_normalisation", "length_penalty"), _BEAMS),
    **dict.fromkeys(("groups", "diversity"), ("diverse",)),
    **dict.fromkeys(("samples", "temperature", "top_k", "top_p", "seed"), ("sample",)),
}
"""The methods that heed an option of search; the others are heeded by all."""


def check_heeded(options: Container[str], search: SearchConfig) -> None:
    """Refuses options of `search` that were asked for and that it does not look at.

    Raises:
      InputError: with what would make them count.
    """
    for option, methods in _METHODS_OF.items():
        if option in options and search.method not in methods:
            raise InputError(
                f"search.{option} does nothing where search.method is '{search.method}'; leave it "
                f"out, or give the method {' or '.join(methods)} with it."
            )
    normalisation = search.length_normalisation
    if "length_penalty" in options and normalisation not in ("exponent", "gnmt"):
        raise InputError(
            "search.length_penalty does nothing where search.length_normalisation is "
            f"'{normalisation}'; leave it out."
        )
    if "n_best" in options and search.n_best > search.beam_size and not search.required_words:
        raise InputError(
            f"search.n_best is {search.n_best}, but search.beam_size is {search.beam_size}, and "
            f"each beam gives one caption; give {search.n_best} beams, or n_best 0, for all."
        )


def _check_search(search: SearchConfig) -> None:
    """Refuses options that contradict each other."""
    if search.min_length > search.max_length:
        raise InputError(
            f"search.min_length is {search.min_length}; it must be at most search.max_length, "
            f"which is {search.max_length}."
        )
    if search.method == "diverse" and search.beam_size % search.groups:
        raise InputError(
            f"search.groups is {search.groups}, which does not divide the search.beam_size of "
            f"{search.beam_size}; give a multiple of {search.groups} beams, or other groups."
        )
    if search.required_words and search.method != "beam":
        raise InputError(
            f"search.required_words needs search.method 'beam', not '{search.method}'; give "
            "that method, or require no words."
        )
    if len(search.required_words) > 4:
        raise InputError(
            f"search.required_words holds {len(search.required_words)} words; at most 4 can be "
            "required at once. Alternatives count as one: write them as 'dog|puppy'."
        )


def _check_features_stay(config: Config) -> None:
    """Refuses a cache of features that change from one epoch to the next."""
    crop, jitter = config.data.crop_min_scale, config.data.color_jitter
    moving = [
        (found, way_out)
        for moves, found, way_out in (
            (config.encoder.trainable, "encoder.trainable is true", "--encoder.no-trainable"),
            (config.data.flip, "data.flip is true", "--data.no-flip"),
            (crop < 1, f"data.crop_min_scale is {crop}", "--data.crop-min-scale 1"),
            (jitter > 0, f"data.color_jitter is {jitter}", "--data.color-jitter 0"),
        )
        if moves
    ]
    if moving:
        found, ways_out = zip(*moving, strict=True)
        raise InputError(
            "encoder.cache_features needs a frozen encoder and no augmentation, but "
            f"{' and '.join(found)}; give {' '.join(ways_out)}, or --encoder.no-cache-features."
        )
