"""Detect a loss or gradient that diverged, and save its batch for replay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxcap.data.batch import Batch
from jaxcap.files import open_file, open_zip, replacing
from jaxcap.messages.errors import InputError, did_you_mean
from jaxcap.model.recogniser.words import RecognisedWords
from jaxcap.training.step.train_step import StepMetrics

_EXPLODED = 100.0
_MAX_BYTES = 2**30
_WORDS = "words_"


@dataclass(frozen=True)
class Divergence:
    """A step whose loss or gradient is not finite, or far too large.

    Attributes:
      step: the number of the step, from 1.
      name: `loss` (the mean per word) or `grad_norm`.
      value: the value of that metric.
    """

    step: int
    name: str
    value: float

    def __str__(self) -> str:
        return f"the {self.name} is {self.value:g} at step {self.step}"


def divergence(metrics: StepMetrics, step: int, *, vocabulary: int) -> Divergence | None:
    """Return why a step diverged, or None.

    Uniform guessing costs ln V per word. A mean loss above a hundred times that counts as
    divergence, even though it may take a long time to overflow.
    """
    loss = float(metrics.loss) / max(1.0, float(metrics.words))
    if not math.isfinite(loss) or loss > _EXPLODED * math.log(vocabulary):
        return Divergence(step, "loss", loss)
    grad_norm = float(metrics.grad_norm)
    # A gradient that is not finite spoils the parameters about to be saved.
    return None if math.isfinite(grad_norm) else Divergence(step, "grad_norm", grad_norm)


@dataclass(frozen=True)
class Offender:
    """The batch of a step that diverged, as saved in `diverged-STEP.npz`.

    Attributes:
      step: the number of the step, from 1.
      after: the step of the checkpoint to replay from; 0 for the first state.
    """

    batch: Batch
    step: int
    after: int


def save_offender(offender: Offender, workdir: Path) -> Path:
    """Write `diverged-STEP.npz` into the run's directory, without pickle, and return its path."""
    path = workdir / f"diverged-{offender.step}.npz"
    fields = offender.batch._asdict()
    if (words := fields.pop("words")) is not None:
        fields |= {f"{_WORDS}{name}": array for name, array in words._asdict().items()}
    arrays: dict[str, Any] = {name: array for name, array in fields.items() if array is not None}
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, step=offender.step, after=offender.after, **arrays)
    return path


def load_offender(path: Path) -> Offender:
    """Read a file that `save_offender` wrote.

    Raises:
      InputError: the file is missing, or is not a saved batch.
    """
    try:
        with open_file(path) as opened:
            with open_zip(opened) as entries:
                if sum(entry.file_size for entry in entries.infolist()) > _MAX_BYTES:
                    raise InputError(f"{path}: it unpacks to more than {_MAX_BYTES:,} bytes.")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                batch = Batch(**{name: file[name] for name in Batch._fields if name in file})
                if f"{_WORDS}ids" in file:
                    words = (file[_WORDS + name] for name in RecognisedWords._fields)
                    batch = batch._replace(words=RecognisedWords(*words))
                return Offender(batch, step=int(file["step"]), after=int(file["after"]))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file.{did_you_mean(path)} Training that diverges saves "
            "diverged-STEP.npz in its --workdir."
        ) from None
    except Exception as error:  # any other file may raise anything
        raise InputError(
            f"{path}: not the batch of a step that diverged ({type(error).__name__}). Give "
            "WORKDIR/diverged-STEP.npz."
        ) from error
