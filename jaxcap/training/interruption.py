"""Stop on SIGTERM, Ctrl-C, or a closed terminal, after finishing and saving the current step."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none


class Interrupted(Exception):
    """Training was stopped by a signal, and its state is saved.

    Attributes:
      status: the exit status of the process, 128 + the number of the signal, as in shells.
    """

    def __init__(self, number: int, step: int):
        self.status = 128 + number
        at = f"after step {step}, which is saved" if step else "before the first step"
        super().__init__(f"Stopped by {signal.Signals(number).name} {at}.")


class Interruption:
    """Records the first signal inside its `with` statement; a second one kills the process.

    A closed terminal may send SIGHUP twice: from the shell, and when that ends. So SIGHUP never
    counts as the second one. Where it is ignored, as under nohup, it stays ignored.

    Outside the main thread, where Python allows no signal handlers, it records nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            signals = [signal.SIGTERM, signal.SIGINT]
            if _HANGUP is not None and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
                signals.append(_HANGUP)
            self._former = {each: signal.signal(each, self._note) for each in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._former.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        elif number != _HANGUP:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def check(self, step: int) -> None:
        """Raise `Interrupted` if a signal has arrived."""
        if self.signal is not None:
            raise Interrupted(self.signal, step)
