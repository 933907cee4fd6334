"""What is on disk after a save, and what comes back."""

import errno
import logging
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from orbax.checkpoint import v1 as ocp

from jaxcap.config import EncoderConfig, TrainConfig
from jaxcap.messages.errors import InputError
from jaxcap.storage.checkpoints import Checkpoints
from jaxcap.storage.stored_arrays import UnreadableError, load_arrays
from jaxcap.training.step.optimizer import create_optimizer
from jaxcap.training.step.state import TrainState


def make_state(
    step: int, *, width: int = 3, trainable: bool = True, extra: Iterable[str] = ()
) -> TrainState:
    """A state whose every number depends on `step`, moments of the optimizer included."""
    rng = np.random.default_rng(step)
    params = {
        "encoder": {
            "kernel": rng.normal(size=(width, 2)),
            **{n: rng.normal(size=4) for n in extra},
        },
        "decoder": {"bias": rng.normal(size=4)},
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    tx = create_optimizer(TrainConfig(), EncoderConfig(trainable=trainable), steps_per_epoch=3)
    stats = {"encoder": {"mean": jnp.full(2, step, jnp.float32)}}
    state = TrainState.create({"params": params, "batch_stats": stats}, tx)
    _, opt_state = tx.update(jax.tree.map(jnp.sin, params), state.opt_state, params)
    return state.replace(step=jnp.array(step, jnp.int32), opt_state=opt_state)


def assert_equal(found: object, expected: object) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def steps_on_disk(directory: Path) -> list[int]:
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [True, False])
def test_a_state_comes_back_bit_for_bit(tmp_path, trainable):
    state = make_state(7, trainable=trainable)
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        checkpoints.save(state, {"m": 1.0})
    like = make_state(0, trainable=trainable)
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        assert_equal(checkpoints.restore(7, like), state)


def test_a_state_without_batch_statistics(tmp_path):
    state = make_state(1).replace(batch_stats={})
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        checkpoints.save(state, {"m": 1.0})
        assert_equal(checkpoints.restore(1, state), state)
        assert_equal(checkpoints.restore_variables(1, state.variables), state.variables)


def test_variables_alone_need_no_optimizer(tmp_path):
    state = make_state(3)
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        checkpoints.save(state, {"m": 1.0})
    for path in sorted((tmp_path / "3" / "training").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with Checkpoints(tmp_path, metric="m", reading_only=True) as checkpoints:
        assert_equal(checkpoints.restore_variables(3, state.variables), state.variables)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([1.0, 3.0, 2.0, 2.5], 2),  # the best is not the latest
        ([1.0, 2.0, 3.0, 4.0], 4),
        ([4.0, 3.0, 2.0, 1.0], 1),
        ([0.0, 0.0, 0.0, 0.0], 4),  # of equals the later
        ([5.0, 5.0, 1.0, 5.0], 4),
        ([5.0, 5.0, 1.0, 0.0], 2),
    ],
)
def test_the_best_and_the_two_latest_are_kept_and_no_others(tmp_path, scores, best):
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        assert checkpoints.latest_step is None
        assert checkpoints.best_step is None
        for step, score in enumerate(scores, start=1):
            checkpoints.save(make_state(step), {"m": score, "other": -score})
    # The one before the latest too, in case the latest is damaged.
    assert steps_on_disk(tmp_path) == sorted({best, 3, 4})
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        assert (checkpoints.best_step, checkpoints.latest_step) == (best, 4)
        assert_equal(checkpoints.restore(best, make_state(0)), make_state(best))


