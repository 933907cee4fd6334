"""1, 2 and 8 devices, jit and pmap, one process and two: the same training."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jaxcap.config import TrainConfig
from jaxcap.data.batch import Batch
from jaxcap.devices.parallel import (
    Parallel,
    check_batch_size,
    check_device,
    create_parallel,
    over_local_devices,
    round_up,
)
from jaxcap.messages.errors import InputError
from jaxcap.training.step.state import TrainState
from jaxcap.training.step.train_step import StepMetrics

PROGRAM = Path(__file__).with_name("parallel_process.py")
Results = dict[str, dict[str, np.ndarray]]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def start(out: Path, variants: str, devices: int, *several: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(out), variants, *map(str, several)],
        env={
            **os.environ,
            "JAX_NUM_CPU_DEVICES": str(devices),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def results(out: Path, *processes: subprocess.Popen[str]) -> Results:
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)
    found: Results = {}
    with np.load(out) as arrays:
        for key, value in arrays.items():
            way, name = key.rsplit(":", 1)
            found.setdefault(way, {})[name] = value
    return found


@pytest.fixture(scope="module")
def one_device(tmp_path_factory: pytest.TempPathFactory) -> Results:
    out = tmp_path_factory.mktemp("one") / "one.npz"
    return results(out, start(out, "jit/random,jit/still", 1))


def assert_same_training(found: Results, one_device: Results) -> None:
    assert len(found) >= 2
    for way, result in found.items():
        expected = one_device["jit/random" if "random" in way else "jit/still"]
        # A resumed run has only the last losses.
        last = expected["losses"][-len(result["losses"]) :]
        np.testing.assert_allclose(result["losses"], last, rtol=1e-5)
        assert result.keys() == expected.keys()
        assert any(name.startswith("batch_stats") for name in result)
        for name, value in expected.items():
            if name == "losses":
                continue
            difference = np.linalg.norm(result[name] - value)
            assert difference <= 1e-5 * np.linalg.norm(value), (way, name)


@pytest.fixture(scope="module")
def four_devices(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    """Return the results of two processes and the checkpoint that they saved half-way."""
    directory = tmp_path_factory.mktemp("four")
    out, address = directory / "out.npz", f"127.0.0.1:{free_port()}"
    ways = f"jit/random>{directory},pmap/random"
    processes = [start(out, ways, 2, address, 2, process) for process in range(2)]
    return results(out, *processes), directory


@pytest.mark.slow
def test_eight_devices_train_as_one(one_device: Results, tmp_path: Path) -> None:
    """With accumulation, batch statistics, dropout, scheduled sampling and uneven captions."""
    out, ways = tmp_path / "out.npz", "jit/random,pmap/random,jit/parts,pmap/parts"
    assert_same_training(results(out, start(out, ways, 8)), one_device)


@pytest.mark.slow
def test_two_processes_of_two_devices_train_as_one(
    one_device: Results, four_devices: tuple[Results, Path]
) -> None:
    assert_same_training(four_devices[0], one_device)


@pytest.mark.slow
def test_two_devices_train_as_one_and_resume_the_run_of_four(
    one_device: Results, four_devices: tuple[Results, Path], tmp_path: Path
) -> None:
    out, ways = tmp_path / "out.npz", f"jit/parts,pmap/parts,jit/random<{four_devices[1]}"
    found = results(out, start(out, ways, 2))
    (resumed,) = (result for way, result in found.items() if "<" in way)
    assert len(resumed["losses"]) == 2
    assert_same_training(found, one_device)


@pytest.mark.slow
def test_the_reference_learns_and_its_setups_differ(one_device: Results) -> None:
    """Otherwise equality would prove nothing."""
    random, still = one_device["jit/random"], one_device["jit/still"]
    assert np.ptp(random["losses"]) > 1e-3
    assert np.abs(random["losses"] - still["losses"]).max() > 1e-3
    moved = [n for n in random if n.startswith("batch_stats") and np.any(random[n] != still[n])]
    assert moved


def _step(
    state: TrainState, batch: Batch, rng: object, *, axis_name: str | None
) -> tuple[TrainState, StepMetrics]:
    total = batch.pixels.astype(jnp.float32).sum()
    if axis_name is not None:
        total = jax.lax.psum(total, axis_name)
    params = {"w": state.params["w"] + total}
    return state.replace(params=params), StepMetrics(total, total, total)


@pytest.mark.parametrize("method", ["jit", "pmap"])
def test_the_state_is_donated(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # `lower` accepts shapes instead of arrays, also inside a state.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    parallel = create_parallel(TrainConfig(parallel=method, batch_size=4))
    assert parallel == Parallel(method, 2)
    w = np.ones((1000, 10), np.float32)
    state = parallel.place(TrainState(jnp.int32(0), {"w": w}, {}, {}))
    batch = Batch(
        pixels=np.ones((4, 2, 2, 3), np.uint8),
        tokens=np.zeros((4, 1, 3), np.int32),
    )
    step = parallel.compile(functools.partial(_step, axis_name=parallel.axis_name))
    shared = batch
    if method == "pmap":
        shared = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)
    lowered = step.lower(state, shared, jax.random.key(0))  # type: ignore[attr-defined]
    # Every device overwrites every byte of the state.
    assert lowered.compile().memory_analysis().alias_size_in_bytes >= w.nbytes + 4
    given = jax.tree.leaves(state)
    after, metrics = step(state, batch, jax.random.key(0))
    assert all(leaf.is_deleted() for leaf in given)
    assert metrics.loss == 4 * 2 * 2 * 3
    np.testing.assert_array_equal(after.params["w"], w + 48)


def test_place_copies() -> None:
    """Arrays may share buffers with the caller, and steps donate theirs."""
    parallel = create_parallel(TrainConfig(batch_size=4))
    mine = jnp.arange(1000.0)
    placed = parallel.place({"x": mine})["x"]
    assert len(placed.addressable_shards) == 2
    jax.jit(lambda x: x + 1, donate_argnums=0)(placed)
    assert placed.is_deleted()
    np.testing.assert_array_equal(mine, np.arange(1000.0))


def test_images_are_captioned_on_all_devices() -> None:
    parallel = create_parallel(TrainConfig(batch_size=4))
    variables = parallel.place({"scale": jnp.float32(2)})
    found = over_local_devices(jax.jit(lambda v, x: v["scale"] * x))(variables, np.arange(4.0))
    assert len(found.addressable_shards) == 2
    np.testing.assert_array_equal(found, [0, 2, 4, 6])
    assert [round_up(n) for n in (1, 2, 50, 51)] == [2, 2, 50, 52]


@pytest.mark.parametrize(
    ("batch_size", "devices", "accumulate", "message"),
    [
        (10, 4, 1, "10, which 4 devices cannot share equally; give 8 or 12, .* multiple of 4"),
        (3, 8, 1, "3, which 8 devices cannot share equally; give 8, or another multiple of 8"),
        (12, 4, 2, "12, which 4 devices in train.accumulate = 2 parts each .* give 8 or 16"),
        (9, 1, 2, "9, which one device in train.accumulate = 2 parts each"),
    ],
)
def test_a_batch_that_devices_cannot_share_is_refused(
    batch_size: int, devices: int, accumulate: int, message: str
) -> None:
    with pytest.raises(InputError, match=f"train.batch_size is {message}"):
        check_batch_size(batch_size, devices, accumulate)
    check_batch_size(devices * accumulate, devices, accumulate)


def test_the_batch_of_every_stage_is_checked() -> None:
    size = 3 * jax.device_count()
    whole = TrainConfig(batch_size=size)
    create_parallel(whole, [whole, TrainConfig(batch_size=size, accumulate=3)])
    with pytest.raises(InputError, match=r"in train\.accumulate = 2 parts each cannot share"):
        create_parallel(whole, [whole, TrainConfig(batch_size=size, accumulate=2)])


def test_a_missing_kind_of_device_is_reported() -> None:
    check_device("auto")
    check_device("cpu")
    with pytest.raises(InputError, match=r"device is tpu.*says: cpu.*jaxcap\[tpu\].*auto"):
        check_device("tpu")


@pytest.mark.slow
def test_a_machine_without_gpus_says_so() -> None:
    program = (
        "from pathlib import Path\n"
        "from rich.console import Console\n"
        "from jaxcap.config import Config, TrainConfig\n"
        "from jaxcap.messages.errors import InputError\n"
        "from jaxcap.training import train\n"
        "config = Config(train=TrainConfig(device='gpu'))\n"
        "try: train(config, Path('/nowhere'), console=Console(quiet=True))\n"
        "except InputError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    if "train.device" not in done.stdout:
        pytest.skip("this machine has a GPU")
    assert "train.device is gpu, but no such device is available" in done.stdout
    assert "jaxcap[cuda]" in done.stdout
