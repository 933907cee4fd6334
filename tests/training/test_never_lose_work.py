"""Killed, interrupted and damaged trainings all end as the uninterrupted one does."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from configurations import changed
from event_reader import assert_shows_its_log
from rich.console import Console

from jaxcap.captioning.loaded_model import load
from jaxcap.config import Config, to_dict
from jaxcap.evaluation import read_metrics
from jaxcap.messages.errors import InputError
from jaxcap.text.vocabulary import SPECIALS, Vocabulary
from jaxcap.training import train
from jaxcap.training.loop import stalled
from jaxcap.training.replaying import replay
from jaxcap.training.workdir import claim

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("long_trainings")]


class Sessions:
    """Run trainings through `sessions.py`."""

    def __init__(self, directory: Path):
        self._output = directory / "output"
        environment = {
            **os.environ,
            "JAX_NUM_CPU_DEVICES": "2",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("sessions.py"))],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train(self, config: Config, workdir: Path, **fault: Any) -> tuple[int, str]:
        """Return the exit status of a session and its output."""
        asked = {
            "config": to_dict(config),
            "workdir": str(workdir),
            "fault": fault,
            "output": str(self._output),
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        status, seconds = json.loads(self.process.stdout.readline())
        print(f"{fault}: {status} after {seconds:.1f} s")
        return status, self._output.read_text()


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    sessions = Sessions(tmp_path_factory.mktemp("sessions"))
    yield sessions
    with sessions.process as process:
        assert process.stdin is not None
        process.stdin.close()


def assert_same_end(found: Path, expected: Path) -> None:
    """Check that parameters, statistics, scores, losses and gradients are equal bit for bit."""
    one, other = (load(each, best=False) for each in (found, expected))
    assert one.step == other.step
    for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(other.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    assert load(found).step == load(expected).step
    assert timeless(found) == timeless(expected)
    assert_shows_its_log(found)


def timeless(workdir: Path) -> list[dict[str, float]]:
    return [
        {k: v for k, v in line.items() if not k.endswith(("_s", "_share", "_gib"))}
        for line in read_metrics(workdir / "metrics.jsonl")
    ]


def test_ten_kills_at_random_moments_change_not_a_bit(
    sessions: Sessions, tiny_run: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = changed(tiny_config, train__save_every=3)
    rng, workdir = random.Random(0), tmp_path / "run"
    faults: list[dict[str, float]] = [{"kill_after_s": rng.uniform(1, 4)} for _ in range(2)]
    faults += [{"kill_at_file": rng.randrange(5, 90)} for _ in range(8)]
    rng.shuffle(faults)
    for fault in faults:
        status, output = sessions.train(config, workdir, **fault)
        assert status == -signal.SIGKILL, output
        assert "damaged" not in output
    reached = max(kept(workdir), default=0)
    status, output = sessions.train(config, workdir)
    assert status == 0, output
    assert f"Resuming from step {reached}" in output
    assert reached > 3  # the kills came during training
    assert_same_end(workdir, tiny_run)
    assert kept(workdir) >= {27, 30}


def kept(workdir: Path) -> set[int]:
    """Return the steps that have checkpoints."""
    return {int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal()}


def test_training_stopped_by_signals_or_a_full_disk_resumes_where_it_was(
    sessions: Sessions, tiny_run: Path, tiny_config: Config, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    status, output = sessions.train(tiny_config, workdir, terminate_at_step=9)
    assert status == 128 + signal.SIGTERM, output
    assert "Stopped by SIGTERM after step 9, which is saved. To resume, repeat the" in output
    status, output = sessions.train(tiny_config, workdir, interrupt_evaluation=True)
    assert status == 128 + signal.SIGINT, output
    assert "Resuming from step 9" in output
    assert "Stopped by SIGINT after step 12, which is saved" in output
    # A closed terminal: the shell passes SIGHUP on, and its end sends another.
    status, output = sessions.train(tiny_config, workdir, hang_up_at_step=2)
    assert status == 128 + signal.SIGHUP, output
    assert "Stopped by SIGHUP after step 14, which is saved" in output
    # A second signal waits for nothing: what was saved is as it was.
    status, output = sessions.train(tiny_config, workdir, terminate_twice_at_step=2)
    assert status == -signal.SIGTERM, output
    saved = kept(workdir)
    assert saved >= {12, 14}
    # The disk is full when the next checkpoint is written.
    status, output = sessions.train(tiny_config, workdir, full_at_step=2)
    assert status == 2, output
    assert "the checkpoint of step 18 could not be written" in output
    assert "Intact: step 12, 14. Free some space" in output
    assert {14} <= kept(workdir) <= saved
    status, output = sessions.train(tiny_config, workdir)
    assert status == 0, output
    assert "Resuming from step 14" in output
    assert_same_end(workdir, tiny_run)


def largest(directory: Path) -> Path:
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def damage(step: Path, kind: str) -> None:
    victim = largest(step / "variables")
    if kind == "flipped bit":
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 4
        victim.write_bytes(content)
    elif kind == "truncated file":
        os.truncate(victim, victim.stat().st_size - 1)
    elif kind == "deleted file":
        victim.unlink()
    elif kind == "empty directory":
        shutil.rmtree(step)
        step.mkdir()
    else:
        shutil.rmtree(step / "training")
        (step / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("flipped bit", "its checksum differs"),
        ("truncated file", "bytes were written|were written"),
        ("deleted file", "is missing"),
        ("empty directory", "manifest.json is missing"),
        ("half-written", "manifest.json is missing"),
    ],
)
def test_damage_is_named_and_training_resumes_from_the_step_before(
    tiny_run: Path, tiny_config: Config, tmp_path: Path, kind: str, said: str
) -> None:
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    damage(workdir / "checkpoints" / "30", kind)
    with pytest.warns(UserWarning, match=f"checkpoints/30: .*damaged and not used: .*({said})"):
        assert load(workdir, best=False).step == 24
    console = Console(file=io.StringIO(), width=100)
    train(tiny_config, workdir, console=console)
    output = console.file.getvalue()
    assert "checkpoints/30: this checkpoint is damaged and not used" in output
    assert "Resuming from step 24" in output
    assert_same_end(workdir, tiny_run)


def test_without_any_sound_checkpoint_training_restarts_and_captioning_says_so(
    tiny_run: Path, tiny_config: Config, tmp_path: Path
) -> None:
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    for step in (workdir / "checkpoints").iterdir():
        damage(step, "flipped bit")
    with (
        pytest.warns(UserWarning, match="damaged and not used"),
        pytest.raises(InputError, match=r"all checkpoints are damaged: step 30, .*24"),
    ):
        load(workdir, best=False)
    console = Console(file=io.StringIO(), width=100)
    train(tiny_config, workdir, console=console)
    assert "Going on" not in console.file.getvalue()
    assert_same_end(workdir, tiny_run)


def test_a_directory_in_use_by_another_training_is_refused(
    tiny_run: Path, tiny_config: Config, tmp_path: Path
) -> None:
    workdir = shutil.copytree(tiny_run, tmp_path / "run")
    vocabulary = Vocabulary.load(workdir / "vocabulary.json")
    with (
        claim(workdir, tiny_config, vocabulary),
        pytest.raises(InputError, match=rf"run: in use by another .*process {os.getpid()} on"),
    ):
        train(tiny_config, workdir, console=Console(quiet=True))
    # What an earlier one left of its lock keeps nobody out.
    assert (workdir / ".lock").exists()
    train(tiny_config, workdir, console=Console(quiet=True))


def test_a_planted_lock_is_not_emptied(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("dear")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(other)
    with (
        pytest.raises(InputError, match="run: cannot write there"),
        claim(tmp_path / "run", Config(), Vocabulary((*SPECIALS, "a"))),
    ):
        pass
    assert other.read_text() == "dear"


@pytest.mark.parametrize("save_every", [0, 1])
def test_a_training_that_diverges_stops_and_can_be_replayed(
    tiny_config: Config, tmp_path: Path, save_every: int
) -> None:
    workdir = tmp_path / "run"
    config = changed(tiny_config, train__learning_rate=1e3, train__save_every=save_every)
    with pytest.raises(InputError) as caught:
        train(config, workdir, console=Console(quiet=True))
    message = str(caught.value)
    (file,) = workdir.glob("diverged-*.npz")
    step = int(file.stem.removeprefix("diverged-"))
    assert f"the loss is nan at step {step}. " in message or f"at step {step}. Its" in message
    assert f"jaxcap replay {file}" in message
    assert max(kept(workdir), default=0) == (step - 1 if save_every else 0)
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN is no JSON

    # Elsewhere there may be no such device.
    written = (workdir / "config.json").read_text()
    assert '"device": "auto"' in written
    (workdir / "config.json").write_text(written.replace('"device": "auto"', '"device": "gpu"'))

    found = replay(file, console=Console(quiet=True))

    assert found.step == step
    assert str(found.divergence) in message
    assert len(found.images) == tiny_config.train.batch_size

    saved = dict(np.load(file))
    for bad in (
        {"tokens": saved["tokens"] + 10**6},
        {"numbers": saved["numbers"] + 10**6},
        {"pixels": saved["pixels"][:, :16]},
        {"after": 99},
    ):
        np.savez(file, **saved | bad)
        with pytest.raises(InputError, match=r"its batch is not that of|is none of the 30 steps"):
            replay(file, console=Console(quiet=True))


def test_other_files_than_diverged_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        replay(tmp_path / "diverged-1.npz", console=Console(quiet=True))
    np.savez(tmp_path / "diverged-1.npz", images=np.zeros(3))
    with pytest.raises(InputError, match="not the batch of a step that diverged"):
        replay(tmp_path / "diverged-1.npz", console=Console(quiet=True))


@pytest.mark.parametrize(
    ("scores", "patience", "expected"),
    [
        ([], 1, False),
        ([1.0, 1.0, 1.0], 0, False),
        ([1.0, 2.0, 2.0], 2, False),
        ([1.0, 2.0, 2.0, 1.5], 2, True),  # as good is not better
        ([3.0, 2.0, 2.5], 2, True),
        ([1.0, 3.0, 2.5, 3.1], 2, False),
    ],
)
def test_patience(scores: list[float], patience: int, expected: bool) -> None:
    assert stalled(scores, patience) is expected


def test_early_stopping_ends_a_training_and_can_be_undone(
    tiny_config: Config, tmp_path: Path
) -> None:
    # With a learning rate of nothing, no epoch is better than the first.
    config = changed(tiny_config, train__learning_rate=1e-12, train__patience=2, train__epochs=4)
    console = Console(file=io.StringIO(), width=100)
    train(config, tmp_path / "run", console=console)
    assert "No better CIDEr-D in 2 epochs: training ends after 3 of 4." in console.file.getvalue()
    assert timeless(tmp_path / "run")[-1]["step"] == 18
    train(config, tmp_path / "run", console=console)
    assert timeless(tmp_path / "run")[-1]["step"] == 18
    train(changed(config, train__patience=0), tmp_path / "run", console=console)
    assert timeless(tmp_path / "run")[-1]["step"] == 24