def test_what_a_killed_save_left_is_ignored_and_by_readers_not_touched(tmp_path):
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        checkpoints.save(make_state(1), {"m": 1.0})
    unfinished = tmp_path / "2.orbax-checkpoint-tmp"
    (unfinished / "variables").mkdir(parents=True)
    with Checkpoints(tmp_path, metric="m", reading_only=True) as checkpoints:
        assert (checkpoints.best_step, checkpoints.latest_step) == (1, 1)
    assert unfinished.is_dir()  # it may be a training that is saving just now
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        assert checkpoints.latest_step == 1
        checkpoints.save(make_state(2), {"m": 2.0})
        assert_equal(checkpoints.restore(2, make_state(0)), make_state(2))


def test_folders_of_similar_names_stay(tmp_path):
    for name in ("2024.savings", "5.saving", "6.removing", "7.saving.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis").touch()
    for name in ("8.saving", "9.removing", "10.saving.orbax-checkpoint-tmp"):
        (tmp_path / name / "variables").mkdir(parents=True)
    with Checkpoints(tmp_path, metric="m"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "2024.savings",
        "5.saving",
        "6.removing",
        "7.saving.orbax-checkpoint-tmp",
    ]
    assert len(list(tmp_path.glob("*/thesis"))) == 4


def test_another_model_is_refused_by_naming_what_differs(tmp_path):
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        checkpoints.save(make_state(1), {"m": 1.0})
        for like in (make_state(0, width=5), make_state(0, extra=["scale"])):
            for restore in (
                lambda like=like: checkpoints.restore(1, like),
                lambda like=like: checkpoints.restore_variables(1, like.variables),
            ):
                with pytest.raises(
                    InputError, match=r"is not the one that config\.json describes"
                ) as caught:
                    restore()
                assert len(str(caught.value).removeprefix(str(tmp_path))) < 300
        with pytest.raises(InputError) as caught:
            checkpoints.restore(1, make_state(0, width=5))
        assert "params/encoder/kernel: (3, 2), expected (5, 2)" in str(caught.value)
        with pytest.raises(InputError, match=r"encoder/scale: absent, expected \(4,\)"):
            checkpoints.restore(1, make_state(0, extra=["scale"]))
        for other in (jnp.complex64, jnp.int32):  # Orbax would cast them without a word
            like = jax.tree.map(lambda x, kind=other: x.astype(kind), make_state(0).variables)
            with pytest.raises(
                InputError, match=rf"bias: \(4,\), expected \(4,\) {other.__name__}"
            ):
                checkpoints.restore_variables(1, like)
        many = make_state(0, extra=[f"part{i}" for i in range(9)])
        with pytest.raises(InputError, match="and 6 more"):
            checkpoints.restore(1, many)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["empty", "flipped", "truncated", "deleted", "manifest"])
