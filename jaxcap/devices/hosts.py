"""Connect the processes of a multi-host run, exchange values, and detect dead peers.

Each host usually runs one process; JAX's distributed runtime connects them
(https://docs.jax.dev/en/latest/multi_process.html). All run the same program on shares of the same
data. Only process 0 writes files and prints messages.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcap.config import TrainConfig
from jaxcap.messages.errors import InputError
from jaxcap.messages.progress import escaped

_BEAT = 2.0
"""Seconds between the meetings by which processes show that they are alive."""
_SILENCE = 20.0
"""Seconds after which an absent process counts as dead; well below `_RUNTIME_SILENCE`, so that our
message comes first."""
_RUNTIME_SILENCE = 40
"""Seconds after which JAX's own runtime terminates the process, with a less helpful message."""
_WEEK = 1000 * 3600 * 24 * 7
"""A week, in milliseconds."""
_SHUTDOWN = 15
"""Seconds that an exiting process waits for the others."""


@dataclass(frozen=True)
class _Names:
    """The user's names of the settings that connect processes, for messages."""

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
    # The counts of the job step: the batch script also sees SLURM_NTASKS but is one process.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)
"""Variables that hold the number of this process and the number of processes."""


def connect(train: TrainConfig | None = None) -> None:
    """Connect to the other processes, if any. Call it before any use of a device.

    JAX detects Slurm, Open MPI and TPU pods. Elsewhere `train.coordinator`, `train.processes` and
    `train.process_id` describe the processes, or the environment variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Args:
      train: the training options; None for a command without them.

    Raises:
      InputError: options are missing or contradict each other; the coordinator does not answer, or
        some processes are missing, after `train.coordinator_timeout` seconds.
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
    # It would take SIGTERM away from us, and only programs that ask it learn of the signal.
    jax.config.update("jax_enable_preemption_service", False)

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                address,
                processes,
                process,
                # Without a cluster, this process owns all devices of its host.
                cluster_detection_method="deactivate" if complete else None,
                # Longer than our own timeout, after which the runtime would abort the program.
                initialization_timeout=int(timeout) + 3600,
                heartbeat_timeout_seconds=_RUNTIME_SILENCE,
                shutdown_timeout_seconds=_SHUTDOWN,
            )
        except Exception as error:  # any error is reported by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=initialize, daemon=True, name="connect")
    thread.start()
    thread.join(max(0.0, timeout - (time.monotonic() - begin)))
    if errors and launched and address is None and _may_be_tpu_pod():
        return  # a single TPU host
    if errors:
        raise InputError(f"Cannot connect the processes: {errors[0]}") from errors[0]
    if thread.is_alive():
        where = "" if address is None else f" at {address}"
        _leave(
            f"Only some of the {processes or ''} processes connected{where} within "
            f"{timeout:g} seconds. Start all of them, each with its own {names.process_id} and the "
            f"same {names.coordinator}{names.timeout}."
        )
    if jax.process_count() > 1:
        ending = threading.Event()
        watching = functools.partial(watch, _barrier(), jax.process_count(), ending)
        watcher = threading.Thread(target=watching, daemon=True, name="watch")
        watcher.start()
        atexit.register(_disconnect, watcher, ending)


def _disconnect(watcher: threading.Thread, ending: threading.Event) -> None:
    """Close the connection, and wait for the thread at its barrier.

    A thread that comes back from C++ after Python has ended is cancelled there, which aborts the
    process.
    """
    ending.set()
    jax.distributed.shutdown()
    watcher.join()


def launched_share() -> tuple[int, int] | None:
    """Return the number of this process, from 0, and of processes, as a launcher set them.

    It reads the environment of Slurm, Open MPI or JAX_PROCESS_ID, and needs neither a connection
    nor a device. Return None for a single process, or without a launcher.

    Raises:
      InputError: a variable of the environment is not a number, or out of range.
    """
    for number, count in _SHARES:
        if number in os.environ and count in os.environ:
            process = _number(None, _OPTIONS.process_id, number)
            processes = _number(None, _OPTIONS.processes, count)
            if process is None or processes is None or process >= processes:
                raise InputError(
                    f"{number} is {process}, but {count} is {processes}; expected a number from 0 "
                    "to one less than that."
                )
            return (process, processes) if processes > 1 else None
    return None


def share() -> tuple[int, int]:
    """Return the number of this process, from 0, and the number of processes."""
    return jax.process_index(), jax.process_count()


def is_first() -> bool:
    """Return whether this is process 0, which writes files and messages for all."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Gather a JSON value from each process, in order. All processes must call it."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    _meet()
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    # Rounded up to a power of two, so that few programs are compiled.
    room = 1 << int(np.max(lengths)).bit_length()
    rows = multihost_utils.process_allgather(np.pad(text, (0, room - len(text))))
    return [
        json.loads(bytes(np.asarray(row, np.uint8)[:length]))
        for row, length in zip(rows, lengths, strict=True)
    ]


