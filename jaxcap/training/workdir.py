"""The directory of a run: whose it is, and who is training in it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxcap import files
from jaxcap.config import Config, differences, load_config, save_config
from jaxcap.errors import InputError
from jaxcap.text.vocabulary import Vocabulary

LOCK = ".lock"


def check(workdir: Path, config: Config) -> None:
    """Refuses a directory that holds another run, or something else.

    Raises:
      InputError: with the differences, and the way out.
    """
    path = workdir / "config.json"
    if path.exists():
        if lines := differences(load_config(path), config):
            raise InputError(
                f"{workdir} holds a run of another configuration:\n  "
                + "\n  ".join(lines)
                + "\nGive another --workdir, or the same options to go on with it."
            )
    elif workdir.exists() and (
        not workdir.is_dir() or any(p.name != LOCK for p in workdir.iterdir())
    ):
        raise InputError(
            f"{workdir} exists and is no run (it has no config.json). "
            "Give a --workdir that is new or empty."
        )


@contextlib.contextmanager
def claimed(workdir: Path, config: Config, vocabulary: Vocabulary) -> Iterator[None]:
    """Makes the run directory, and keeps other trainings out of it meanwhile.

    Raises:
      InputError: it cannot be written, or another process trains there.
    """
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(workdir))
            check(workdir, config)  # it may have become another's since it was first looked at
            save_config(config, workdir / "config.json")
            vocabulary.save(workdir / "vocabulary.json")
        except OSError as error:
            raise InputError(
                f"{workdir}: cannot write there ({error.strerror}). Give another --workdir, in a "
                "folder that you may write to."
            ) from error
        yield


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """Holds the directory's lock, which the system gives back when the process ends, however."""
    with (workdir / LOCK).open("a+", encoding="utf-8") as file:
        if not files.locked(file):
            file.seek(0)
            raise InputError(
                f"{workdir}: another training is at work there ({file.read().strip()}). "
                "Wait until it ends, stop it, or give another --workdir."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
