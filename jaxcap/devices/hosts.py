"""Several processes that train together: finding each other, agreeing, and noticing a death.

A process is one Python program, usually one for each host; JAX's distributed runtime connects
them (https://docs.jax.dev/en/latest/multi_process.html). All run the same program on shares of the
same data. Process 0 alone writes files and speaks.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcap.config import TrainConfig
from jaxcap.errors import InputError

_BEAT = 2.0
"""Seconds between signs of life."""
_SILENCE = 20.0
"""Seconds without one, after which a process counts as dead; well below `_RUNTIME_SILENCE`, so
that the message is ours."""
_RUNTIME_SILENCE = 40
"""Seconds after which JAX's own runtime ends the process, with a message of its own."""
_FOR_EVER = 1000 * 3600 * 24 * 7
"""A week, in milliseconds."""
_SHUTDOWN = 15
"""Seconds that a process waits for the others when it ends."""


@dataclass(frozen=True)
class _Names:
    """What a user calls the facts by which processes find each other."""

    coordinator: str
    processes: str
    process_id: str
    timeout: str = ""


_OPTIONS = _Names(
    "train.coordinator",
    "train.processes",
    "train.process_id",
    "; train.coordinator_timeout is how long to wait",
)
_VARIABLES = _Names("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_SHARES = (
    (_VARIABLES.process_id, _VARIABLES.processes),
    # Of the step: a batch script itself is told of SLURM_NTASKS as well, and is but one process.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)
"""Variables that hold the number of a process, and how many there are."""


def connect(train: TrainConfig | None = None) -> None:
    """Joins the other processes, if there are any; before any use of a device.

    On Slurm, under Open MPI and on TPU pods JAX finds the others by itself. Elsewhere
    `train.coordinator`, `train.processes` and `train.process_id` name them, or the environment
    variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Args:
      train: the options of a training; None for a command that has none of them.

    Raises:
      InputError: options are missing or contradict each other; the coordinator does not answer, or
        not all processes came, within `train.coordinator_timeout` seconds.
    """
    if jax.distributed.is_initialized():
        return
    names = _VARIABLES if train is None else _OPTIONS
    train = TrainConfig() if train is None else train
    address = train.coordinator or os.environ.get(_VARIABLES.coordinator)
    processes = _number(train.processes, _OPTIONS.processes, _VARIABLES.processes)
    process = _number(train.process_id, _OPTIONS.process_id, _VARIABLES.process_id)
    launched = _launched()
    if not launched and address is None and processes is None and process is None:
        return
    if not launched:
        _check(address, processes, process, names)
    timeout = train.coordinator_timeout
    begin = time.monotonic()
    if address is not None and process:
        _wait_for(address, timeout, names)
    complete = None not in (address, processes, process)
    errors: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                address,
                processes,
                process,
                # All devices of the host are this process's, where nobody has shared them out.
                cluster_detection_method="deactivate" if complete else None,
                # Longer than we wait: at its end the runtime would abort the program.
                initialization_timeout=int(timeout) + 3600,
                heartbeat_timeout_seconds=_RUNTIME_SILENCE,
                shutdown_timeout_seconds=_SHUTDOWN,
            )
        except Exception as error:  # whatever it is, the caller's thread shall tell
            errors.append(error)

    thread = threading.Thread(target=initialize, daemon=True, name="connect")
    thread.start()
    thread.join(max(0.0, timeout - (time.monotonic() - begin)))
    if errors and launched and address is None and _may_be_tpu_pod():
        return  # a TPU that belongs to no pod
    if errors:
        raise InputError(f"The processes cannot be connected: {errors[0]}") from errors[0]
    if thread.is_alive():
        where = "" if address is None else f" at {address}"
        _leave(
            f"Only some of the {processes or ''} processes came together{where} within "
            f"{timeout:g} seconds. Start all of them, each with its own {names.process_id} and the "
            f"same {names.coordinator}{names.timeout}."
        )
    if jax.process_count() > 1:
        threading.Thread(target=_watch, daemon=True, name="watch").start()


def launched_share() -> tuple[int, int] | None:
    """The number of this process, from 0, and of how many, by what launched them.

    For work that needs no connection: known without one, and without any device. None where there
    is but one, or where nobody says: neither Slurm, nor Open MPI, nor JAX_PROCESS_ID.

    Raises:
      InputError: what the environment says is no number, or a number of no process.
    """
    for number, count in _SHARES:
        if number in os.environ and count in os.environ:
            process = _number(None, _OPTIONS.process_id, number)
            processes = _number(None, _OPTIONS.processes, count)
            if process is None or processes is None or process >= processes:
                raise InputError(
                    f"{number} is {process}, but {count} is {processes}; expected a number from 0 "
                    "and below that one."
                )
            return (process, processes) if processes > 1 else None
    return None


def share() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are."""
    return jax.process_index(), jax.process_count()


def is_first() -> bool:
    """Whether this process writes the files and messages of all."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """What each process gives, in their order; JSON values. All processes must call it."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    _meet()
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    # A power of two, so that few programs are compiled.
    room = 1 << int(np.max(lengths)).bit_length()
    rows = multihost_utils.process_allgather(np.pad(text, (0, room - len(text))))
    return [
        json.loads(bytes(np.asarray(row, np.uint8)[:length]))
        for row, length in zip(rows, lengths, strict=True)
    ]


