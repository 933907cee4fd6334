"""Readers of files from strangers read or complain, and nothing else; `make fuzz` tries harder."""

from __future__ import annotations

import random
from pathlib import Path

import fuzzing
import jaxtyping
import pytest
from fuzzing import Worker, fuzz
from mutation import mutate, mutate_json
from readers import Reader, all_readers

from jaxcap.messages.errors import InputError


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return all_readers(tmp_path_factory.mktemp("readers"))


@pytest.mark.slow
def test_every_seed_is_read(readers: dict[str, Reader], tmp_path: Path) -> None:
    for reader in readers.values():
        for number, seed in enumerate(reader.seeds):
            folder = tmp_path / f"{reader.name.replace('/', ' ')} {number}"
            path = folder / reader.file
            folder.mkdir()
            reader.prepare(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(seed if reader.sign is None else reader.sign(seed))
            reader.read(path)


@pytest.mark.slow
def test_every_reader_reads_or_complains(
    readers: dict[str, Reader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Checking the types of all calls doubles the time, and a machine may be slow and busy.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(fuzzing, "HANG", 4 * fuzzing.HANG)
    faults = {}
    for reader in readers.values():
        tries = range(len(reader.made) + 20)
        tally = fuzz(reader, tries, tmp_path)
        assert tally.tries == len(tries)
        if tally.faults:
            faults[reader.name] = tally
    assert faults == {}, "\n".join(str(tally.examples) for tally in faults.values())


@pytest.mark.slow
def test_faults_are_counted(tmp_path: Path) -> None:
    """The harness finds what it is there to find."""

    def read(path: Path) -> None:
        data = path.read_bytes()
        if data == b"message":
            raise InputError("no")
        if data == b"hang":
            while True:
                pass
        if data == b"memory":
            bytearray(3 * 2**29)
        if data == b"traceback":
            raise KeyError(data)

    made = b"message", b"hang", b"memory", b"traceback", b"fine"
    tally = fuzz(Reader("x", (), read, made=made), range(5), tmp_path)
    assert (tally.tries, tally.messages) == (5, 1)
    assert tally.faults == {"hang": [1], "memory": [2], "traceback": [3]}


def test_damage_is_the_same_in_every_run() -> None:
    for seed, change in ((b'{"a": [1, {"b": "c"}]}', mutate_json), (b"abc" * 9, mutate)):
        one, other = ([change(seed, random.Random(i)) for i in range(50)] for _ in range(2))
        assert one == other
        assert len(set(one)) > 30


def test_damage_does_not_depend_on_earlier_damage() -> None:
    seed = b'{"a": [1, {"b": "c"}]}'
    first = mutate_json(seed, random.Random("x"))
    for number in range(3000):  # enough to put a value into itself, if it were not copied
        mutate_json(seed, random.Random(number))
    assert mutate_json(seed, random.Random("x")) == first


@pytest.mark.slow
def test_a_worker_runs_tries_of_a_reader(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    tally = worker.fuzz("TFRecord", range(7))
    worker.close()
    assert (tally.tries, tally.faults) == (7, {})
