"""Processes that train together, dead peers, and processes that cannot connect."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest
from configurations import changed

from jaxcap.config import Config, TrainConfig, load_config, save_config
from jaxcap.devices import hosts
from jaxcap.evaluation import read_metrics
from jaxcap.messages.errors import InputError

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("hosts_process.py")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def start(config: Path, workdir: Path, port: int, processes: int, process: int) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable,
            PROGRAM,
            config,
            workdir,
            f"127.0.0.1:{port}",
            *map(str, (processes, process)),
        ],
        env={
            **os.environ,
            "JAX_NUM_CPU_DEVICES": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(config: Path, workdir: Path) -> list[subprocess.Popen]:
    port = free_port()
    return [start(config, workdir, port, 2, process) for process in range(2)]


def wait_for_step(step: int, workdir: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not any(line["step"] >= step for line in read_metrics(workdir / "metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def test_a_dead_peer_stops_the_other_and_a_restart_resumes(
    tiny_config: Config, tiny_run: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    save_config(tiny_config, tmp_path / "config.json")
    first, second = start_two(tmp_path / "config.json", workdir)
    try:
        wait_for_step(8, workdir, first)  # when the first epoch, of six, is evaluated and saved
        second.kill()
        died = time.monotonic()
        output, _ = first.communicate(timeout=300)
        assert time.monotonic() - died < 60
    finally:
        first.kill()
        second.kill()
    assert first.returncode == 1
    # It notices the broken connection or the missing heartbeat.
    named = "shared by 2 processes failed", "Process 1 of 2 processes does not answer"
    assert any(cause in output for cause in named)
    assert "Restart all of them" in output
    assert "Training in" in output
    assert "2 CPU devices of 2 processes" in output
    assert "Training in" not in second.communicate()[0]

    again = start_two(tmp_path / "config.json", workdir)
    try:
        wait_for_step(16, workdir, again[0])  # at step 12 they might still stop, after its line
        again[1].send_signal(signal.SIGTERM)  # one gets the signal, and both stop
        outputs = [process.communicate(timeout=300)[0] for process in again]
    finally:
        for process in again:
            process.kill()
    assert [process.returncode for process in again] == [128 + signal.SIGTERM] * 2, outputs
    assert "Resuming from step 6" in outputs[0]
    assert all("Stopped by SIGTERM after step" in output for output in outputs)

    # The log equals that of one process with two devices, with every step once.
    found, expected = (read_metrics(run / "metrics.jsonl") for run in (workdir, tiny_run))
    losses = [
        {line["step"]: line["loss"] for line in lines if "loss" in line}
        for lines in (found, expected)
    ]
    last = max(int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert last >= 18  # at an end of an epoch, or a tenth step
    assert list(losses[0]) == [step for step in losses[1] if step <= last]
    for step in (1, 4, 6, 8, 12):
        assert losses[0][step] == pytest.approx(losses[1][step], rel=1e-4)
    assert losses[0][18] == pytest.approx(losses[1][18], rel=0.1)
    scores = [line["step"] for line in found if "dev/CIDEr-D" in line]
    assert scores == [step for step in (6, 12, 18, 24, 30) if step <= last]
    assert load_config(workdir / "config.json").data == tiny_config.data


def test_one_bad_process_stops_all_with_its_reason(tiny_config: Config, tmp_path: Path) -> None:
    """One process has no data; the other must not wait for it."""
    save_config(tiny_config, tmp_path / "good.json")
    save_config(changed(tiny_config, data__data_dir="/nowhere"), tmp_path / "bad.json")
    port, workdir = free_port(), tmp_path / "run"
    processes = [
        start(tmp_path / name, workdir, port, 2, process)
        for process, name in enumerate(("good.json", "bad.json"))
    ]
    good, bad = (process.communicate(timeout=300)[0] for process in processes)
    assert [process.returncode for process in processes] == [2, 2], good + bad
    assert "error: process 1: " in good
    assert "not prepared in /nowhere" in good
    assert "error: There" in bad or "not prepared in /nowhere" in bad
    assert not workdir.exists()


@pytest.mark.parametrize("process", [0, 1])
def test_waiting_for_missing_processes_times_out(
    tiny_config: Config, tmp_path: Path, process: int
) -> None:
    save_config(tiny_config, tmp_path / "config.json")
    port = free_port()
    alone = start(tmp_path / "config.json", tmp_path / "run", port, 3, process)
    output, _ = alone.communicate(timeout=300)
    if process:
        assert alone.returncode == 2
        assert f"The coordinator 127.0.0.1:{port} does not answer within 3 seconds" in output
    else:
        assert alone.returncode == 1
        assert f"Only some of the 3 processes connected at 127.0.0.1:{port}" in output
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 2}, "also need train.coordinator and train.process_id"),
        ({"coordinator": "a:1"}, "also need train.processes and train.process_id"),
        *(
            ({"coordinator": each, "processes": 2, "process_id": 0}, "; expected HOST:PORT")
            for each in ("a", ":1", "a..b:1", "a:65536")
        ),
        ({"coordinator": "a:1", "processes": 2, "process_id": 2}, "number from 0 to 1"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        hosts.connect(TrainConfig(**options))  # type: ignore[arg-type]


def test_environment_variables_connect_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(InputError, match="JAX_NUM_PROCESSES is 'two'"):
        hosts.connect(TrainConfig())
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "5")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "a:1")
    with pytest.raises(InputError, match="process_id is 5, of 2 processes"):
        hosts.connect(TrainConfig())


def test_sigterm_ends_a_connected_process() -> None:
    """JAX's preemption service would take the signal, and the process would go on."""
    program = f"""
import os, signal
from jaxcap.config import TrainConfig
from jaxcap.devices import hosts
hosts.connect(TrainConfig(coordinator="127.0.0.1:{free_port()}", processes=1, process_id=0))
os.kill(os.getpid(), signal.SIGTERM)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=100)
    assert ended.returncode == -signal.SIGTERM, ended.stderr


def test_a_single_process_does_not_connect() -> None:
    hosts.connect(TrainConfig())
    assert hosts.share() == (0, 1)
    assert hosts.is_first()
    assert hosts.gather({"a": [1]}) == [{"a": [1]}]
    with pytest.raises(InputError, match="mine"), hosts.all_succeed():
        raise InputError("mine")


@pytest.mark.parametrize(
    ("error", "who"),
    [
        ("DEADLINE_EXCEEDED: Barrier timed out.\nSome timed out task names:\n1\n", "Process 1"),
        ("UNAVAILABLE: connection refused", "One"),
    ],
)
@pytest.mark.parametrize(("connected", "ended"), [(True, False), (False, False), (True, True)])
def test_a_process_exits_when_another_misses_a_meeting_during_the_run(
    monkeypatch: pytest.MonkeyPatch, connected: bool, ended: bool, error: str, who: str
) -> None:
    met: list[str] = []
    left: list[str] = []
    ending = threading.Event()

    def meet(*, key: str, timeout_ms: int) -> None:
        if len(met) == 3:
            if ended:
                ending.set()
            raise RuntimeError(error)
        met.append(key)

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: connected)
    hosts.watch(meet, 2, ending, interval=0.001, leave=left.append)

    assert len(set(met)) == 3  # a barrier serves once
    assert len(left) == (connected and not ended)
    assert all(message.startswith(f"{who} of 2 processes does not") for message in left)
