"""The `jaxcap` command.

It parses arguments, calls a command of `jaxcap.commands` and turns errors into messages. A user's
mistake ends with one message on standard error and status 2; a partial failure with status 1.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

import jaxcap
from jaxcap.messages.errors import InputError, did_you_mean, message_line, one_line

_COMMANDS = {
    "prepare": "Build a data set for training from your images and captions.",
    "data": "Inspect a prepared data set, and warn about problems.",
    "configs": "List the configurations that come with jaxcap, or print one.",
    "train": "Train the captioner of a configuration, or resume a run.",
    "finetune": "Fine-tune the model in the package, or another, on your own data.",
    "evaluate": "Caption the images of a split, score the captions, write a report.",
    "caption": "Caption photographs.",
    "score": "Score a file of captions as papers do.",
    "serve": "Caption photographs over HTTP, with a page.",
    "export": "Write a trained captioner to a file, in one of two formats.",
    "replay": "Repeat the step at which training diverged.",
    "weights": "Inspect a weight file: find the encoder that it fits, or convert it.",
}
"""The modules of `jaxcap.commands`, imported on use, and the first line of their descriptions."""


def main(*command: str) -> None:
    """Entry point of the `jaxcap` command.

    Args:
      command: arguments before those of the command line.
    """
    warnings.formatwarning = _one_line_warning
    sys.unraisablehook = unraisable_hook(sys.unraisablehook)
    # Messages show the command to repeat, however it was called.
    sys.argv = ["jaxcap", *command, *sys.argv[1:]]

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller; files must not get its number
            stream = open(os.open(os.devnull, os.O_RDWR), mode, closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names must be printable in any locale; `\udcff` is also valid in JSON.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        status = _run(sys.argv[1:])
    except InputError as error:
        _complain(f"error: {error}")
        status = 2
    except KeyboardInterrupt:
        _complain("interrupted")
        status = 130
    except BrokenPipeError:  # the reader of our output has exited
        _abandon_stdout()
        status = 1
    except OSError as error:
        if error.errno not in _WAYS_OUT and error.filename is None:
            raise
        _abandon_stdout()
        place = message_line(os.fsdecode(error.filename or "standard output or a file"))
        way_out = _WAYS_OUT.get(error.errno or 0, "")
        _complain(f"error: {place}: {error.strerror or error}. {way_out}".rstrip())
        status = 2
    sys.exit(status)


def _run(given: list[str]) -> int:
    """Run the command that was given, and return its status."""
    if given == ["--version"]:
        print(f"jaxcap {jaxcap.__version__}")
        return 0
    if not given or given[0] in ("-h", "--help"):
        print(describe_commands(), file=sys.stdout if given else sys.stderr)
        return 0 if given else 2
    # Imported here, because the list of commands needs none of it.
    from jaxcap.commands import parsing
    from jaxcap.config.local_paths import local_arguments
    from jaxcap.messages.progress import PlainConsole

    _end_cleanly()
    name, *rest = local_arguments(given)
    if name not in _COMMANDS:
        raise InputError(
            f"unknown command '{name}'.{did_you_mean(name, _COMMANDS)} "
            f"Commands: {', '.join(_COMMANDS)}."
        )
    command = importlib.import_module(f"jaxcap.commands.{name}")
    if hasattr(command, "parse"):  # defaults or an order that depend on other arguments
        arguments = command.parse(rest)
    else:
        kind = getattr(command, f"{name.title()}Arguments")
        arguments = parsing.parse(kind, f"jaxcap {name}", rest)
    status: int = command.run(arguments, PlainConsole(stderr=True))
    return status


def describe_commands() -> str:
    """List the commands, each with the first line of its description."""
    lines = [f"  {name:10}{about}" for name, about in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxcap COMMAND …",
            "",
            "Image captioning in JAX: a convolutional encoder and an LSTM decoder.",
            "",
            *lines,
            "",
            "jaxcap COMMAND --help describes a command; jaxcap --version prints the version.",
        ]
    )


def _one_line_warning(message: Warning | str, *_: object, **__: object) -> str:
    from jaxcap.messages.progress import escaped

    return f"warning: {escaped(one_line(str(message)))}\n"


def _end_cleanly() -> None:
    """Let signals that end this process first delete the files that it has not finished."""
    from jaxcap.files import remove_unfinished

    def end(number: int, frame: FrameType | None) -> None:
        remove_unfinished()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        # nohup ignores SIGHUP, and who calls `main` may have a handler.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


def unraisable_hook(usual: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a `sys.unraisablehook` that sends a Ctrl-C again that came in a callback.

    Python ignores it there. JAX has a callback that runs with every garbage collection. An import
    collects often.

    One error is left out. If a checkpoint cannot be written, Orbax closes its loops before
    TensorStore calls back, and an `InputError` says what happened.
    """
    main_thread = threading.get_ident()

    def hook(unraisable: Any) -> None:
        # Windows has no pthread_kill.
        if issubclass(unraisable.exc_type, KeyboardInterrupt) and hasattr(signal, "pthread_kill"):
            # Not at once: it would be ignored here, too.
            again = threading.Timer(0.01, signal.pthread_kill, [main_thread, signal.SIGINT])
            again.daemon = True
            again.start()
        elif str(unraisable.exc_value) != "Event loop is closed":
            usual(unraisable)

    return hook


def _complain(message: str) -> None:
    from jaxcap.messages.progress import PlainConsole

    PlainConsole(stderr=True).print(message, style="red", soft_wrap=True)


_ROOM = "Free some space, or write to another disk; then repeat the command."
_ALLOWED = "Change the permissions, or give another place; then repeat the command."
_ANOTHER = "Remove it, or give another place."
_WAYS_OUT = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "Raise the limit of this shell (ulimit -f), or write to another disk.",
    errno.EIO: "The disk or its connection fails; try another one.",
    errno.EBUSY: "It is in use, or a mount point; give another place.",
    errno.EROFS: "Give a place that is not read-only.",
    errno.EACCES: _ALLOWED,
    errno.EPERM: _ALLOWED,
    errno.ENAMETOOLONG: "Give a shorter name.",
    errno.EISDIR: _ANOTHER,
    errno.ENOTDIR: _ANOTHER,
    errno.EEXIST: _ANOTHER,
    errno.ENOENT: (
        "It or its folder was removed or replaced meanwhile; repeat the command. If that does not "
        "help, it is a bug: please report it."
    ),
    errno.ELOOP: "Its links lead in a circle; remove one of them, or give another place.",
}
"""What the user can do about full or broken disks, mount points, limits, missing permissions, names
that no file has, folders in place of files, the reverse, and folders that disappear. These occur
anywhere. Other errors of a file have only a reason."""


def _abandon_stdout() -> None:
    """Redirect standard output to nowhere, or Python would fail again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
