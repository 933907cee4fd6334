"""Check options, alone and together, and resolve the stages of a training run."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Container
from typing import Any

from jaxcap.config.local_paths import check_path
from jaxcap.config.options import AppliesTo, PerStage, options_of
from jaxcap.config.schema import Config, DataConfig, SearchConfig, Stage, TrainConfig
from jaxcap.files.json_data import from_dict
from jaxcap.messages.errors import InputError, did_you_mean


def validate(config: Config) -> Config:
    """Return `config` if every value has its type, lies within its bounds and fits the others.

    Names that only a registry knows (the encoder, its stages, the data set) are looked up
    where they are used.

    Raises:
      InputError: names the option, its value, and what was expected.
    """
    config = from_dict(Config, dataclasses.asdict(config), where="config")
    _check_fields(config)
    for field in dataclasses.fields(config):
        if field.name != "stages":
            _check_fields(getattr(config, field.name), f"{field.name}.")
    buckets = config.data.length_buckets
    if not buckets or list(buckets) != sorted(set(buckets)):
        raise InputError(
            f"data.length_buckets is {buckets}; it must be a list of increasing lengths."
        )
    _check_mixture(config.data)
    if config.data.pieces_model is not None and config.data.units != "pieces":
        raise InputError(
            f"data.pieces_model is '{config.data.pieces_model}', but data.units is "
            f"{config.data.units}; give --data.units pieces, or leave the model out."
        )
    for option, path in (
        ("data.data_dir", config.data.data_dir),
        ("data.pieces_model", config.data.pieces_model),
        ("encoder.weights", config.encoder.weights),
        ("encoder.cache_dir", config.encoder.cache_dir),
        ("train.start_from", config.train.start_from),
    ):
        if path is not None:
            check_path(path, f"{option} is")
    if config.encoder.train_from is not None and not config.encoder.trainable:
        raise InputError(
            f"encoder.train_from is '{config.encoder.train_from}', but encoder.trainable is false: "
            "no stage of the encoder is trained. Leave one of the two out."
        )
    if config.encoder.cache_features:
        _check_features_stay(config)
    _check_methods(config)
    _check_search(config.search)
    for stage in stage_configs(config) if config.stages else ():
        validate(stage)
    return config


def _check_fields(section: Any, prefix: str = "") -> None:
    """Refuse values outside the bounds that their fields declare."""
    for name, option in options_of(type(section)).items():
        value = getattr(section, name)
        if option.bounds is not None and not option.bounds.accept(value):
            subject = "each must be" if isinstance(value, tuple) else "it must be"
            raise InputError(f"{prefix}{name} is {value}; {subject} {option.bounds}.")
        if option.max_items is not None and len(value) > option.max_items:
            raise InputError(
                f"{prefix}{name} has {len(value)} elements; at most {option.max_items} are allowed."
            )


def stage_configs(config: Config) -> tuple[Config, ...]:
    """Return the configuration of each stage, in order; `(config,)` for a run without stages.

    Raises:
      InputError: a stage changes an option that is unknown, or fixed for the whole run.
    """
    return tuple(
        _stage_config(config, stage, f"stages[{i}]") for i, stage in enumerate(config.stages)
    ) or (config,)


def _check_mixture(data: DataConfig) -> None:
    """Refuse data sets that are named twice, and weights that do not fit them."""
    names, weights = data.names, data.weights
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(
            f"data.mixed_with is {data.mixed_with}, but '{twice[0]}' is named twice, data.name "
            "included; name each data set once, and raise its entry in data.weights."
        )
    if weights and len(weights) != len(names):
        raise InputError(
            f"data.weights is {weights}; expected {len(names)} numbers, one for each of "
            f"{', '.join(names)}, or none."
        )
    if weights and not any(weights):
        raise InputError(
            f"data.weights is {weights}, so no data set is read; give one of {', '.join(names)} a "
            "weight above 0."
        )


def _cross_entropy_options(train: TrainConfig) -> dict[str, Any]:
    """Return the options that only cross-entropy has, with the values that turn them off."""
    only = AppliesTo("objective", ("cross_entropy",))
    options = options_of(type(train)).values()
    return {each.name: each.default for each in options if each.applies_to == only}


def _stage_config(config: Config, stage: Stage, where: str) -> Config:
    _check_fields(stage, f"{where}.")
    sections: dict[str, Any] = {}
    for section in ("data", "train", "encoder", "decoder"):
        overrides, base = getattr(stage, section), getattr(config, section)
        known = [
            name for name, option in options_of(type(base)).items() if PerStage in option.markers
        ]
        for name in overrides:
            if name not in known:
                raise InputError(
                    f"{where}.{section}: a stage cannot change '{name}'."
                    f"{did_you_mean(name, known)} It may change {', '.join(known)}."
                )
        values = dataclasses.asdict(base)
        if overrides.get("objective", "cross_entropy") != "cross_entropy":
            # Not inherited from the run; the stage itself may not set them.
            values |= _cross_entropy_options(base)
        sections[section] = from_dict(type(base), values | overrides, where=f"{where}.{section}")
    sections["train"] = dataclasses.replace(sections["train"], epochs=stage.epochs)
    return dataclasses.replace(config, **sections, stages=())


def _check_methods(config: Config) -> None:
    """Refuse options of training that contradict each other."""
    train = config.train
    if train.batch_size % train.accumulate:
        raise InputError(
            f"train.accumulate is {train.accumulate}, which does not divide the train.batch_size "
            f"of {train.batch_size}; give a number that does."
        )
    if train.extend_vocabulary and train.start_from is None:
        raise InputError(
            "train.extend_vocabulary is true, but train.start_from names no captioner with a "
            "vocabulary to extend; give --train.start-from RUN, or leave the option out."
        )
    if train.objective != "cross_entropy":
        _check_cross_entropy_is_off(train)
    if train.objective == "self_critical":
        _check_self_critical(train)
    if train.objective == "word_detection" and not config.recognition.words:
        raise InputError(
            "train.objective is word_detection, but recognition.words is 0: there is no detector."
            " Give --recognition.words 20."
        )
    if config.recognition.trainable:
        _check_published_encoder(config)
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
            "train.sampling is linear, but with train.sampling_k 1 and train.sampling_c 0 the "
            "model never reads its own words; give a --train.sampling-c such as 0.0001."
        )


def _check_published_encoder(config: Config) -> None:
    """Refuse to train the recogniser's stages without the published encoder to compare them with.

    Stages are checked with the whole run.
    """
    if config.recognition.branch is None:
        raise InputError(
            "recognition.trainable is true, but recognition.branch is None: the recogniser has no "
            "stages of its own. Give --recognition.branch, or --recognition.no-trainable."
        )
    stages = stage_configs(config)
    last = max(
        (i for i, s in enumerate(stages) if s.train.objective == "word_detection"), default=-1
    )
    if last < 0:
        return
    why = None
    if config.train.start_from is not None:
        why = "train.start_from names a captioner, whose encoder may be another"
    elif config.encoder.weights is None:
        why = "encoder.weights is None"
    elif any(s.encoder.trainable and s.train.objective != "word_detection" for s in stages[:last]):
        why = f"a stage before stages[{last}] trains the encoder"
    if why is not None:
        raise InputError(
            "recognition.trainable is true, which keeps the predictions of the published "
            f"classifier, but {why}. Detect words first, from published weights, or give "
            "--recognition.no-trainable."
        )


def _check_cross_entropy_is_off(train: TrainConfig) -> None:
    """Refuse options of the cross-entropy objective with another one."""
    for option, off in _cross_entropy_options(train).items():
        if (found := getattr(train, option)) != off:
            raise InputError(
                f"train.{option} is {found}, but train.objective is {train.objective}, which does "
                f"not use it; give --train.{option.replace('_', '-')} {off}. (A stage that "
                f'sets "objective" to "{train.objective}" does not inherit it.)'
            )


def _check_self_critical(train: TrainConfig) -> None:
    """Refuse rewards that are always equal."""
    if train.baseline == "mean" and train.samples < 2:
        raise InputError(
            "train.samples is 1, but train.baseline is mean, the mean of the other samples; give "
            "--train.samples 5, or --train.baseline greedy."
        )
    if not train.reward_cider and not train.reward_bleu:
        raise InputError(
            "train.reward_cider and train.reward_bleu are both 0, so all captions have the same "
            "reward; give one of them a weight."
        )


def check_heeded(options: Container[str], search: SearchConfig) -> None:
    """Refuse options that a user asked for and that have no effect on this search.

    Args:
      options: the names of the options that the user gave.

    Raises:
      InputError: with the option, and the methods that use it.
    """
    for name, option in options_of(SearchConfig).items():
        scope = option.applies_to
        if name in options and scope is not None and search.method not in scope.values:
            raise InputError(
                f"search.{name} has no effect with search.method '{search.method}'; leave it out, "
                f"or give the method {' or '.join(scope.values)}."
            )
    normalisation = search.length_normalisation
    if "length_penalty" in options and normalisation not in ("exponent", "gnmt"):
        raise InputError(
            "search.length_penalty has no effect with search.length_normalisation "
            f"'{normalisation}'; leave it out, or give exponent or gnmt."
        )
    for name in ("guide_words", "guide_bonus"):
        if name in options and not search.guide:
            raise InputError(
                f"search.{name} has no effect without search.guide; leave it out, or give a "
                "probability as the guide, such as 0.5."
            )
    constrained = search.required_words or search.guide
    if "n_best" in options and search.n_best > search.beam_size and not constrained:
        raise InputError(
            f"search.n_best is {search.n_best}, but search.beam_size is {search.beam_size}, and "
            f"each beam gives one caption; give {search.n_best} beams, or n_best 0 for one caption "
            "per beam."
        )


def _check_search(search: SearchConfig) -> None:
    """Refuse options of search that contradict each other."""
    if search.min_length > search.max_length:
        raise InputError(
            f"search.min_length is {search.min_length}; it must be at most search.max_length, "
            f"which is {search.max_length}."
        )
    if search.method == "diverse" and search.beam_size % search.groups:
        raise InputError(
            f"search.groups is {search.groups}, which does not divide the search.beam_size of "
            f"{search.beam_size}; give a multiple of {search.groups} as the beam "
            "size, or another number of groups."
        )
    if search.required_words and search.method != "beam":
        raise InputError(
            f"search.required_words needs search.method 'beam', not '{search.method}'; give "
            "that method, or leave the words out."
        )


def _check_features_stay(config: Config) -> None:
    """Refuse to cache features that change from one epoch to the next."""
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
