"""Reports of a training: time waited for data, memory, speeds, lines for every terminal."""

from __future__ import annotations

import functools
import io
import re
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxcap.config import DataConfig
from jaxcap.messages.errors import InputError
from jaxcap.messages.progress import Display, timed
from jaxcap.training import compilations, log, memory
from jaxcap.training.input_wait import Waiting
from jaxcap.training.step.train_step import StepMetrics
from jaxcap.training.training_text import training_text


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 100.0
        self._thread = threading.local()
        monkeypatch.setattr(
            time, "monotonic", lambda: getattr(self._thread, "waited_until", self.now)
        )

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def step(self, seconds: float) -> Any:
        """The result of a step that the device computes for so long, from now on.

        It is then later for the thread that waited for it, and for no other.
        """
        clock, end = self, self.now + seconds

        class Result:
            def block_until_ready(self) -> None:
                clock._thread.waited_until = end

        return Result()


def test_only_idle_time_of_the_device_is_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)

    def batches() -> Any:
        clock.passes(3)  # nothing has been given to the device yet: 3 s lost
        yield 2
        clock.passes(5)  # it computes for the first 2 of them: 3 s lost
        yield 10
        clock.passes(4)  # it computes for 10: nothing lost
        yield 1

    with Waiting() as waiting:
        for seconds in waiting.batches(batches()):
            waiting.watch_step(clock.step(seconds), lambda: None)
        assert waiting.seconds() == pytest.approx(3 + 3 + 0)
        assert waiting.seconds() == 0


def test_the_end_of_each_step_is_reported() -> None:
    ended, last_ended, began = [], threading.Event(), time.monotonic()

    def note(number: int) -> None:
        ended.append(number)
        if number == 2:
            last_ended.set()

    with Waiting() as waiting:
        for number in waiting.batches(iter(range(3))):
            waiting.watch_step(jnp.ones(3) * number, functools.partial(note, number))
        assert last_ended.wait(timeout=60)
        assert 0 <= waiting.seconds() <= time.monotonic() - began
    assert ended == [0, 1, 2]


def test_speeds_leave_out_pauses_and_an_epoch_is_the_sum_of_its_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    meter = log.Meter(0)
    tokens = np.ones((8, 5, 7), np.int32)
    tokens[0, 0] = 0  # one caption less
    metrics = StepMetrics(*(np.float32(x) for x in (30, 10, 1)))
    for _ in range(2):
        meter.add(metrics, tokens)
        clock.passes(1)
    with meter.paused():
        clock.passes(1000)
    first = meter.line(waited=0.5)
    assert first["images_per_s"] == pytest.approx(16 / 2)
    assert first["captions_per_s"] == pytest.approx(2 * 39 / 2)
    assert first["waiting_share"] == pytest.approx(0.25)
    meter.add(metrics, tokens)
    clock.passes(6)
    assert meter.line(waited=1.5)["waiting_share"] == pytest.approx(0.25)
    assert meter.epoch() == {
        "loss": pytest.approx(3),
        "images_per_s": pytest.approx(24 / 8),
        "waiting_share": pytest.approx(2 / 8),
    }
    # A session that only evaluates has no speed.
    for note in ({"steps": "abc"}, {"steps": [[1]]}, {"loss": None}, {"words": 10**400}, {"x": 1}):
        with pytest.raises(InputError, match=r"^here[.:]"):
            log.Meter(6, note, where="here")
    assert log.Meter(6, {"loss": 30.0, "words": 10.0}).epoch() == {"loss": 3.0}


class Device:
    def __init__(self, **stats: int):
        self._stats = stats

    def memory_stats(self) -> dict[str, int] | None:
        return self._stats or None


