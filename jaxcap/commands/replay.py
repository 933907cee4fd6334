"""`jaxcap replay`: repeat a training step that diverged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from jaxcap.commands.data_folder import choose_data_dir
from jaxcap.config import load_config
from jaxcap.messages.errors import one_line
from jaxcap.messages.progress import print_out


@dataclass(frozen=True)
class ReplayArguments:
    """Repeat the step at which training diverged.

    Exit status: 0 if it diverges again, 1 if it does not.

        jaxcap replay runs/NAME/diverged-1200.npz
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """diverged-STEP.npz in the directory of the run."""
    data_dir: Path | None = None
    """Folder of the prepared data sets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets. A
    folder that only the run's config.json names is not opened."""


def run(arguments: ReplayArguments, console: Console) -> int:
    """Print the results of the step and the names of its images."""
    from jaxcap.storage.program_cache import keep_compiled_programs
    from jaxcap.training.replaying import replay

    keep_compiled_programs()
    data_dir, run = arguments.data_dir, arguments.file.parent
    if (run / "config.json").is_file():
        data_dir = choose_data_dir(data_dir, load_config(run / "config.json").data, run=run)
    found = replay(arguments.file, data_dir=data_dir, console=console)
    print_out(f"step {found.step}: loss {found.loss:g}, grad_norm {found.grad_norm:g}")
    print_out(one_line(f"images: {' '.join(found.images)}"))
    if found.divergence is None:
        console.print("The step did not diverge this time: this device is not deterministic.")
        return 1
    console.print(f"The step diverged again: {found.divergence}.")
    return 0
