"""Another captioner as the beginning of a training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax

from jaxcap.captioning.loaded_model import LoadedModel, load
from jaxcap.config import Config
from jaxcap.errors import InputError
from jaxcap.model.captioner import create_captioner, variable_shapes


def start_of(config: Config) -> LoadedModel | None:
    """The captioner that `train.start_from` names; None where there is none.

    Raises:
      InputError: no captioner is there, or it has other parameters than `config` describes, or
        text of another kind.
    """
    name = config.train.start_from
    if name is None:
        return None
    run = load(Path(name).expanduser())
    found, expected = run.config, config
    if found.data.units != expected.data.units:
        raise InputError(
            f"train.start_from: captions of {name} are made of {found.data.units}, but "
            f"data.units is {expected.data.units}; give --data.units {found.data.units}."
        )
    size = expected.data.image_size
    shapes = variable_shapes(create_captioner(config, len(run.vocabulary)), image_size=size)
    if _shapes(shapes) != _shapes(run.variables):
        there = _model_options(found)
        differing = [
            f"{name} is {here!r}, there {there[name]!r}"
            for name, here in _model_options(expected).items()
            if here != there[name]
        ]
        raise InputError(
            f"train.start_from: {name} has other parameters than this configuration describes: "
            f"{'; '.join(differing)}. Give the options that it has."
        )
    return run


def _shapes(tree: object) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}


def _model_options(config: Config) -> dict[str, object]:
    """The options that parameters may depend on."""
    decoder = dataclasses.asdict(config.decoder)
    named = {f"decoder.{k}": v for k, v in decoder.items() if not k.endswith("dropout")}
    return {"encoder.name": config.encoder.name, **named}
