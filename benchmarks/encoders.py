"""Measure images per second of every encoder, against PyTorch.

    pip install -e '.[parity]'
    python benchmarks/encoders.py --arch resnet50 efficientnet_lite0

One process runs jaxcap, another PyTorch. They hold the same architecture with random weights and
alternate on the same batch, so that other load affects both. Each turn begins with an untimed step
that warms up the caches. PyTorch runs eager, eager with channels last, and with `torch.compile`;
the fastest counts. *forward* is inference; *train* is forward and backward with batch statistics,
with the gradient of every parameter. Images are float32 and normalised; there is no classifier.
Memory is the peak resident size of the process during the steps. Both processes use huge pages
if the system has them, as jaxcap's commands do (`jaxcap.devices.huge_pages`).
`--no-huge-pages` measures both without.

On a GPU that both frameworks see, add `--dtype bfloat16`.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from jaxcap.devices.huge_pages import TUNABLE

ARCHITECTURES = (
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "vgg16",
    "inception_v3",
)
MODES = ("forward", "train")
Step = Callable[[], None]


@dataclass(frozen=True)
class Arguments:
    """Time encoders, forward and forward + backward, jaxcap against PyTorch."""

    arch: tuple[str, ...] = ARCHITECTURES
    modes: tuple[Literal["forward", "train"], ...] = MODES
    batch_size: int = 16
    image_size: int = 224
    dtype: Literal["float32", "bfloat16"] = "float32"
    rounds: int = 7
    """Turns of each form; medians are reported."""
    steps: int = 2
    """Steps in each turn."""
    torch_compile: bool = True
    """Also time `torch.compile`, which needs a C++ compiler."""
    huge_pages: bool = True
    """Give both processes huge pages."""


@dataclass(frozen=True)
class Timing:
    """One form of one architecture in one mode: seconds of each turn, and memory."""

    seconds: list[float]
    megabytes: float
    flops: float | None = None


def main(arguments: Arguments) -> None:
    """Print a Markdown line per architecture and mode."""
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(_Worker(name, huge_pages=arguments.huge_pages))
            for name in ("jaxcap", "pytorch")
        ]
        print(
            f"batch {arguments.batch_size}, {arguments.image_size} pixels, {arguments.dtype}, "
            f"medians of {arguments.rounds} turns of {arguments.steps} steps\n\n"
            "| architecture | mode | matrix products, GFLOP/s | jaxcap images/s | of these | MB "
            "| PyTorch images/s | form | MB | ratio |\n"
            "|---|---|---|---|---|---|---|---|---|---|"
        )
        for arch in arguments.arch:
            for mode in arguments.modes:
                _compare(workers, arch, mode, arguments)


def _compare(workers: list[_Worker], arch: str, mode: str, arguments: Arguments) -> None:
    forms: list[tuple[_Worker, str, float | None]] = []
    for worker in workers:
        ready = worker.ask(
            "build",
            arch,
            mode,
            arguments.batch_size,
            arguments.image_size,
            arguments.dtype,
            arguments.torch_compile,
        )
        forms += [(worker, form, flops) for form, flops in ready.items()]
    seconds: dict[str, list[float]] = {form: [] for _, form, _ in forms}
    memory: dict[str, float] = {}
    peak = 0.0
    for _ in range(arguments.rounds):
        # Alternate with the compared forms, so that a busy moment does not affect only one of them.
        peak = max(peak, *(worker.ask("peak", arguments.dtype) for worker in workers))
        for worker, form, _ in forms:
            turn, memory[form] = worker.ask("turn", form, arguments.steps)
            seconds[form].append(turn / arguments.steps)
    rate = {form: arguments.batch_size / statistics.median(s) for form, s in seconds.items()}
    theirs = max((form for form in rate if form != "jaxcap"), key=rate.__getitem__)
    flops = next(f for _, form, f in forms if form == "jaxcap")
    share = "" if flops is None else f"{flops * rate['jaxcap'] / arguments.batch_size / peak:.0%}"
    print(
        f"| {arch} | {mode} | {peak / 1e9:,.0f} "
        f"| {rate['jaxcap']:.1f} | {share} | {memory['jaxcap']:.0f} "
        f"| {rate[theirs]:.1f} | {theirs} | {memory[theirs]:.0f} "
        f"| {rate['jaxcap'] / rate[theirs]:.2f} |",
        flush=True,
    )
    others = [f"{form} {rate[form]:.1f}" for form in rate if form not in ("jaxcap", theirs)]
    print(f"  (slower: {', '.join(others)})", file=sys.stderr, flush=True)


class _Worker:
    """The parent side of a process that runs `_serve`."""

    def __init__(self, name: str, *, huge_pages: bool) -> None:
        self.name = name
        self._environment = {
            **os.environ,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "GLIBC_TUNABLES": TUNABLE if huge_pages else "",
        }

    def __enter__(self) -> _Worker:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), "--worker", self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, *request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the {self.name} process ended while asked for {request}")
        return json.loads(answer)


def _serve(name: str) -> None:
    """Answer requests from standard input, one JSON line each, until it closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    build = _jaxcap_steps if name == "jaxcap" else _pytorch_steps
    peak = jaxcap_peak if name == "jaxcap" else _pytorch_peak
    steps: dict[str, Step] = {}
    for line in sys.stdin:
        kind, *request = json.loads(line)
        result: Any
        if kind == "peak":
            result = peak(*request)
        elif kind == "build":
            steps.clear()
            result = {}
            for form, step, flops in build(*request):
                step()
                steps[form], result[form] = step, flops
        else:
            form, count = request
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident size
            steps[form]()
            began = time.perf_counter()
            for _ in range(count):
                steps[form]()
            result = time.perf_counter() - began, _highest_resident_size()
        print(json.dumps(result), file=answers, flush=True)