def test_memory_is_measured_on_the_fullest_device(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    devices = [
        Device(peak_bytes_in_use=2 * gib, bytes_limit=8 * gib, bytes_in_use=1),
        Device(peak_bytes_in_use=3 * gib, bytes_limit=9 * gib),
        Device(),
    ]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert memory.peak_memory() == {"device_peak_gib": 3.0, "device_limit_gib": 9.0}
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(peak_bytes_in_use=gib)])
    assert memory.peak_memory() == {"device_peak_gib": 1.0}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_on_a_cpu_the_memory_of_the_process_is_measured() -> None:
    found = memory.peak_memory()
    assert set(found) == {"process_peak_gib"}
    # The kernel's record of this process's peak memory, in kB.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found["process_peak_gib"] == pytest.approx(int(peak) / 2**20, rel=0.02)


LINE: dict[str, int | float] = {
    "loss": 2.34567,
    "learning_rate": 0.00042,
    "images_per_s": 61.23,
    "captions_per_s": 306.4,
    "waiting_share": 0.034,
    "process_peak_gib": 2.04,
}


@pytest.mark.slow
def test_figures_are_short_and_the_most_important_come_first() -> None:
    shown = "loss 2.346  lr 0.00042  61.2 images/s  306 captions/s  waiting 3%  process 2.0 GiB"
    assert log.figures(LINE) == shown
    on_device = {**LINE, "device_peak_gib": 10.51, "device_limit_gib": 79.1}
    assert log.figures(on_device).endswith("waiting 3%  device 10.5 of 79.1 GiB")


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (60, "step  120/3000 -:--:-- left loss 2.346  lr 0.00042  61.2 i…"),
        (160, f"step {' ' * 8}  120/3000 -:--:-- left {log.figures(LINE)}"),
    ],
)
def test_a_narrow_terminal_has_no_bar_and_cuts_the_end(width: int, expected: str) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    display = Display(console, "step", total=3000)
    display.update(120, log.figures(LINE))
    console.print(display)
    (line,) = console.file.getvalue().splitlines()
    assert line == expected  # without colours, the bar is blank


def test_without_a_terminal_there_are_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    console = Console(file=io.StringIO(), width=40)
    with Display(console, "step", total=30, done=10) as display:
        display.advance(11)
        clock.passes(14)  # compilation, which says nothing about the time that is left
        display.update(12, "loss 3.000")  # too soon after the beginning
        clock.passes(10)
        display.update(14, "loss 2.000")
    assert console.file.getvalue() == "step 14/30  loss 2.000  left 0:01:20\n"


def test_work_of_unknown_length_shows_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    console = Console(file=io.StringIO(), width=40)
    with Display(console, "captioning", total=None) as display:
        clock.passes(20)
        display.update(40, "1 failed")
    assert console.file.getvalue() == "captioning 40  1 failed\n"


def test_slow_work_is_reported_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    console = Console(file=io.StringIO(), width=40)
    with timed(console, "Reading captions"):
        clock.passes(1.9)
    with timed(console, "Loading [weights]"):
        clock.passes(2.5)
    assert console.file.getvalue() == "Reading captions…\nLoading [weights]…\n  2.5 s\n"


def test_long_compilations_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(compilations, "LONG", 0.0)
    salt = time.time_ns() % 2**31  # never compiled before

    def polish(x: jax.Array) -> jax.Array:
        return jnp.tanh(x * salt)

    with compilations.reported_to(said.append):
        jax.jit(polish)(jnp.ones(3))
    jax.jit(polish)(jnp.ones(4))
    (line,) = [line for line in said if "polish" in line]
    assert line.startswith("Compiled polish in ")
    assert line.endswith(" s")


def test_harmful_captions_are_reported_in_a_new_run_but_not_on_resuming(
    tmp_path: Path,
) -> None:
    source = [{"captions": ["a dog on the left"], "image": b"", "image_id": "x"}] * 120
    config = DataConfig(min_count=1, captions_per_image=1, length_buckets=(16,), flip=True)
    said: list[str] = []
    saved = tmp_path / "vocabulary.json"
    vocabulary, _ = training_text([source], config, saved=saved, warn=said.append)
    few, sides = said
    assert few.startswith("warning: train: 120 images are few")
    assert sides.startswith("warning: train: 'left' 120 times in 120 captions")
    vocabulary.save(saved)
    training_text([source], config, saved=saved, warn=said.append)
    assert len(said) == 2
