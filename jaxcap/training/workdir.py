"""The directory of a run: check its configuration, and lock it while training."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxcap import files
from jaxcap.config import Config, differences, load_config, save_config
from jaxcap.messages.errors import InputError
from jaxcap.text.vocabulary import Vocabulary
from jaxcap.training.start_from import recognising_as

LOCK = ".lock"


def check(workdir: Path, config: Config) -> None:
    """Check that a directory is new, empty, or a run of this configuration.

    Raises:
      InputError: it is not; the message lists the options that differ.
    """
    path = workdir / "config.json"
    if path.exists():
        saved = load_config(path)
        if lines := differences(saved, recognising_as(config, saved)):
            raise InputError(
                f"{workdir} holds a run of another configuration:",
                *(f"  {line}" for line in lines),
                "Give another --workdir, or the same options to resume it.",
            )
    elif workdir.exists() and (
        not workdir.is_dir() or any(p.name != LOCK for p in workdir.iterdir())
    ):
        raise InputError(
            f"{workdir} exists but is not a run (it has no config.json). "
            "Give a new or empty --workdir."
        )


@contextlib.contextmanager
def claim(workdir: Path, config: Config, vocabulary: Vocabulary) -> Iterator[None]:
    """Create the directory of a run, and lock it inside the `with` statement.

    Raises:
      InputError: it is not writable, its disk is full, or another process trains in it.
    """
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(workdir))
            check(workdir, config)  # another process may have used it since the first check
            save_config(config, workdir / "config.json")
            vocabulary.save(workdir / "vocabulary.json")
        except OSError as error:
            reason = error.strerror or error
            if files.is_disk_full(error):
                place = error.filename or workdir / LOCK
                raise InputError(
                    f"{place}: {reason}. Free some space, then start again."
                ) from error
            raise InputError(
                f"{workdir}: cannot write there ({reason}). Give another --workdir, in a folder "
                "that you may write to."
            ) from error
        yield


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """Hold the lock of the directory. The system releases it however the process ends."""
    with open(workdir / LOCK, "a+", encoding="utf-8", opener=files.no_link) as file:
        if not files.locked(file):
            file.seek(0)
            owner = file.read(200).strip()
            raise InputError(
                f"{workdir}: in use by another training run ({owner}). Wait for it, "
                "stop it, or give another --workdir."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
