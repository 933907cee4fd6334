"""`jaxcap caption --engine ray`: the captions of the plain command, in Parquet files by shard."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray_cluster
import tyro
from rich.console import Console
from tiny import jpeg, write_model

from jaxcap.batch import Captioner
from jaxcap.batch.ray_shards import Shard, caption_shards, captions_folder, plan_shards
from jaxcap.captioning.loaded_model import load
from jaxcap.commands import caption
from jaxcap.data.image_paths import image_paths
from jaxcap.messages.errors import InputError

DEADLINE = 900.0
"""Seconds until a run counts as hanging. A run takes ten on idle processors."""


class Killed(Captioner):
    """Kills its process before it returns the first captions."""

    def __init__(self, *arguments: Any, marker: Path, **options: Any):
        super().__init__(*arguments, **options)
        self.marker = marker

    def __call__(self, batch: Any) -> Any:
        columns = super().__call__(batch)
        try:
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return columns
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven files, one of them damaged, a tar file of two, and a Parquet file of two."""
    monkeypatch.chdir(tmp_path)
    folder = Path("photographs")
    folder.mkdir()
    for number in range(7):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    (folder / "3.jpg").write_bytes(b"no image")
    with tarfile.open("a.tar", "w") as tar:
        for number in (7, 8):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = len(jpeg(number))
            tar.addfile(info, io.BytesIO(jpeg(number)))
    pq.write_table(pa.table({"image": [jpeg(9), jpeg(10)], "key": ["9", "10"]}), "b.parquet")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two processors on this machine."""
    # Ray's workers have a niceness of 15 by default, and starve on a busy machine.
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"})
    pytest.importorskip("ray.data")
    ray = ray_cluster.start()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray
    ray.shutdown()


def run(*arguments: str) -> tuple[int, str]:
    """Run the command; return its status and messages."""
    console = Console(file=io.StringIO(), width=10_000, markup=False, highlight=False)
    given = tyro.cli(caption.CaptionArguments, args=caption.paths_last(arguments))
    status = caption.run(given, console)
    return status, console.file.getvalue()  # type: ignore[attr-defined]


def in_time(function: Callable[[], Any]) -> Any:
    """Call a function that might hang, and return its result."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future.result(DEADLINE)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of all files, in order of the names of the images."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: row["image"])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_two_actors_write_what_the_plain_command_writes(
    cluster: Any, model: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [str(photographs), "a.tar", "b.parquet", "--model", str(model)]
    run(*sources)
    expected = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert len(expected) == 10
    assert len(set(expected.values())) > 5
    options = ["--engine", "ray", "--output", "out", "--actors", "2", "--cpus-per-actor", "0.5"]
    options += ["--shard-size", "3"]
    status, printed = in_time(lambda: run(*sources, *options))
    assert status == 1
    assert "11 images: out" in printed
    assert "1 of them could not be captioned; the column error says why" in printed
    found = rows(Path("out"))
    assert {row["image"]: row["caption"] for row in found if row["error"] is None} == expected
    (bad,) = [row for row in found if row["error"] is not None]
    assert (bad["image"], bad["caption"], bad["log_prob"]) == ("photographs/3.jpg", None, None)
    assert "3.jpg: not an image" in bad["error"]
    assert sorted(path.name for path in Path("out").iterdir()) == [
        f"captions-{n:05}-of-00005.parquet" for n in range(5)
    ]

    # Shards that are gone are captioned again, and no other. Two actors take all processors of the
    # cluster, so that nothing is left for readers.
    times = {path.name: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    gone = {f"captions-{n:05}-of-00005.parquet" for n in (2, 3)}
    for name in gone:
        (Path("out") / name).unlink()
    options[options.index("0.5")] = "1"
    status, printed = in_time(lambda: run(*sources, *options))
    assert "11 images, 5 of them before: out" in printed
    assert rows(Path("out")) == found
    changed = {p.name for p in Path("out").iterdir() if p.stat().st_mtime_ns != times[p.name]}
    assert changed == gone

    # Other images and other options are refused; nothing is lost.
    for other, difference in (
        (["photographs/1.jpg", *sources[1:]], "files: 9, 3"),
        ([*sources, "--beam-size", "1"], r"search\.beam_size: 2, 1"),
    ):
        with pytest.raises(InputError, match=rf"made with other settings.*\n(.*\n)*  {difference}"):
            run(*other, *options)
    assert rows(Path("out")) == found


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_killed_actor_loses_and_repeats_no_row(
    cluster: Any, model: Path, photographs: Path, tmp_path: Path
) -> None:
    found = image_paths([photographs], listed=io.BytesIO(), unreadable=pytest.fail)
    shards = plan_shards(found, Path("out"), 2)
    captioner = Killed(load(model), marker=tmp_path / "killed")
    with captions_folder(Path("out"), shards, made_with={}) as (left, before):
        assert (left, before) == (shards, 0)
        # As if actors had died over the last shard already.
        (Path("out") / f".{shards[3].file.name}.tries").write_bytes(b"....")
        options = {"actors": 2, "cpus_per_actor": 0.5}
        results = in_time(lambda: list(caption_shards(left, captioner, **options)))
    assert (tmp_path / "killed").exists()
    assert sorted(result.images for result in results) == [0, 2, 2, 2]
    assert [row["image"] for row in rows(Path("out"))] == [f"photographs/{n}.jpg" for n in range(6)]
    # A shard that kills every actor does not keep them busy forever.
    (problem,) = [result.problem for result in results if result.problem]
    assert "photographs/6.jpg: its actor died 4 times" in problem
    with captions_folder(Path("out"), shards, made_with={}) as (left, before):
        assert (left, before) == (shards[3:], 6)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_shards_that_cannot_be_read_are_named_and_the_rest_goes_on(
    cluster: Any, model: Path, photographs: Path
) -> None:
    Path("c.tar").write_bytes(b"no tar file" * 99)
    options = ["--model", str(model), "--engine", "ray", "--output", "out"]
    status, printed = in_time(lambda: run("a.tar", "c.tar", *options))
    assert status == 1
    assert "skipped: " in printed
    assert "c.tar: not a tar file that can be read in place" in printed
    assert "1 of 2 shards have no captions; the same command tries them again" in printed
    assert [row["image"] for row in rows(Path("out"))] == ["a.tar/7.jpg", "a.tar/8.jpg"]
    with pytest.raises(InputError, match=r"--cpus-per-actor is 3, but .* have 2 processors"):
        run("a.tar", *options[:-1], "other", "--cpus-per-actor", "3")


def test_shards_are_files_or_groups_of_images(photographs: Path) -> None:
    arguments = [Path("a.tar"), photographs, Path("photographs/0.jpg"), Path("none.jpg")]
    arguments[3].symlink_to("nowhere")
    found = image_paths(
        [Path("a.tar"), photographs, Path("photographs/0.jpg")],
        listed=io.BytesIO(),
        unreadable=pytest.fail,
        whole_shards=True,
    )
    shards = plan_shards(found, Path("out"), 4)
    assert [[str(path) for path in shard.paths] for shard in shards] == [
        ["a.tar"],
        [f"photographs/{n}.jpg" for n in range(4)],
        [f"photographs/{n}.jpg" for n in range(4, 7)],
    ]
    assert [Shard.from_row(shard.to_row()) for shard in shards] == shards
    assert [name for name, _ in shards[0].images()] == ["a.tar/7.jpg", "a.tar/8.jpg"]


def test_bad_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Path, **options: Any) -> list[Shard]:
        with captions_folder(path, shards, made_with={"model": "a"}, **options) as (left, _):
            return left

    monkeypatch.chdir(tmp_path)
    out = Path("out")
    shards = [Shard(tmp_path / "out/captions-00000-of-00001.parquet", (Path("a.jpg"),), tmp_path)]
    with captions_folder(out, shards, made_with={"model": "a"}):
        with pytest.raises(InputError, match="out: another process is writing captions there"):
            opened(out)
        (out / ".captions-00000-of-00001.parquet.0123.part").touch()  # of a killed actor
    assert opened(out) == shards
    assert list(out.iterdir()) == []
    pq.write_table(pa.table({"image": ["a.jpg"]}), shards[0].file)
    assert opened(out) == []
    written = shards[0].file.read_bytes()
    shards[0].file.write_bytes(written[:-9])
    with pytest.raises(InputError, match=r"captions-00000-of-00001\.parquet: .*\. Remove it, and"):
        opened(out)
    shards[0].file.write_bytes(written)
    Path("out.made-with").unlink()
    with pytest.raises(InputError, match=r"out: it holds captions, but out\.made-with"):
        opened(out)
    assert opened(out, restart=True) == shards
    hidden = out / ".captions-of-mine.txt"
    hidden.touch()
    assert opened(out) == shards
    assert list(out.iterdir()) == [hidden]
    left = out / ".captions-00000-of-00001.parquet.tries"
    left.touch()
    (out / "letter.txt").touch()
    with pytest.raises(InputError, match=r"out: it holds letter\.txt, which is not a file of capt"):
        opened(out, restart=True)
    assert left.exists()  # nothing changes in a folder that is refused
    with pytest.raises(InputError, match=r"letter\.txt: cannot write there: "):
        opened(out / "letter.txt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--actors", "2"], "--actors needs --engine ray"),
        (["--engine", "ray", "--output", "x", "--actors", "0"], "--actors is 0; it must be above"),
        (["--engine", "ray", "--output", "x", "--part", "1/2"], "--part has no effect with --eng"),
        (["--engine", "ray", "--output", "x.jsonl"], r"--output is x\.jsonl; with --engine it is"),
        (["--engine", "ray"], "--output is None; with --engine it is a folder"),
    ],
)
def test_options_that_do_not_fit_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run("photo.jpg", *arguments)


@pytest.mark.slow
def test_a_missing_engine_and_a_missing_cluster_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray.data")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    shards = [Shard(Path("a"), (Path("a.jpg"),), Path.cwd())]
    with pytest.raises(InputError, match=rf"RAY_ADDRESS is {address}, but there is no cluster"):
        list(caption_shards(shards, Captioner()))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--engine ray needs Ray: pip install 'jaxcap\[ray\]'"):
        run("photo.jpg", "--engine", "ray", "--output", "x")
