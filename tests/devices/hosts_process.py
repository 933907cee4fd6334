"""A process of `test_hosts.py`: one of several that train together.

python hosts_process.py CONFIG.json WORKDIR COORDINATOR PROCESSES PROCESS
"""

from __future__ import annotations

import dataclasses
import gc
import sys
from pathlib import Path

from rich.console import Console
from shared_programs import shared

from jaxcap.config import load_config
from jaxcap.messages.errors import InputError
from jaxcap.training import Interrupted, train

if __name__ == "__main__":
    gc.set_threshold(100_000, 20, 20)  # as in the tests
    path, workdir, address, processes, process = sys.argv[1:]
    config = load_config(Path(path))
    several = dataclasses.replace(
        config.train,
        coordinator=address,
        processes=int(processes),
        process_id=int(process),
        coordinator_timeout=float(240 if processes == "2" else 3),
    )
    try:
        with shared(optimise_steps=True):  # as the run that the test compares with
            train(
                dataclasses.replace(config, train=several),
                Path(workdir),
                console=Console(stderr=True, width=200),
            )
    except Interrupted as interrupted:
        print(interrupted)
        sys.exit(interrupted.status)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