def _highest_resident_size() -> float:
    """Return the peak resident size in megabytes since the last reset; 0 if unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _seconds_of(step: Step, repeats: int = 5) -> float:
    step()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return min(times)


def _images(batch_size: int, image_size: int) -> np.ndarray:
    shape = (batch_size, image_size, image_size, 3)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def jaxcap_peak(dtype: str, size: int | None = None) -> float:
    """Return the FLOP/s of a large matrix product, of `size` rows and columns."""
    import jax
    import jax.numpy as jnp

    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    a = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / _seconds_of(lambda: jax.block_until_ready(product(a, a)))


def _jaxcap_steps(
    arch: str, mode: str, batch_size: int, image_size: int, dtype: str, _: bool
) -> Iterator[tuple[str, Step, float]]:
    import flax.linen
    import jax
    import jax.numpy as jnp

    from jaxcap.model.encoders import encoder_spec
    from jaxcap.model.encoders.cpu.parts import encode_in_parts

    encoder = encoder_spec(arch).build(dtype=jnp.dtype(dtype))
    images = jax.device_put(_images(batch_size, image_size))
    variables = jax.jit(lambda key: encoder.init(key, images, train=False))(jax.random.key(0))
    statistics_ = variables.get("batch_stats", {})

    def loss_fn(params: Any, statistics: Any, images: Any) -> Any:
        variables = {"params": params, "batch_stats": statistics}
        features, updates = encoder.apply(variables, images, train=True, mutable=["batch_stats"])
        return jnp.mean(features.astype(jnp.float32) ** 2), updates

    def forward(params: Any, statistics: Any, images: Any) -> Any:
        return encoder.apply({"params": params, "batch_stats": statistics}, images, train=False)

    def forward_in_parts(params: Any, statistics: Any, images: Any) -> Any:
        apply = flax.linen.apply(encode_in_parts, encoder)  # as Captioner.encode does
        return apply({"params": params, "batch_stats": statistics}, images)

    train = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    step = train if mode == "train" else jax.jit(forward_in_parts)
    # The parts are a loop, and XLA counts a single iteration.
    counted = jax.value_and_grad(loss_fn, has_aux=True) if mode == "train" else forward
    arrays = (variables["params"], statistics_, images)
    yield "jaxcap", lambda: jax.block_until_ready(step(*arrays)), count_flops(counted, *arrays)


def count_flops(function: Callable[..., Any], *arrays: Any) -> float:
    """Return the FLOPs of a function, with direct convolutions on every device.

    XLA counts operations before it compiles for a CPU, but not for a GPU.
    """
    import jax

    from jaxcap.model.encoders.conv import written_for

    shapes = jax.eval_shape(lambda *arrays: arrays, *arrays)
    # Written for a GPU: a CPU may replace convolutions by fewer operations.
    with jax.default_device(jax.devices("cpu")[0]), written_for("gpu"):
        flops: float = jax.jit(function).lower(*shapes).cost_analysis()["flops"]
    return flops


def _pytorch_peak(dtype: str) -> float:
    """Return the FLOP/s of a large matrix product."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 2048
    a = torch.ones((size, size), dtype=getattr(torch, dtype), device=device)

    def step() -> None:
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()

    return 2 * size**3 / _seconds_of(step)


def _pytorch_steps(
    arch: str, mode: str, batch_size: int, image_size: int, dtype: str, compiled: bool
) -> Iterator[tuple[str, Step, None]]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = torch.from_numpy(_images(batch_size, image_size)).permute(0, 3, 1, 2)
    images = images.contiguous().to(device)
    last = images.contiguous(memory_format=torch.channels_last)

    def step_of(model: Any, images: Any) -> Step:
        def step() -> None:
            autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16")
            if mode == "forward":
                with torch.inference_mode(), autocast:
                    model(images)
            else:
                with autocast:
                    features = model(images)
                (features.float() ** 2).mean().backward()
                model.zero_grad(set_to_none=True)
            if device == "cuda":
                torch.cuda.synchronize()

        return step

    model = pytorch_encoder(arch).train(mode == "train").to(device)
    channels_last = pytorch_encoder(arch).train(mode == "train").to(device)
    channels_last = channels_last.to(memory_format=torch.channels_last)
    yield "eager", step_of(model, images), None
    yield "channels last", step_of(channels_last, last), None
    if compiled:
        step = step_of(torch.compile(channels_last), last)
        try:
            step()
        except Exception as error:  # whatever the compiler chain dislikes on this machine
            print(f"torch.compile of {arch} does not work here: {error}", file=sys.stderr)
        else:
            yield "torch.compile", step, None


def pytorch_encoder(arch: str) -> Any:
    import torch
    from pytorch_encoders import ENCODERS

    if arch in ENCODERS:
        return ENCODERS[arch]()
    for name in ("nms", "qnms"):  # torchvision without its compiled operators
        with contextlib.suppress(RuntimeError):
            torch.library.define(f"torchvision::{name}", "(Tensor d, Tensor s, float t) -> Tensor")
    import torchvision

    if arch == "inception_v3":
        net = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
        net.avgpool = net.dropout = net.fc = torch.nn.Identity()
        return net
    net = getattr(torchvision.models, arch)(weights=None)
    if arch.startswith("vgg"):
        return net.features[:-1]
    return torch.nn.Sequential(*list(net.children())[:-2])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _serve(sys.argv[2])
    else:
        main(tyro.cli(Arguments))