def test_a_damaged_checkpoint_says_so_and_the_one_before_is_used(tmp_path, damage):
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        checkpoints.save(make_state(1), {"m": 1.0})
        checkpoints.save(make_state(2), {"m": 2.0})
    files = sorted(p for p in (tmp_path / "2").rglob("*") if p.is_file() and p.stat().st_size)
    assert len(files) > 10
    for victim in files:
        content = victim.read_bytes()
        if damage == "empty":
            shutil.rmtree(tmp_path / "2")
            (tmp_path / "2").mkdir()
        elif damage == "flipped":
            # Not in white space, of which the manifest has some.
            at = next(i for i in range(len(content) // 2, len(content)) if content[i] not in b" \n")
            victim.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        elif damage == "truncated":
            os.truncate(victim, len(content) - 2)
        elif damage == "deleted":
            victim.unlink()
        else:
            (tmp_path / "2" / "manifest.json").write_text('{"files": {}, "content": {}, "crc": 0}')
        told: list[str] = []
        with Checkpoints(tmp_path, metric="m", reading_only=True, report=told.append) as found:
            with pytest.raises(InputError, match=r"2: this checkpoint is damaged and not used: "):
                found.restore(2, make_state(0))
            assert_equal(found.restore_newest(make_state(0)), make_state(1))
            assert (found.latest_step, found.best_step) == (1, 1)
        assert len(told) == 1, victim
        assert "2: this checkpoint is damaged and not used: " in told[0]
        if damage in ("empty", "manifest"):
            break
        victim.write_bytes(content)


def test_a_state_of_another_step_or_without_numbers_is_damaged(tmp_path):
    sound, other = make_state(1), make_state(2)
    nan = jax.tree.map(lambda x: x * jnp.nan if x.ndim else x, other.opt_state)
    for bad, message in (
        (other.replace(step=jnp.array(9)), "its state is that of step 9"),
        (other.replace(opt_state=nan), r"training/opt_state/.* NaN or infinite"),
    ):
        said = []
        with Checkpoints(tmp_path, metric="m", report=said.append) as checkpoints:
            checkpoints.save(sound, {"m": 1.0})
            checkpoints.save(bad, {"m": 2.0})
            checkpoints.wait()
            if message.endswith("9"):
                (tmp_path / "9").rename(tmp_path / "2")
        with Checkpoints(tmp_path, metric="m", report=said.append) as checkpoints:
            if message.endswith("9"):
                with pytest.raises(InputError, match=message):
                    checkpoints.restore_variables(2, sound.variables)
            assert_equal(checkpoints.restore_newest(make_state(0)), sound)
        assert re.search(message, "\n".join(said))


def test_folders_that_are_no_checkpoints_are_not_removed(tmp_path):
    (tmp_path / "2019").mkdir()
    (tmp_path / "2019" / "photo.jpg").write_bytes(b"dear")
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        assert checkpoints.restore_newest(make_state(0)) is None
        for step in (1, 2, 3, 4):
            checkpoints.save(make_state(step), {"m": 1.0})
    assert steps_on_disk(tmp_path) == [3, 4, 2019]
    assert (tmp_path / "2019" / "photo.jpg").read_bytes() == b"dear"


@pytest.mark.parametrize("name", ["2", "2.removing", "2.saving"])
def test_no_step_takes_the_place_of_a_folder_that_is_no_checkpoint(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "photo.jpg").write_bytes(b"dear")
    message = rf"step 2 could not be written.*{name}.*Intact: step 1"

    def save() -> None:
        with Checkpoints(tmp_path, metric="m") as checkpoints:
            checkpoints.save(make_state(1), {"m": 1.0})
            checkpoints.save(make_state(2), {"m": 2.0})

    with pytest.raises(InputError, match=message):
        save()
    assert (tmp_path / name / "photo.jpg").read_bytes() == b"dear"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", name]


def test_chunks_larger_than_their_array_are_not_decompressed(tmp_path):
    kinds = ocp.options.ArrayOptions(saving=ocp.options.ArrayOptions.Saving(use_ocdbt=False))
    with ocp.Context(array_options=kinds):
        ocp.save_checkpointables(tmp_path / "1", {"variables": {"bias": jnp.arange(4.0)}})
    like = {"variables": {"bias": jnp.zeros(4)}}
    np.testing.assert_array_equal(
        load_arrays(tmp_path / "1", like)["variables"]["bias"], [0, 1, 2, 3]
    )
    described = tmp_path / "1" / "variables" / "bias" / "zarr.json"
    text = described.read_text()
    described.write_text(text.replace('"chunk_shape":[4]', f'"chunk_shape":[{2**29}]'))
    with pytest.raises(UnreadableError, match=r"bias has the shape \(4,\), but chunks of \(5"):
        load_arrays(tmp_path / "1", like)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("zarr.json", b"{}", r"^no arrays are in variables, or their descriptions are damaged$"),
        ("c/0", b"no chunk", r"^its arrays cannot be read \(ValueError: .*\"bias/c/0\" in OCDBT"),
    ],
)
def test_damage_within_a_database_is_named(tmp_path, key, value, message):
    like = {"variables": {"bias": jnp.arange(4.0)}}
    ocp.save_checkpointables(tmp_path / "1", like)
    base = f"file://{tmp_path}/1/variables/"
    tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()[f"bias/{key}"] = value
    with pytest.raises(UnreadableError, match=message):
        load_arrays(tmp_path / "1", like)