def _meet() -> None:
    """Waits until all processes are here, however long that takes.

    The sums of CPUs give up after half a minute. Who waits for a dead process is ended by `_watch`.
    """
    _client().wait_at_barrier(f"jaxcap/meeting/{next(_meetings)}", timeout_in_ms=_FOR_EVER)


_meetings = itertools.count()


def _client() -> Any:
    """The runtime's meeting place and key-value store, which JAX and Orbax use in the same way."""
    from jax._src import distributed

    return distributed.global_state.client


@contextlib.contextmanager
def all_succeed() -> Iterator[None]:
    """Waits until all processes have done what is within.

    Raises:
      InputError: one of them met an error; all raise it, so that none waits for it for ever.
    """
    failure: InputError | None = None
    try:
        yield
    except InputError as error:
        failure = error
    messages = gather(None if failure is None else str(failure))
    if failure is not None:
        raise failure
    for process, message in enumerate(messages):
        if message is not None:
            raise InputError(f"process {process}: {message}")


@contextlib.contextmanager
def ending_with_others() -> Iterator[None]:
    """Ends the program, with a message that says so, when a computation fails for want of a peer.

    Left to itself, Python would wait for the dead process at its exit, and be aborted.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        _leave(
            f"A computation shared by {jax.process_count()} processes failed "
            f"({(str(error).splitlines() or [''])[0]}). If a connection was lost, another process "
            "has ended or its host cannot be reached; what it said last tells why. This process "
            "stops too; start all of them again, and training goes on from the newest checkpoint."
        )


def _number(option: int | None, name: str, variable: str) -> int | None:
    text = os.environ.get(variable)
    if option is not None or text is None:
        return option
    if not text.isdecimal():
        raise InputError(f"{variable} is '{text}'; it stands for {name} and must be a number.")
    return int(text)


def _launched() -> bool:
    """Whether a launcher started this process as one of several, or may have (TPU)."""
    environment = os.environ
    slurm = "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1
    open_mpi = int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    return slurm or open_mpi or _may_be_tpu_pod()


def _may_be_tpu_pod() -> bool:
    wanted = getattr(jax.config, "jax_platforms", None) in (None, "", "tpu")
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return wanted and bool(chips) and importlib.util.find_spec("libtpu") is not None


def _check(address: str | None, processes: int | None, process: int | None, names: _Names) -> None:
    options = {
        names.coordinator: address,
        names.processes: processes,
        names.process_id: process,
    }
    missing = [name for name, value in options.items() if value is None]
    if missing or address is None or processes is None or process is None:
        raise InputError(
            f"Work of several processes needs {' and '.join(missing)} too: the address "
            "HOST:PORT of process 0, how many processes there are, and the number of this one, "
            "from 0."
        )
    _, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise InputError(
            f"{names.coordinator} is '{address}'; expected HOST:PORT, the host of process 0 and a "
            "free port there, such as 10.0.0.1:8476."
        )
    if not 0 <= process < processes:
        raise InputError(
            f"{names.process_id} is {process}, of {processes} processes; expected a number from 0 "
            f"to {processes - 1}."
        )


def _wait_for(address: str, timeout: float, names: _Names) -> None:
    host, _, port = address.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > end:
                raise InputError(
                    f"The coordinator {address} does not answer within {timeout:g} seconds "
                    f"({error}). Process 0 must run on that host, started with the same "
                    f"{names.coordinator}, and the port must be open{names.timeout}."
                ) from error
        time.sleep(0.5)


def _watch() -> None:
    """Shows the others that this process lives, and ends it when one of them does not.

    A process whose peer has died waits in a sum over devices that never comes, so nothing but
    another thread can end it.
    """
    client = _client()
    me, count = share()
    others = [process for process in range(count) if process != me]
    heard = dict.fromkeys(others, time.monotonic())
    beats: dict[int, Any] = dict.fromkeys(others)
    beat, lost = 0, 0.0
    while jax.distributed.is_initialized():
        beat += 1
        try:
            client.key_value_set(f"jaxcap/alive/{me}", str(beat), allow_overwrite=True)
            found = dict(client.key_value_dir_get("jaxcap/alive/"))
        except Exception:  # the store is in process 0
            found, lost = {}, lost + _BEAT
        else:
            lost = 0.0
        now = time.monotonic()
        for process in others:
            value = next((v for k, v in found.items() if k.endswith(f"/{process}")), None)
            if value is not None and value != beats[process]:
                beats[process], heard[process] = value, now
            silence = now - heard[process]
            if silence > _SILENCE or (process == 0 and lost > 2 * _BEAT):
                _leave(
                    f"Process {process} of {count} has given no sign of life for "
                    f"{silence:.0f} seconds: it has ended, or its host cannot be reached. What it "
                    "said last tells why. This process stops too; start all of them again, and "
                    "training goes on from the newest checkpoint."
                )
        time.sleep(_BEAT)


def _leave(message: str) -> None:
    """Ends the program at once: no thread, and no other process, is waited for."""
    with contextlib.suppress(OSError):  # nobody may be listening any more
        print(f"error: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(1)
