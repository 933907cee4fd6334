"""Everything that determines a model's captions: weights, vocabulary and search."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import numpy as np

from jaxcap.captioning.loaded_model import LoadedModel
from jaxcap.config import to_dict
from jaxcap.storage.trained import TrainedCaptioner

_WITHOUT_EFFECT = ("train", "stages", "evaluation", "search", "data", "encoder")
"""Sections of the configuration that do not decide how a member computes; of `data` and `encoder`,
some options do."""


def identity(model: LoadedModel) -> dict[str, Any]:
    """Return JSON values that are equal for models that caption alike, wherever they are stored.

    These are the beginning of each member's SHA-256, and the options of the search.
    """
    search = {f"search.{name}": value for name, value in to_dict(model.config.search).items()}
    return {"model": "+".join(map(_checksum, model.members)), **search}


def _checksum(member: TrainedCaptioner) -> str:
    """Return the SHA-256 of weights, calibration, vocabulary and options of the architecture."""
    config = to_dict(member.config)
    options = {name: value for name, value in config.items() if name not in _WITHOUT_EFFECT}
    options |= {"encoder": member.config.encoder.name, "size": member.config.data.image_size}
    digest = hashlib.sha256(json.dumps([options, member.vocabulary.to_json()]).encode())
    arrays = [member.variables, dict(member.calibration)]
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:16]
