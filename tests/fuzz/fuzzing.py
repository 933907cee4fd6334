"""Damage files in many ways and count what their readers do: `make fuzz`.

Every try has its own seed, so a table names the tries that can be repeated with `--first`. A reader
may return, or raise `InputError`. Anything else counts as a traceback, a try of more than five
seconds as a hang, and one that takes more than 1 GB beyond what the process had, as memory.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HANG = 5.0
"""Seconds of the processor, or 60 of waiting."""
MEMORY = 2**30
"""Bytes."""
_PORTION = 500
"""Tries of one process, so that a crash costs little."""


@dataclass
class Tally:
    """What a reader did.

    Attributes:
      messages: the tries that ended with an `InputError`.
      faults: kind of fault to the numbers of its tries.
      examples: kind of fault to its first traceback.
    """

    tries: int = 0
    messages: int = 0
    faults: dict[str, list[int]] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, number: int, example: str = "") -> None:
        """Count a fault."""
        self.faults.setdefault(kind, []).append(number)
        self.examples.setdefault(kind, example)

    def merge(self, other: Tally) -> None:
        """Add the counts of another tally."""
        self.tries += other.tries
        self.messages += other.messages
        for kind, numbers in other.faults.items():
            for number in numbers:
                self.add(kind, number, other.examples[kind])


class Hang(BaseException):
    """A try took too long."""


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise Hang

    # The clock of the processor, because the machine may be busy; and the wall's, for waiting.
    timers = (signal.SIGPROF, signal.ITIMER_PROF, HANG), (signal.SIGALRM, signal.ITIMER_REAL, 60)
    before = [signal.signal(number, ring) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def _peak() -> int:
    """Return the peak memory since `_reset_peak`, in bytes; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _damaged(reader: Any, number: int, rng: random.Random) -> bytes:
    """Return the file of a try; the first tries are those made by hand."""
    from mutation import mutate, mutate_json

    if number < len(reader.made):
        data: bytes = reader.made[number]
    else:
        seed = rng.choice(reader.seeds)
        is_json = seed.lstrip()[:1] in (b"{", b"[") and rng.random() < 0.6
        try:
            data = mutate_json(seed, rng) if is_json else mutate(seed, rng)
        except (ValueError, RecursionError):  # lines of JSON, or too deep to write
            data = mutate(seed, rng)
    signed = reader.sign is not None and rng.random() < 0.9
    return reader.sign(data) if signed else data


def fuzz(reader: Any, tries: range, folder: Path) -> Tally:
    """Run some tries in this process.

    Args:
      reader: a `readers.Reader`.
      folder: where the damaged files are written.
    """
    from jaxcap.messages.errors import InputError

    tally, place = Tally(), folder / "try"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    reader.prepare(place)
    path = place / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in tries:
        rng = random.Random(f"{reader.name} {number}")
        path.write_bytes(_damaged(reader, number, rng))
        tally.tries += 1
        _reset_peak()
        before, began = _peak(), time.process_time()
        try:
            with _alarm():
                reader.read(path)
        except InputError:
            tally.messages += 1
        except Hang:
            tally.add("hang", number)
        except BaseException:
            tally.add("traceback", number, traceback.format_exc())
        if time.process_time() - began > HANG and number not in tally.faults.get("hang", ()):
            tally.add("hang", number)
        if _peak() - before > MEMORY:
            tally.add("memory", number)
    return tally


def _serve(connection: Connection, folder: str) -> None:
    """Run the tries that the parent process asks for."""
    from readers import all_readers

    warnings.simplefilter("error")
    known = all_readers(Path(folder))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        while True:
            name, tries = connection.recv()
            connection.send(fuzz(known[name], tries, Path(place)))


class Worker:
    """Runs tries in another process, so that a crash or an endless one is a fault of one try."""

    def __init__(self, folder: Path) -> None:
        """Start the process.

        Args:
          folder: as of `readers.all_readers`.
        """
        self._folder = folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, str(self._folder)), daemon=True
        )
        self._process.start()
        theirs.close()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def fuzz(self, name: str, tries: range) -> Tally:
        """Run some tries of the reader of that name."""
        tally = Tally()
        pending = [tries[i : i + _PORTION] for i in range(0, len(tries), _PORTION)]
        while pending:
            part = pending.pop(0)
            try:
                self._connection.send((name, part))
                if not self._connection.poll(60 + 2 * HANG * len(part) ** 0.5):
                    raise TimeoutError
                tally.merge(self._connection.recv())
            except (EOFError, OSError):  # it crashed, or hangs where no signal reaches it
                self.close()
                self._start()
                if len(part) == 1:
                    tally.tries += 1
                    tally.add("crash", part[0])
                else:  # find the try
                    half = len(part) // 2
                    pending[:0] = [part[:half], part[half:]]
        return tally


def main() -> int:
    """Print the table; return 1 if there is any fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=100_000, help="of each reader")
    parser.add_argument("--first", type=int, default=0, help="the number of the first try")
    parser.add_argument("readers", nargs="*", help="default: all")
    arguments = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from readers import all_readers

    faults = 0
    kinds = ("traceback", "crash", "hang", "memory")
    heads = ("tracebacks", "crashes", "hangs > 5 s", "memory > 1 GB")
    print("| reader | tries | messages | " + " | ".join(heads) + " |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        known = all_readers(Path(folder))
        worker = Worker(Path(folder))
        for name in arguments.readers or known:
            tries = range(arguments.first, arguments.first + arguments.tries)
            tally = worker.fuzz(name, tries)
            counts = [len(tally.faults.get(kind, ())) for kind in kinds]
            faults += sum(counts)
            cells = [name, tally.tries, tally.messages, *counts]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            for kind, numbers in tally.faults.items():
                print(f"{name}: {kind} of {numbers[:10]}", file=sys.stderr)
                print(tally.examples[kind], file=sys.stderr, flush=True)
        worker.close()
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
