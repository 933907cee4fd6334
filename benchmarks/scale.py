"""Measure `jaxcap caption` with one and two actors of Ray against the plain command.

    python benchmarks/scale.py                      # images of smooth noise
    python benchmarks/scale.py --photographs DIR    # JPEG files of a folder

Each way captions a small and a large number of images, as a process of its own. The difference of
the fastest turns gives the time per further image, the rest is the start. Processor time counts all
processes, those of Ray too, as /proc has it every tenth of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from jaxcap.data.image_paths import images_below

_SET_CHILD_SUBREAPER = 36  # prctl(2)


@dataclass(frozen=True)
class Arguments:
    """Time the plain command and Ray on the same images."""

    photographs: Path | None = None
    """A folder of photographs."""
    few: int = 128
    many: int = 640
    turns: int = 2


def main(arguments: Arguments) -> None:
    """Print images per second, processor time per image, and the start, for each way."""
    # Orphans of Ray come to this process, so that their time is counted.
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ways = {"plain": [], "1 actor": ray(1), "2 actors": ray(2)}
    counts = (arguments.few, arguments.many)
    with tempfile.TemporaryDirectory() as place:
        folders = {count: folder_of(count, arguments.photographs, Path(place)) for count in counts}
        took = {(way, count): [] for way in ways for count in counts}
        seconds(folders[arguments.few], [], Path(place))  # fills the cache of programs
        for _ in range(arguments.turns):
            for (way, count), figures in took.items():
                figures.append(seconds(folders[count], ways[way], Path(place)))
                print(f"{way}, {count} images: {figures[-1][0]:.0f} s, {figures[-1][1]:.0f} s CPU")
    more = arguments.many - arguments.few
    for way in ways:
        small, large = (np.min(took[way, count], axis=0) for count in counts)
        (clock, cpu), start = (large - small) / more, small - arguments.few * (large - small) / more
        print(
            f"{way}: {1 / clock:.1f} images/s, {1000 * cpu:.1f} ms of processor time an image; "
            f"start {start[0]:.0f} s, {start[1]:.0f} s of processor time"
        )


def ray(actors: int) -> list[str]:
    """Return the options for so many actors, which share this machine's processors."""
    each = (os.cpu_count() or 1) / actors / 2
    return ["--engine", "ray", "--actors", str(actors), "--cpus-per-actor", str(each)]


def folder_of(count: int, photographs: Path | None, place: Path) -> Path:
    """Return a folder of so many images."""
    folder = place / str(count)
    folder.mkdir()
    if photographs is not None:
        for path in images_below(photographs)[:count]:
            (folder / path.name).symlink_to(path.absolute())
    else:
        rng = np.random.default_rng(0)
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
            coarse.resize((500, 375)).save(folder / f"{number:05}.jpg")
    return folder


def seconds(folder: Path, options: list[str], place: Path) -> tuple[float, float]:
    """Run the command; return its seconds and those of all processors."""
    output = place / ("out" if options else "out.jsonl")
    options = [*options, "--shard-size", "32"] if options else []
    program = "import jaxcap.commands.cli; jaxcap.commands.cli.main()"
    command = [sys.executable, "-c", program, "caption", str(folder), "--output", str(output)]
    used: dict[int, float] = {}
    began = time.perf_counter()
    process = subprocess.Popen([*command, *options])
    while process.poll() is None:
        used |= processor_seconds()
        time.sleep(0.1)
    clock = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{' '.join(options) or 'the plain command'} failed")
    with contextlib.suppress(ChildProcessError):
        while True:
            used |= processor_seconds()
            os.wait()
    shutil.rmtree(output) if options else output.unlink()
    output.with_name(f"{output.name}.made-with").unlink()
    return clock, sum(used.values())


def processor_seconds() -> dict[int, float]:
    """Return the processor time of each process below this one."""
    parents, used = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = file.read_text().rpartition(")")[2].split()
            process = int(file.parent.name)
            parents[process] = int(fields[1])
            used[process] = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def is_below(process: int) -> bool:
        parent = parents.get(process, 0)
        return parent == os.getpid() or (parent > 1 and is_below(parent))

    return {process: seconds for process, seconds in used.items() if is_below(process)}


if __name__ == "__main__":
    main(tyro.cli(Arguments))
