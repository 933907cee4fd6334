"""`jaxcap prepare`: builds a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console


@dataclass(frozen=True)
class PrepareArguments:
    """Builds a data set: flickr8k (from its original release), or shapes (drawn)."""

    name: tyro.conf.Positional[str]
    source: Path | None = None
    """Folder of the downloaded release; shapes needs none."""
    data_dir: Path | None = None
    """Where to put it; default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""


def run(arguments: PrepareArguments, console: Console) -> int:
    """Builds the data set, or says that it is there."""
    del console  # TFDS shows its own progress
    from jaxcap.data.prepare import prepare

    prepare(arguments.name, source=arguments.source, data_dir=arguments.data_dir)
    return 0
