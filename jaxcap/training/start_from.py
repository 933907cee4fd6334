"""Start training from another captioner."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxcap.captioning.loaded_model import LoadedModel, load
from jaxcap.config import Config
from jaxcap.messages.errors import InputError, within
from jaxcap.model.captioner import create_captioner, variable_shapes
from jaxcap.text.vocabulary import UNK, Vocabulary

_SHARE = 0.01
"""What new words take of the probability of `<unk>`."""


def load_start(config: Config) -> LoadedModel | None:
    """Load the captioner that `train.start_from` names, or return None without one.

    Raises:
      InputError: there is no captioner, or its parameters or text units differ from those that
        `config` describes.
    """
    name = config.train.start_from
    if name is None:
        return None
    with within("train.start_from"):
        run = load(Path(name).expanduser())
    found, expected = run.config, config
    if found.data.units != expected.data.units:
        raise InputError(
            f"train.start_from: {name} writes captions in {found.data.units}, but data.units is "
            f"{expected.data.units}. Give --data.units {found.data.units}."
        )
    size = expected.data.image_size
    model = create_captioner(
        recognising_as(config, found), len(run.vocabulary), words=run.vocabulary.words
    )
    shapes = variable_shapes(model, image_size=size)
    if _shapes(shapes) != _shapes(run.variables):
        options = _model_options(found)
        differing = [
            f"{option} is {value!r} here and {options[option]!r} there"
            for option, value in _model_options(expected).items()
            if value != options[option]
        ]
        raise InputError(
            f"train.start_from: {name} does not have the parameters that this configuration "
            f"describes: {'; '.join(differing)}. Give the same options as there."
        )
    return run


def extend_variables(start: LoadedModel, vocabulary: Vocabulary, config: Config) -> dict[str, Any]:
    """Return the variables of a captioner for a vocabulary that appends words to its own.

    So far, a new word was `<unk>`, so it takes over the parameters of `<unk>`. The new words share
    1 % of its probability, and the probabilities of all other words stay as they were. With a
    larger share, the first captions would change: search drops `<unk>`, and where it penalises
    words, it normalises the probabilities of all others.
    """
    known, size = len(start.vocabulary), len(vocabulary)
    if size == known:
        return start.variables

    def extend(parameter: Any, expected: Any) -> Any:
        for axis, length in enumerate(expected.shape):
            if added := length - parameter.shape[axis]:
                unknown = jnp.take(parameter, jnp.full(added, UNK), axis=axis)
                parameter = jnp.concatenate([parameter, unknown], axis=axis)
        return parameter

    recognising = recognising_as(config, start.config)
    model = create_captioner(recognising, size, words=vocabulary.words)
    expected = variable_shapes(model, image_size=config.data.image_size)
    variables: dict[str, Any] = jax.tree.map(extend, start.variables, expected)
    output = variables["params"]["decoder"]["output"]
    bias = output["bias"].at[UNK].add(math.log1p(-_SHARE))
    output["bias"] = bias.at[known:].add(math.log(_SHARE / (size - known)))
    return variables


def recognising_as(config: Config, other: Config) -> Config:
    """Return `config`; where it names no words to recognise, with those of `other`."""
    ours, theirs = config.recognition, other.recognition
    return dataclasses.replace(
        config,
        recognition=dataclasses.replace(
            ours,
            detected_words=ours.detected_words or theirs.detected_words,
            class_words=ours.class_words or theirs.class_words,
        ),
    )


def _shapes(tree: object) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}


def _model_options(config: Config) -> dict[str, object]:
    """Return the options that parameters may depend on."""
    decoder = dataclasses.asdict(config.decoder)
    named = {f"decoder.{k}": v for k, v in decoder.items() if not k.endswith("dropout")}
    return {"encoder.name": config.encoder.name, **named}
