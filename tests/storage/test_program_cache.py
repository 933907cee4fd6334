"""Programs on disk: nothing is traced twice, and nothing wrong is ever used."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcap
from jaxcap.storage import program_cache
from jaxcap.storage.program_cache import Store, kept


class Sums(NamedTuple):
    rows: jax.Array
    most: jax.Array


class Traced:
    """A function that counts how often it is traced."""

    def __init__(self) -> None:
        self.times = 0
        self.jitted = jax.jit(self._sums)

    def _sums(self, weights: dict, x: jax.Array) -> Sums:
        self.times += 1
        rows = (x * weights["w"]).sum(axis=1)
        return Sums(rows, rows.argmax())


def call(store: Store, *, rows: int = 2, identity: str = "sums") -> tuple[int, Sums]:
    """How often it was traced, and the result, in what stands for a process of its own."""
    function = Traced()
    program = kept(function.jitted, store, result=Sums, identity=identity)
    x = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
    arguments = ({"w": jnp.array([1.0, 2.0, 3.0]), "unused": jnp.zeros(4)}, x)
    program(*arguments)
    return function.times, program(*arguments)


def test_nothing_is_traced_twice(tmp_path):
    store = Store(tmp_path / "not there yet")
    for times in (1, 0):
        traced, found = call(store)
        assert traced == times
        assert isinstance(found, Sums)
        assert found.rows.tolist() == [8.0, 26.0]  # 0+2+6, 3+8+15
        assert int(found.most) == 1
    # What it depends on is part of the key.
    traced, found = call(store, rows=1)
    assert (traced, found.rows.tolist()) == (1, [8.0])
    assert call(store, identity="others")[0] == 1
    assert call(store)[0] == 0


@pytest.mark.slow
def test_a_start_imports_nothing_slow_that_captioning_does_not_need(tmp_path):
    program = """if True:
        import sys
        from pathlib import Path
        import jax, jax.numpy as jnp
        import jaxcap.caption_files.shard_writing, jaxcap.captioning.loaded_model
        from jaxcap.storage.program_cache import Store, kept
        add = kept(jax.jit(lambda x: x + 1), Store(Path(sys.argv[1])), result=float, identity="")
        assert add(jnp.float32(2)) == 3
        print({"scipy", "regex", "tarfile"} & set(sys.modules))
        """
    command = [sys.executable, "-c", program, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_arrays_on_several_devices_are_computed_there(tmp_path):
    function = Traced()
    program = kept(function.jitted, Store(tmp_path / "none"), result=Sums, identity="sums")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("rows",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    x = jax.device_put(np.arange(6, dtype=np.float32).reshape(2, 3), rows)
    found = program({"w": np.array([1.0, 2.0, 3.0], np.float32)}, x)
    assert found.rows.tolist() == [8.0, 26.0]
    assert not (tmp_path / "none").exists()


def test_options_of_jax_are_part_of_the_key(tmp_path):
    store = Store(tmp_path)
    program_cache._code.cache_clear()  # options that other tests have changed since
    before = program_cache.key_of("x")
    program_cache._code.cache_clear()
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    try:
        assert program_cache.key_of("x") != before
        assert call(store)[0] == 1
    finally:
        jax.config.update("jax_numpy_dtype_promotion", "standard")
        program_cache._code.cache_clear()
    assert program_cache.key_of("x") == before


def test_what_cannot_be_loaded_is_made_anew(tmp_path):
    store = Store(tmp_path)
    call(store)
    (entry,) = tmp_path.iterdir()
    for content in (b"no program", b"\0\2" + zlib.compress(b"no program")):
        store.put(entry.name, content)
        assert call(store)[0] == 1
        assert call(store)[0] == 0


@pytest.mark.parametrize("damage", [b"", b"no newline", b"a\nb"])
def test_what_is_damaged_is_made_anew(tmp_path, damage):
    store = Store(tmp_path)
    call(store)
    (entry,) = tmp_path.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage or whole[:-1] + bytes([whole[-1] ^ 1]))
    assert store.get(entry.name) is None
    traced, found = call(store)
    assert (traced, found.rows.tolist()) == (1, [8.0, 26.0])
    assert call(store)[0] == 0


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owners here")
def test_programs_of_other_users_are_not_run(tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    call(store)
    assert call(store)[0] == 0
    monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    assert call(store)[0] == 1
    monkeypatch.undo()
    assert call(store)[0] == 0
    (tmp_path / "store").chmod(0o777)
    assert call(store)[0] == 1
    (tmp_path / "store").chmod(0o755)
    (entry,) = (tmp_path / "store").iterdir()
    entry.chmod(0o666)
    assert store.get(entry.name) is None


def test_a_place_that_cannot_be_written_costs_time_alone(tmp_path):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        traced, found = call(Store(tmp_path / "file" / "store"))
        assert (traced, found.rows.tolist()) == (1, [8.0, 26.0])


def test_what_cannot_be_stored_is_called_as_it_is(tmp_path):
    def tell(x: jax.Array) -> Sums:
        y = jax.pure_callback(lambda x: x + 1, jax.ShapeDtypeStruct((), x.dtype), x[0])
        return Sums(y, y)

    for _ in range(2):
        found = kept(jax.jit(tell), Store(tmp_path), result=Sums, identity="tell")(jnp.ones(2))
        assert isinstance(found, Sums)
        assert float(found.rows) == 2.0


def test_the_oldest_makes_room(tmp_path):
    store, clock = Store(tmp_path, limit=2), iter(range(100))

    def touch(name: str) -> None:
        time = next(clock)
        os.utime(tmp_path / name, (time, time))

    for name in ("a", "b"):
        store.put(name, b"x")
        touch(name)
    touch("a")  # as `get` does
    store.put("c", b"x")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "c"}


def test_all_code_that_is_traced_is_part_of_the_key():
    """What `decoding` imports, and what that imports: in the key itself, or told of it."""
    root = Path(jaxcap.__file__).parent
    traced = {name.removesuffix(".py").split("/")[0] for name in program_cache._TRACED}
    # The configuration and the vocabulary are part of an identity; the rest computes no array.
    told = {"config", "text", "metrics", "messages", "files", "devices", "json_data", "downloads"}
    imported: set[str] = set()
    for name in program_cache._TRACED:
        path = root / name
        assert path.exists()
        for source in path.rglob("*.py") if path.is_dir() else [path]:
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxcap."):
                    imported.add(str(node.module).split(".")[1])
    assert imported <= traced | told
