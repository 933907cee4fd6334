"""`jaxcap replay`: a training step that diverged, computed once more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console


@dataclass(frozen=True)
class ReplayArguments:
    """Computes once more the step at which a training diverged.

    Exit status: 0 if it diverges again, 1 if it does not.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """diverged-STEP.npz, as the training left it in its directory."""


def run(arguments: ReplayArguments, console: Console) -> int:
    """Says what the step gives this time, and which images it saw."""
    from jaxcap.training.replaying import replay

    found = replay(arguments.file, console=console)
    print(f"step {found.step}: loss {found.loss:g}, grad_norm {found.grad_norm:g}")
    print(f"images: {' '.join(found.images)}")
    if found.divergence is None:
        console.print("It went well this time: the device does not compute the same twice.")
        return 1
    console.print(f"It happened again: {found.divergence}.")
    return 0
