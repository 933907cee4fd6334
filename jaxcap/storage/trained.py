"""One trained captioner in memory: the weights, and everything else that captioning needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcap.config import Config
from jaxcap.messages.errors import InputError
from jaxcap.model.captioner import Captioner, create_captioner
from jaxcap.text.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class TrainedCaptioner:
    """A trained captioner, read from a run directory or from a published file.

    Attributes:
      directory: the run directory or the file that it was read from.
      config: the configuration of its training; `config.search` is how it captions.
      variables: `{"params": …, "batch_stats": …}`, float32.
      step: the optimizer step at which the variables were saved.
      note: the publisher's note to users, such as data and licence.
      calibration: the arrays of `captioning.calibration` by name; none if it was not calibrated.
    """

    directory: Path
    config: Config
    vocabulary: Vocabulary
    variables: dict[str, Any]
    step: int
    note: str = ""
    calibration: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def model(self) -> Captioner:
        """The Linen module that `variables` belong to."""
        return create_captioner(self.config, len(self.vocabulary), words=self.vocabulary.words)


def check_finite(variables: Mapping[str, Any], *, where: str) -> None:
    """Raise an error if any weight is NaN or infinite.

    Raises:
      InputError: a weight is not finite. The message begins with `where`.
    """
    if found := not_finite(variables):
        raise InputError(
            f"{where}: its weights are not finite: {found}. Such a model cannot caption. Use "
            "another checkpoint or file, or train again with a lower learning rate."
        )


def named(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by names such as "params/decoder/embed/embedding"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def not_finite(arrays: Any) -> str | None:
    """Say which arrays of a pytree have NaN or infinite values; None if none has."""
    leaves = named(arrays).items()
    bad = [(name, count) for name, leaf in leaves if (count := _count_not_finite(np.asarray(leaf)))]
    if not bad:
        return None
    name, count = bad[0]
    others = f", and {len(bad) - 1} more arrays have such values" if len(bad) > 1 else ""
    return f"{name} has {count} NaN or infinite value{'s' * (count > 1)}{others}"


def _count_not_finite(x: np.ndarray) -> int:
    # A sum is several times faster than `isfinite`, and NaN or infinity survives it. It may also
    # overflow, so only the exact count decides.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(x.sum()):
            return 0
    return int(x.size - np.isfinite(x).sum())
