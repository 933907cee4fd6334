"""A loss that is no number, or far too large: when to stop, and what is kept to look at it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxcap.data.batch import Batch
from jaxcap.errors import InputError
from jaxcap.files import replacing
from jaxcap.training.step.train_step import StepMetrics

_EXPLODED = 100.0


@dataclass(frozen=True)
class Divergence:
    """A step whose loss or gradient is beyond hope.

    Attributes:
      step: its number, from 1: it makes the state after `step` steps.
      name: `loss` (the mean per word) or `grad_norm`.
      value: what that was.
    """

    step: int
    name: str
    value: float

    def __str__(self) -> str:
        return f"the {self.name} is {self.value:g} at step {self.step}"


def divergence(metrics: StepMetrics, step: int, *, vocabulary: int) -> Divergence | None:
    """What is wrong with a step, if something is.

    Guessing words at random costs ln V each. A mean of a hundred times that is no learning any
    more, though it may be long before numbers overflow.
    """
    loss = float(metrics.loss) / max(1.0, float(metrics.words))
    if not math.isfinite(loss) or loss > _EXPLODED * math.log(vocabulary):
        return Divergence(step, "loss", loss)
    grad_norm = float(metrics.grad_norm)
    # A gradient that is no number spoils the parameters about to be saved.
    return None if math.isfinite(grad_norm) else Divergence(step, "grad_norm", grad_norm)


@dataclass(frozen=True)
class Offender:
    """The batch of a step that diverged, as kept in `diverged-STEP.npz`.

    Attributes:
      step: the step that this batch makes, from 1.
      after: the checkpoint that the steps before it are taken from; 0: the first state.
    """

    batch: Batch
    step: int
    after: int


def save_offender(offender: Offender, workdir: Path) -> Path:
    """Writes `diverged-STEP.npz` into the run's directory, without pickle, and returns its path."""
    path = workdir / f"diverged-{offender.step}.npz"
    fields = offender.batch._asdict().items()
    arrays: dict[str, Any] = {name: array for name, array in fields if array is not None}
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, step=offender.step, after=offender.after, **arrays)
    return path


def load_offender(path: Path) -> Offender:
    """Reads what `save_offender` wrote.

    Raises:
      InputError: there is no such file, or it is another.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            batch = Batch(**{name: file[name] for name in Batch._fields if name in file})
            return Offender(batch, step=int(file["step"]), after=int(file["after"]))
    except FileNotFoundError:
        raise InputError(
            f"{path}: there is no such file. A training that diverges leaves diverged-STEP.npz in "
            "its --workdir."
        ) from None
    except Exception as error:  # whatever another file may cause
        raise InputError(
            f"{path}: this is no batch of a training that diverged "
            f"({type(error).__name__}); give WORKDIR/diverged-STEP.npz."
        ) from error