def test_a_number_in_place_of_an_array_is_named(tmp_path):
    ocp.save_checkpointables(tmp_path / "1", {"variables": {"bias": 3.5}})
    with pytest.raises(UnreadableError, match=r"^bias is stored as a float, not as an array$"):
        load_arrays(tmp_path / "1", {"variables": {"bias": jnp.zeros(())}})


def test_an_interrupt_while_loading_is_no_damage(tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise KeyError("the interrupt, as Orbax passes it on")

    monkeypatch.setattr("jaxcap.storage.stored_arrays.ocp.metadata", interrupted)
    # Where the tests run in the background, the shell has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            load_arrays(tmp_path, {"variables": {}})
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_damage_to_what_is_not_read_does_not_matter(tmp_path):
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        checkpoints.save(make_state(1), {"m": 1.0})
    for path in (tmp_path / "1" / "training").rglob("manifest.ocdbt"):
        path.write_bytes(b"")
    variables = make_state(1).variables
    with Checkpoints(tmp_path, metric="m", reading_only=True) as checkpoints:
        step, found = checkpoints.restore_sound_variables(variables, best=True)
        assert_equal(found, variables)
        assert step == 1
        with pytest.raises(InputError, match="damaged and not used: training"):
            checkpoints.restore(1, make_state(0))


@pytest.mark.slow
def test_a_state_may_be_donated_while_it_is_being_written(tmp_path):
    spend = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        for step in range(1, 5):
            state = jax.tree.map(jnp.copy, make_state(step, width=2**18))
            checkpoints.save(state, {"m": float(step)})
            jax.block_until_ready(spend(state))
            assert_equal(
                checkpoints.restore(step, make_state(0, width=2**18)), make_state(step, width=2**18)
            )


def test_after_an_error_nothing_is_written_or_logged_any_more(tmp_path, monkeypatch, caplog):
    """As on a full disk, where one of Orbax's threads fails and another goes on."""
    late = tmp_path / "1.saving.orbax-checkpoint-tmp" / "variables"

    class Writer(threading.Thread):
        __module__ = "orbax.checkpoint.futures"

        def run(self) -> None:
            time.sleep(0.2)
            late.mkdir(parents=True)
            logging.getLogger("absl").error("a page")

    class Response:
        def result(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save(*_: object) -> Response:
        Writer().start()
        return Response()

    monkeypatch.setattr(ocp, "save_checkpointables_async", save)
    checkpoints = Checkpoints(tmp_path, metric="m")
    checkpoints.save(make_state(1), None)
    with pytest.raises(InputError, match=r"step 1 could not be written .*Free some space"):
        checkpoints.wait()
    time.sleep(0.3)
    assert not list(tmp_path.iterdir())
    assert not caplog.records


def test_scores_may_come_later_and_damaged_steps_go_with_the_next_save(tmp_path):
    with Checkpoints(tmp_path, metric="m") as checkpoints:
        for step, score in ((1, 5.0), (2, None), (3, 1.0), (4, 2.0)):
            checkpoints.save(make_state(step), None, note={"step": step})
            assert not checkpoints.scored(step)
            if score is not None:
                checkpoints.score(step, {"m": score})
                assert checkpoints.scored(step)
        assert checkpoints.note(4) == {"step": 4}
    assert steps_on_disk(tmp_path) == [1, 3, 4]
    (tmp_path / "4" / "manifest.json").unlink()
    with Checkpoints(tmp_path, metric="m", report=lambda _: None) as checkpoints:
        assert_equal(checkpoints.restore_newest(make_state(0)), make_state(3))
        checkpoints.save(make_state(5), None)
    assert steps_on_disk(tmp_path) == [1, 3, 5]