def _meet() -> None:
    """Wait for all processes, without a time limit.

    CPU collectives alone would time out after half a minute. `watch` terminates processes that
    wait for a dead peer.
    """
    _barrier()(key=f"jaxcap/meeting/{next(_meetings)}", timeout_ms=_WEEK)


_meetings = itertools.count()


def _barrier() -> Callable[..., None]:
    """Return `(key, timeout_ms)`, which waits until all processes call it with that key.

    JAX has no public barrier with a timeout, so this is Orbax's.
    """
    from orbax.checkpoint.multihost import get_barrier_sync_fn

    barrier: Callable[..., None] = get_barrier_sync_fn()
    return barrier


@contextlib.contextmanager
def all_succeed() -> Iterator[None]:
    """Wait until all processes have finished the `with` block.

    Raises:
      InputError: raised in every process if one of them raises it, so that none waits forever.
    """
    failure: InputError | None = None
    try:
        yield
    except InputError as error:
        failure = error
    messages = gather(None if failure is None else list(failure.args))
    if failure is not None:
        raise failure
    for process, message in enumerate(messages):
        if message is not None:
            raise InputError(f"process {process}: {message[0]}", *message[1:])


@contextlib.contextmanager
def ending_with_others() -> Iterator[None]:
    """Exit with a message when a computation fails because a peer is dead, or at Ctrl-C.

    Otherwise Python would wait for the other processes at exit and be aborted.
    """
    try:
        yield
    except KeyboardInterrupt:
        if jax.process_count() == 1:
            raise
        _leave("Interrupted; the other processes stop too.", status=130)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        _leave(
            f"A computation shared by {jax.process_count()} processes failed "
            f"({(str(error).splitlines() or [''])[0]}). If a connection was lost, another process "
            "has exited or its host is unreachable; see its last message. This process stops too. "
            "Restart all of them to resume from the newest checkpoint."
        )


def _number(option: int | None, name: str, variable: str) -> int | None:
    text = os.environ.get(variable)
    if option is not None or text is None:
        return option
    if not text.isdecimal():
        raise InputError(f"{variable} is '{text}'; it sets {name} and must be a number.")
    return int(text)


def _launched() -> bool:
    """Return whether a launcher started this process as one of several, or may have (TPU)."""
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
            f"Several processes also need {' and '.join(missing)}: the address HOST:PORT of "
            "process 0, the number of processes, and the index of this process, from 0."
        )
    host, _, port = address.rpartition(":")
    if not _is_name(host) or not port.isdecimal() or int(port[:6]) >= 1 << 16:
        raise InputError(
            f"{names.coordinator} is '{address}'; expected HOST:PORT, the host of process 0 and a "
            "free port there, such as 10.0.0.1:8476."
        )
    if not 0 <= process < processes:
        raise InputError(
            f"{names.process_id} is {process}, of {processes} processes; expected a number from 0 "
            f"to {processes - 1}."
        )


def _is_name(host: str) -> bool:
    with contextlib.suppress(UnicodeError):  # an empty or very long part between dots
        return bool(host.encode("idna"))
    return False


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


def _leave(message: str, status: int = 1) -> None:
    """Print an error and exit at once, without waiting for threads or other processes."""
    with contextlib.suppress(OSError):  # standard error may be closed
        print(f"error: {escaped(message)}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(status)


def watch(
    meet: Callable[..., None],
    count: int,
    ending: threading.Event,
    *,
    interval: float = _BEAT,
    leave: Callable[[str], None] = _leave,
) -> None:
    """Meet the other processes regularly, and exit when one of them does not arrive.

    A process with a dead peer blocks in a collective that never completes, so only another thread
    can end it.

    Args:
      meet: `(key, timeout_ms)`, waits for all processes at a barrier.
      count: number of processes.
      ending: set when this process ends, which also ends the meetings.
      interval: seconds between meetings.
      leave: called with a message to end this process.
    """
    try:
        for beat in itertools.count():
            meet(key=f"jaxcap/alive/{beat}", timeout_ms=int(_SILENCE * 1000))
            if ending.wait(interval):
                return
    except Exception as error:  # a process is late, or process 0, which holds the barrier, is dead
        if ending.wait(2 * interval) or not jax.distributed.is_initialized():
            return
        late = re.search(r"timed out task names:\s*(\d+)", str(error))
        who = "One" if late is None else f"Process {late[1]}"
        leave(
            f"{who} of {count} processes does not answer: it has exited, or its host is "
            "unreachable; see its last message. This process stops too. Restart all of them to "
            "resume from the newest checkpoint."
        )
