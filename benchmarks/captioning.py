"""Measure throughput and memory of `jaxcap caption`.

    python benchmarks/captioning.py --run runs/flickr8k --photographs FLICKR8K_DIR/Flicker8k_Dataset
    python benchmarks/captioning.py --photographs FLICKR8K_DIR/Flicker8k_Dataset --memory

Throughput: one mode captions files into a JSON lines file, as the command does. The other runs
only encoder and search, on arrays in memory. The two alternate, with different photographs, so
that other load affects both.

Memory: run the whole command as a process, for one folder and for another with ten times as many
images (links to the same photographs). The encoder is small, with random weights, or that of
`--run`.

Without `--photographs`, the images are smooth noise of the size of photographs.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro
from PIL import Image

from jaxcap.caption_files.output_formats import JsonLines
from jaxcap.caption_files.writing import CaptionWriter
from jaxcap.captioning.decoding import ImageInput
from jaxcap.captioning.loaded_model import LoadedModel, load
from jaxcap.config import Config, DataConfig, DecoderConfig, EncoderConfig
from jaxcap.data import images as image_files
from jaxcap.data.image_paths import images_below
from jaxcap.model.captioner import create_captioner, init_variables
from jaxcap.storage import published
from jaxcap.storage.trained import TrainedCaptioner
from jaxcap.text.vocabulary import SPECIALS, Vocabulary


@dataclass(frozen=True)
class Arguments:
    """Time captioning from files against captioning from arrays, or measure memory."""

    run: Path | None = None
    """A trained run; by default, random weights."""
    photographs: Path | None = None
    """A folder of photographs."""
    images: int = 2000
    batch_size: int = 32
    turns: int = 8
    """Turns of each mode, which divide the photographs among them."""
    memory: bool = False
    """Measure memory instead of throughput."""


def main(arguments: Arguments) -> None:
    """Print the images per second of both modes and their ratio, or the memory."""
    with tempfile.TemporaryDirectory() as folder:
        paths = _photographs(arguments, Path(folder))
        with Image.open(paths[0]) as first:
            print(f"{len(paths)} photographs, the first of {first.width} × {first.height} pixels")
        if arguments.memory:
            _memory(arguments, paths, Path(folder))
        else:
            _speed(arguments, paths, Path(folder))


def _photographs(arguments: Arguments, folder: Path) -> list[Path]:
    if arguments.photographs is not None:
        return images_below(arguments.photographs)[: arguments.images]
    rng = np.random.default_rng(0)
    for number in range(arguments.images):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        coarse.resize((500, 375)).save(folder / f"{number:05}.jpg")
    return images_below(folder)


def _random_run(config: Config, words: int) -> LoadedModel:
    vocabulary = Vocabulary((*SPECIALS, *(f"word{n}" for n in range(words))))
    model = create_captioner(config, len(vocabulary))
    variables = init_variables(model, jax.random.key(0), image_size=config.data.image_size)
    return LoadedModel((TrainedCaptioner(Path("random"), config, vocabulary, variables, 0),))


def _speed(arguments: Arguments, paths: list[Path], folder: Path) -> None:
    if arguments.run is not None:
        run = load(arguments.run)
    else:
        decoder = DecoderConfig(embedding_size=256, attention_size=384, scoring="dot")
        encoder = EncoderConfig(name="efficientnet_lite2")
        run = _random_run(Config(encoder=encoder, decoder=decoder), 2500)
    config, size = run.config, run.config.data.image_size
    print(
        f"{config.encoder.name} at {size} pixels, {config.decoder.name}, {config.search.method} "
        f"{config.search.beam_size}, batches of {arguments.batch_size}, {jax.devices()[0]}"
    )
    each = len(paths) // arguments.turns // arguments.batch_size * arguments.batch_size
    shares = [paths[n * each : (n + 1) * each] for n in range(arguments.turns)]
    if not each:
        raise SystemExit("too few photographs for a batch in each turn")

    def bare(share: Sequence[Path]) -> tuple[float, float]:
        arrays = np.stack(
            [image_files.resize(image_files.decode(p, name=p.name), size) for p in share]
        )
        began = time.perf_counter(), time.process_time()
        # Fetch no results and wait only at the end, so that the device is never idle.
        jax.block_until_ready(
            [
                run.decode(
                    (run.variables,), (ImageInput(arrays[first : first + arguments.batch_size]),)
                )
                for first in range(0, len(arrays), arguments.batch_size)
            ]
        )
        return time.perf_counter() - began[0], time.process_time() - began[1]

    def command(share: Sequence[Path]) -> tuple[float, float]:
        (folder / "captions.jsonl").unlink(missing_ok=True)
        began = time.perf_counter(), time.process_time()
        with CaptionWriter(folder / "captions.jsonl", JsonLines()) as file:
            for result in run.caption(share, batch_size=arguments.batch_size, attention=False):
                file.add(result)
        return time.perf_counter() - began[0], time.process_time() - began[1]

    bare(shares[0][: arguments.batch_size]), command(shares[0][: arguments.batch_size])  # compile
    ways = {"arrays": bare, "files": command}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn, share in enumerate(shares):
        for name in list(ways) if turn % 2 == 0 else list(ways)[::-1]:
            seconds[name].append(ways[name](share))
    for name, turns in seconds.items():
        rates = [each / clock for clock, _ in turns]
        print(
            f"from {name}: median {statistics.median(rates):.1f} images/s "
            f"(of {', '.join(f'{rate:.1f}' for rate in rates)}), "
            f"{1000 * statistics.median(cpu for _, cpu in turns) / each:.1f} ms of processor time "
            "an image"
        )
    for kind, number in (("clock", 0), ("processor time", 1)):
        ratios = [
            a[number] / f[number] for a, f in zip(seconds["arrays"], seconds["files"], strict=True)
        ]
        print(
            f"files relative to arrays, by {kind}: median {statistics.median(ratios):.1%} "
            f"(of {', '.join(f'{ratio:.1%}' for ratio in ratios)})"
        )


def _memory(arguments: Arguments, paths: list[Path], folder: Path) -> None:
    model = arguments.run
    if model is None:
        config = Config(
            data=DataConfig(image_size=64),
            encoder=EncoderConfig(name="resnet_small"),
            decoder=DecoderConfig(hidden_size=128, embedding_size=64, attention_size=64),
        )
        model = folder / "model.safetensors"
        published.write(_random_run(config, 1000).single, model)
    peaks = []
    for times in (1, 10):
        links = folder / f"{times}"
        links.mkdir()
        for number in range(times):
            for path in paths:
                (links / f"{number}-{path.name}").symlink_to(path.absolute())
        began = time.perf_counter()
        process = subprocess.Popen(
            [
                *[
                    sys.executable,
                    "-c",
                    "from jaxcap.commands import cli; cli.main()",
                    "caption",
                ],
                *[str(links), "--model", str(model), "--output", f"{folder}/{times}.jsonl"],
                *["--batch-size", str(arguments.batch_size)],
            ]
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        with (folder / f"{times}.jsonl").open("rb") as file:
            lines = sum(1 for _ in file)
        if status or lines != times * len(paths):
            raise SystemExit(f"the command failed, with {lines} captions")
        peaks.append(usage.ru_maxrss / (1 << 10 if sys.platform == "linux" else 1 << 20))
        print(f"{lines} images: {peaks[-1]:.0f} MB at most, {seconds:.0f} s including the start")
    print(f"ratio of the two: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
