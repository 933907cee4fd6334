"""A campaign on one GPU, for a machine that is there for a few minutes only.

    python benchmarks/gpu.py --output gpu-results
    python benchmarks/gpu.py --smoke              # seconds-sized, on whatever device there is

It needs JAX with CUDA, Flax, Optax, Orbax and PyTorch, and no network. jaxcap's remaining
dependencies are pure Python: `pip download --no-deps -d wheels jaxtyping wadler-lindig tyro
docstring-parser typeguard shtab` on another machine, and `--wheels wheels` here.

Both sides train in channels-last layout. The rows run in the order of their value, each in a
process of its own and within its own time. After every row `results.json` and `results.md` are
replaced, and a row that is killed at its limit keeps the figures that it had, so a run that is cut
short still counts. Eager PyTorch is timed before anything is compiled by `torch.compile`.

| row | measures | compared with |
|---|---|---|
| device, peak | the device, and FLOP/s of a large matrix product in both types | |
| parity | one training step on the CPU and on the device | each other |
| train ENCODER | images a second of whole steps, up to saturation | PyTorch, eager and compiled |
| depthwise | EfficientNet-Lite2's depthwise layers, by XLA and as shifted sums | each other |
| search | images a second, beam 5, from features to captions | batched search in PyTorch |
| caption | images a second, from JPEG files to captions, with the model in the package | |
| export | an exported program on this device | captions by the library |

Both frameworks compute float32 products in TensorFloat-32 where the device has it, as JAX does by
default. Ratios are jaxcap / PyTorch, above 1 in jaxcap's favour.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Result = dict[str, Any]

# Seconds that each row may take; together about nine minutes.
LIMITS = {
    "device": 30,
    "peak": 30,
    "parity": 90,
    "train resnet50": 150,
    "train efficientnet_lite0": 100,
    "depthwise": 60,
    "search": 60,
    "caption": 60,
    "export": 60,
}


def main() -> int:
    """Run the rows and keep a record of them; 0 if all succeeded."""
    parser = argparse.ArgumentParser(description="Benchmarks of one GPU in a few minutes.")
    parser.add_argument("--output", type=Path, default=Path("gpu-results"))
    parser.add_argument("--wheels", type=Path, help="folder of pure Python wheels to import from")
    parser.add_argument("--seconds", type=float, help="for all rows together, 480 unless --smoke")
    parser.add_argument("--rows", nargs="+", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--smoke", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        for result in ROWS[arguments.row](arguments.smoke):
            print(json.dumps(result), flush=True)
        return 0
    arguments.output.mkdir(parents=True, exist_ok=True)
    seconds = arguments.seconds or (3600 if arguments.smoke else 480)
    began = time.monotonic()
    record: list[Result] = []
    for row in arguments.rows:
        left = seconds - (time.monotonic() - began)
        if left < 1:
            record.append({"row": row, "failed": "no time was left"})
        else:
            record += _run_row(
                row, arguments, min(left, LIMITS[row] * (10 if arguments.smoke else 1))
            )
        _write(record, arguments.output)
    print((arguments.output / "results.md").read_text(encoding="utf-8"))
    return int(any("failed" in result for result in record))


def _run_row(row: str, arguments: argparse.Namespace, limit: float) -> list[Result]:
    """Run one row in a process group of its own, and kill the group at its limit."""
    wheels = [str(path.resolve()) for path in sorted((arguments.wheels or Path()).glob("*.whl"))]
    paths = [str(ROOT), str(ROOT / "benchmarks"), *wheels, os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the device is shared with PyTorch
    }
    command = [sys.executable, str(Path(__file__).resolve()), "--row", row]
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, *(["--smoke"] if arguments.smoke else [])],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    assert process.stdout is not None
    results = [{"row": row, **json.loads(line)} for line in process.stdout if line[:1] == "{"]
    status = process.wait()
    timer.cancel()
    seconds = round(time.monotonic() - began, 1)
    if status:
        why = f"over {limit:.0f} s" if seconds >= limit else f"exit status {status}"
        results.append({"row": row, "failed": why})
    return [{**result, "seconds of the row": seconds} for result in results]


def _write(record: list[Result], output: Path) -> None:
    lines = ["| row | what | figures |", "|---|---|---|"]
    for result in record:
        figures = {k: v for k, v in result.items() if k not in ("row", "what")}
        shown = ", ".join(f"{name} {_shown(value)}" for name, value in figures.items())
        lines.append(f"| {result['row']} | {result.get('what', '')} | {shown} |")
    for name, text in (
        ("results.json", json.dumps(record, indent=1)),
        ("results.md", "\n".join(lines)),
    ):
        part = output / f".{name}.part"
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(output / name)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _device(smoke: bool) -> Iterator[Result]:
    import jax
    import torch

    device = jax.devices()[0]
    yield {
        "what": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "torch": torch.__version__,
        "torch sees a GPU": torch.cuda.is_available(),
    }


def _peak(smoke: bool) -> Iterator[Result]:
    from encoders import jaxcap_peak

    for dtype in ("float32", "bfloat16"):
        yield {"what": dtype, "TFLOP/s": jaxcap_peak(dtype, 256 if smoke else None) / 1e12}


def _parity(smoke: bool) -> Iterator[Result]:
    """Run one step, without dropout, from the same state on the CPU and on the device."""
    import jax
    import numpy as np
    from training import DECODER, SIDE, TRAIN, WORDS, Task

    from jaxcap.config import Config, EncoderConfig
    from jaxcap.data.batch import Batch
    from jaxcap.model.captioner import create_captioner, init_variables
    from jaxcap.training.step.losses import cross_entropy
    from jaxcap.training.step.optimizer import create_optimizer
    from jaxcap.training.step.state import TrainState
    from jaxcap.training.step.train_step import train_step

    quiet = dataclasses.replace(
        DECODER, embedding_dropout=0.0, feature_dropout=0.0, output_dropout=0.0
    )
    side = 32 if smoke else SIDE
    # Most of the time is XLA's, which compiles each for a CPU as well.
    names = ("resnet_small",) if smoke else ("resnet18", "efficientnet_lite0")
    for name in names:
        for dtype in ("float32",) if smoke else ("float32", "bfloat16"):
            encoder = EncoderConfig(name=name, dtype=dtype)
            config = Config(encoder=encoder, decoder=quiet, train=TRAIN)
            model = create_captioner(config, WORDS)
            task = Task(name, "all", 2, 0, dtype, "", (), side)
            batch = Batch(task.captions(), pixels=task.pixels())
            variables = jax.device_get(init_variables(model, jax.random.key(0), image_size=side))
            tx = create_optimizer(config.train, config.encoder, steps_per_epoch=100)
            step = jax.jit(
                functools.partial(train_step, model=model, tx=tx, objective=cross_entropy)
            )
            found = []
            for device in (jax.devices("cpu")[0], jax.devices()[0]):
                with jax.default_matmul_precision("highest"), jax.default_device(device):
                    state = TrainState.create(jax.device_put(variables, device), tx)
                    state, metrics = step(state, jax.device_put(batch, device), jax.random.key(1))
                    found.append(jax.device_get((metrics, state.params)))
            (one, params), (other, others) = found
            moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, others)
            yield {
                "what": f"{name} {dtype}",
                "loss, relative difference": abs(float(one.loss / other.loss) - 1),
                "gradient norm, relative difference": abs(
                    float(one.grad_norm / other.grad_norm) - 1
                ),
                "parameters, largest difference": max(jax.tree.leaves(moved)),
                "learning rate": TRAIN.learning_rate,
            }


def _train(arch: str, smoke: bool) -> Iterator[Result]:
    """Quadruple the batch until images a second rise by less than 5 %."""
    import training
    from workers import Worker

    dtype = "float32" if smoke else "bfloat16"
    side = 64 if smoke else training.SIDE
    with (
        Worker(training._Jaxcap) as ours,
        Worker(training._PyTorch) as theirs,
        tempfile.TemporaryDirectory() as to,
    ):
        peak = ours.ask("peak", dtype)

        def measure(task: training.Task, given: tuple[Any, ...]) -> Iterator[Result]:
            weights, shape, _, flops = given
            forms, _ = theirs.ask("build", task, weights, shape)
            steps = 1 if smoke else 10
            seconds: dict[str, list[float]] = {}
            for _ in range(1 if smoke else 4):
                for worker, name in ((ours, "jaxcap"), *((theirs, name) for name in forms)):
                    turn = worker.ask("turn", name, steps) / steps
                    seconds.setdefault(name, []).append(turn)
            rate = {name: task.batch_size / statistics.median(s) for name, s in seconds.items()}
            for name in forms:
                yield {
                    "what": f"{arch} {dtype}, batch {task.batch_size}, {name}",
                    "jaxcap images/s": rate["jaxcap"],
                    "share of the peak": rate["jaxcap"] * flops / peak,
                    "jaxcap peak MB": ours.ask("memory"),
                    "PyTorch images/s": rate[name],
                    "ratio": rate["jaxcap"] / rate[name],
                    "PyTorch peak MB": theirs.ask("memory"),
                }

        best = 0.0
        for batch_size in (2,) if smoke else (64, 256, 1024):
            task = training.Task(arch, "all", batch_size, 0, dtype, to, ("channels last",), side)
            theirs.ask("write_encoder", task)
            built = ours.ask("build", task)
            (result,) = measure(task, built)
            yield result
            if result["jaxcap images/s"] < 1.05 * best:
                break
            best = result["jaxcap images/s"]
        if not smoke:  # minutes, in which the row may be ended
            yield from measure(dataclasses.replace(task, forms=("torch.compile",)), built)


def _depthwise(smoke: bool) -> Iterator[Result]:
    """Compare XLA's grouped convolution with the sums that CPUs use in its place.

    All depthwise convolutions of EfficientNet-Lite2 at 256 pixels are computed, one by one.
    """
    import jax
    import jax.numpy as jnp
    from encoders import _seconds_of

    from jaxcap.model.encoders.conv import conv
    from jaxcap.model.encoders.efficientnet_lite import STEM_FEATURES, scaled_blocks
    from jaxcap.model.encoders.windows import pad_widths, shifted_slices

    batch_size, side, inputs = (1, 16, STEM_FEATURES) if smoke else (64, 128, STEM_FEATURES)
    layers = []
    for block in scaled_blocks(1.1, 1.2):
        channels = inputs * block.expansion
        layers.append((side, channels, block.kernel_size, block.stride))
        side, inputs = -(-side // block.stride), block.features
    layers = layers[:2] if smoke else layers

    def grouped(x: Any, kernel: Any, stride: int) -> Any:
        return conv(x, kernel, stride=stride, groups=x.shape[-1])

    def shifted(x: Any, kernel: Any, stride: int) -> Any:
        # As on CPUs, but with XLA's gradients: those of CPUs add up row by row.
        size = kernel.shape[:2]
        padded = jnp.pad(x, ((0, 0), *pad_widths(x, size, stride, "SAME"), (0, 0)))
        weights = kernel[:, :, 0].astype(jnp.float32)
        products = (part * weights[i, j] for i, j, part in shifted_slices(padded, size, stride))
        return functools.reduce(jnp.add, products).astype(x.dtype)

    def total(form: Callable[..., Any], what: str, dtype: str) -> float:
        seconds = 0.0
        for side, channels, size, stride in layers:
            x = jnp.ones((batch_size, side, side, channels), dtype)
            kernel = jnp.ones((size, size, 1, channels), dtype)

            def convolve(x: Any, kernel: Any, stride: int = stride) -> Any:
                return form(x, kernel, stride).astype(jnp.float32).sum()

            step = jax.jit(convolve if what == "forward" else jax.grad(convolve, argnums=(0, 1)))
            step = functools.partial(step, x, kernel)
            seconds += _seconds_of(lambda step=step: jax.block_until_ready(step()))
        return seconds

    for dtype in ("float32",) if smoke else ("float32", "bfloat16"):
        for what in ("forward", "gradient"):
            seconds = [total(form, what, dtype) for form in (grouped, shifted)]
            yield {
                "what": f"{len(layers)} layers, {dtype}, {what}, batch {batch_size}",
                "grouped images/s": batch_size / seconds[0],
                "shifted images/s": batch_size / seconds[1],
                "shifted / grouped": seconds[0] / seconds[1],
            }


def _search(smoke: bool) -> Iterator[Result]:
    import search
    from workers import Worker

    arguments = search.Arguments(images=4 if smoke else 1024, batch_size=2 if smoke else 128)
    features = search.random_features(arguments)
    first = features[: arguments.batch_size]
    with Worker(search._Jaxcap) as ours, Worker(search._PyTorch) as theirs:
        weights, scoring = ours.ask("weights", 100 if smoke else 10000, arguments)
        sizes = (5, arguments.max_length, arguments.batch_size)
        ours.ask("build", search.Task(weights, scoring, *sizes, ()), first)
        # The second is compiled for long, and the row may be ended meanwhile.
        for form in ("batched",) if smoke else ("batched", "compiled"):
            task = search.Task(weights, scoring, *sizes, (form,))
            if not theirs.ask("build", task, first):
                continue
            rates: dict[str, list[float]] = {"jaxcap": [], form: []}
            captions = {}
            for _ in range(1 if smoke else 3):
                for worker, name in ((ours, "jaxcap"), (theirs, form)):
                    seconds, captions[name] = worker.ask("turn", name, features)
                    rates[name].append(len(features) / seconds)
            rate = {name: statistics.median(r) for name, r in rates.items()}
            same = (captions["jaxcap"][0][:, 0] == captions[form][0][:, 0]).all(axis=-1).mean()
            yield {
                "what": f"beam 5, batches of {arguments.batch_size}, {form}",
                "jaxcap images/s": rate["jaxcap"],
                "PyTorch images/s": rate[form],
                "ratio": rate["jaxcap"] / rate[form],
                "same best caption": float(same),
            }


def _photographs(folder: Path, count: int) -> list[Path]:
    """Smooth noise, 500 × 375, as JPEG files."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        paths.append(folder / f"{i}.jpg")
        small.resize((500, 375), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def _caption(smoke: bool) -> Iterator[Result]:
    import jax

    import jaxcap

    batch_size = 4 if smoke else 128
    with tempfile.TemporaryDirectory() as folder:
        paths = _photographs(Path(folder), 8 if smoke else 1024)
        model = jaxcap.load()
        list(model.caption(paths[:batch_size], batch_size=batch_size, attention=False))
        began = time.perf_counter()
        found = list(model.caption(paths, batch_size=batch_size, attention=False))
        seconds = time.perf_counter() - began
    assert all(result.captions for result in found)
    stats = jax.devices()[0].memory_stats() or {}
    yield {
        "what": f"{len(paths)} JPEG files, batches of {batch_size}, {os.cpu_count()} CPU cores",
        "images/s": len(paths) / seconds,
        "peak MB": stats.get("peak_bytes_in_use", 0) / 1e6,
    }


def _export(smoke: bool) -> Iterator[Result]:
    """Run the lines of docs/export.md on an exported program, and compare captions."""
    import jaxcap
    from jaxcap.captioning.export import write_program

    lines = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    program = lines.partition("```python\n")[2].partition("```")[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = _photographs(folder, 2 if smoke else 64)
        model = jaxcap.load()
        write_program(model.single, folder / "captioner.stablehlo")
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, paths)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - began
        texts = [line.partition("\t")[2] for line in done.stdout.splitlines()]
        expected = [result.captions[0].text for result in model.caption(paths, attention=False)]
    same = sum(a == b for a, b in zip(texts, expected, strict=True))
    yield {
        "what": "lines of docs/export.md",
        "seconds, start included": seconds,
        "same captions": f"{same} of {len(expected)}",
    }


ROWS: dict[str, Callable[[bool], Iterator[Result]]] = {
    "device": _device,
    "peak": _peak,
    "parity": _parity,
    "train resnet50": lambda smoke: _train("resnet50", smoke),
    "train efficientnet_lite0": lambda smoke: _train("efficientnet_lite0", smoke),
    "depthwise": _depthwise,
    "search": _search,
    "caption": _caption,
    "export": _export,
}

if __name__ == "__main__":
    sys.exit(main())
