"""Trainings in processes that can be killed: `python sessions.py` reads one session a line.

jaxcap is imported once; each session is a fork of this process, so it starts in no time. It may
be told to fail, at a moment that the test chooses.
"""

from __future__ import annotations

import functools
import gc
import itertools
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from shared_programs import shared

from jaxcap.commands import train as command
from jaxcap.config import Config, from_dict
from jaxcap.messages.errors import InputError
from jaxcap.training import experiment, loop


def _me(number: int) -> None:
    os.kill(os.getpid(), number)


def _at_step(step: int, act: Callable[[], None]) -> None:
    """Act when this session fetches batch `number`, counted from 1."""
    whole = experiment.training_batches

    def batches(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for number, batch in enumerate(whole(*args, **kwargs), start=1):
            if number == step:
                act()
            yield batch

    experiment.training_batches = batches


def _at_file(number: int, workdir: str) -> None:
    """Kill the process just before it touches a file of the run for the nth time."""
    count = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
            and str(arguments[0]).startswith(workdir)
            and next(count) == number
        ):
            _me(signal.SIGKILL)

    sys.addaudithook(hook)


def _in_evaluation(act: Callable[[], None]) -> None:
    whole = loop.evaluate_source

    def evaluate(*args: Any, **kwargs: Any) -> Any:
        act()
        return whole(*args, **kwargs)

    loop.evaluate_source = evaluate


def _full_disk() -> None:
    """Limit files to a few kilobytes from now on, like a full disk."""
    sys.dont_write_bytecode = True  # Python would leave modules cut off in its cache
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


def _twice(number: int) -> None:
    _me(number)
    _me(number)


def _session(config: Config, workdir: str, fault: dict[str, Any]) -> int:
    for kind, value in fault.items():
        if kind == "kill_at_file":
            _at_step(1, functools.partial(_at_file, value, workdir))
        elif kind == "kill_after_s":
            threading.Timer(value, _me, [signal.SIGKILL]).start()
        elif kind == "terminate_at_step":
            _at_step(value, lambda: _me(signal.SIGTERM))
        elif kind == "terminate_twice_at_step":
            _at_step(value, lambda: _twice(signal.SIGTERM))
        elif kind == "hang_up_at_step":
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
            _at_step(value, lambda: _twice(signal.SIGHUP))
        elif kind == "full_at_step":
            _at_step(value, _full_disk)
        elif kind == "interrupt_evaluation":
            _in_evaluation(lambda: _me(signal.SIGINT))
        else:
            raise ValueError(kind)
    console = Console(stderr=True, width=200, markup=False)
    try:
        return command.run(command.TrainArguments(config, Path(workdir)), console)
    except InputError as error:
        console.print(f"error: {error}")
        return 2


def main() -> None:
    """Answers each session with how it ended (negative: by that signal) and what it said."""
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            out = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            status = 99
            try:
                config = from_dict(Config, asked["config"], where="config")
                status = _session(config, asked["workdir"], asked["fault"])
            finally:
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps([status, time.monotonic() - began]), flush=True)


if __name__ == "__main__":
    gc.set_threshold(100_000, 20, 20)  # as in the tests
    with shared(optimise_steps=True):
        main()
