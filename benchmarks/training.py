"""Measure optimizer steps of a whole captioner, against PyTorch.

    pip install -e '.[parity]'
    python benchmarks/training.py --arch efficientnet_lite0 resnet50

One process runs jaxcap, another PyTorch (`pytorch_training.py` describes its forms). They hold the
same architecture with the same weights and alternate on the same images and captions. Each turn
begins with an untimed step that warms up the caches. A step goes from uint8 pixels on the device to
new parameters: encoder and attention decoder forward and backward, batch statistics, clipping,
AdamW. jaxcap runs the step of `train.py` with the options of `configs/flickr8k.py`, except that
the encoder is trained. Before timing, both must give the same loss, without dropout, which they
draw differently.

*all* also trains the encoder; *decoder* uses precomputed features of a frozen one. `pairs` takes
`--pairs` image–caption pairs per step, the others `--batch-size` images with five captions each, so
compare captions per second. Captions are padded to 20 tokens; `pairs` drops the padding.

The last lines measure the input pipeline alone: JPEG files to batches, two threads, with the
augmentation of that configuration, on records of the prepared data set `--data`.

On a GPU that both frameworks see, add `--dtype bfloat16`.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from workers import Worker

from jaxcap.config import Config, DecoderConfig, EncoderConfig, TrainConfig
from jaxcap.devices.huge_pages import restart_with_huge_pages
from jaxcap.text.vocabulary import BOS, EOS, PAD

CAPTIONS = 5  # of an image
TOKENS = 20  # with <bos> and <eos>
WORDS = 2543  # Flickr8k's, of five occurrences and more
SIDE = 224
# As in configs/flickr8k.py.
DECODER = DecoderConfig(
    scoring="dot",
    embedding_size=256,
    attention_size=384,
    embedding_dropout=0.3,
    feature_dropout=0.3,
    output_dropout=0.5,
)
TRAIN = TrainConfig(learning_rate=1e-3, weight_decay=1e-2, label_smoothing=0.1)
FORMS = ("pairs", "shared", "channels last", "torch.compile")


@dataclass(frozen=True)
class Arguments:
    """Time training steps, jaxcap against PyTorch."""

    arch: tuple[str, ...] = ("efficientnet_lite0", "resnet50")
    modes: tuple[Literal["all", "decoder"], ...] = ("all", "decoder")
    forms: tuple[Literal["pairs", "shared", "channels last", "torch.compile"], ...] = FORMS
    """Forms of PyTorch."""
    batch_size: int = 32
    """Images per step."""
    pairs: int = 32
    """Image–caption pairs per step of the form `pairs`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the encoders' computation."""
    rounds: int = 5
    """Turns of each form; medians are reported."""
    steps: int = 1
    """Timed steps in each turn."""
    data: str = "flickr8k"
    """Data set for the pipeline; "none" skips the pipeline."""


@dataclass(frozen=True)
class Task:
    """The model and data that a process builds."""

    arch: str
    mode: str
    batch_size: int
    pairs: int
    dtype: str
    folder: str
    forms: tuple[str, ...]
    side: int = SIDE

    @property
    def config(self) -> Config:
        encoder = EncoderConfig(name=self.arch, dtype=self.dtype, trainable=self.mode == "all")
        train = dataclasses.replace(TRAIN, batch_size=self.batch_size)
        return Config(encoder=encoder, decoder=DECODER, train=train)

    def captions(self) -> np.ndarray:
        """Return random captions, most of 9 to 13 words."""
        rng = np.random.default_rng(1)
        shape = (self.batch_size, CAPTIONS, TOKENS)
        tokens = rng.integers(4, WORDS, shape, np.int32)
        ends = rng.integers(10, 15, shape[:2])[..., None]
        places = np.arange(TOKENS)
        tokens = np.where(places < ends, tokens, np.where(places == ends, EOS, PAD))
        tokens[:, :, 0] = BOS
        return tokens.astype(np.int32)

    def pixels(self) -> np.ndarray:
        shape = (self.batch_size, self.side, self.side, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def features(self, positions: int, width: int) -> np.ndarray:
        shape = (self.batch_size, positions, width)
        return np.maximum(np.random.default_rng(0).standard_normal(shape, np.float32), 0)


def main(arguments: Arguments) -> None:
    """Print a Markdown line per architecture and mode, and one for the pipeline."""
    needed: dict[str, tuple[float, float]] = {}
    with Worker(_Jaxcap) as ours, Worker(_PyTorch) as theirs:
        peak = ours.ask("peak", arguments.dtype)
        print(
            f"{arguments.batch_size} images of {SIDE} pixels with {CAPTIONS} captions of {TOKENS} "
            f"tokens, {WORDS} words, {arguments.dtype}; matrix products at {peak / 1e9:,.0f} "
            f"GFLOP/s; medians of {arguments.rounds} turns of {arguments.steps} steps\n\n"
            "| architecture | learns | jaxcap, images/s | captions/s | share of matrix peak "
            "| PyTorch (a), captions/s | ratio | PyTorch (b), captions/s | form | ratio |\n"
            "|---|---|---|---|---|---|---|---|---|---|"
        )
        for arch in arguments.arch:
            for mode in arguments.modes:
                rate, flops = _compare(ours, theirs, arch, mode, arguments, peak)
                if mode == "all":
                    needed[arch] = rate, flops
    if arguments.data != "none":
        from pipeline import images_per_second

        rate = images_per_second(arguments.data, SIDE, arguments.batch_size, arguments.rounds)
        print(f"\npipeline alone: {rate:.0f} images/s from files of {arguments.data}")
        for arch, (images, flops) in needed.items():
            print(
                f"  {arch}: {rate / images:.0f} times what jaxcap's step takes here; at 100 "
                f"TFLOP/s it would take {1e14 / flops:,.0f} images/s ({flops / 1e9:.1f} GFLOP each)"
            )


def _compare(
    ours: Worker, theirs: Worker, arch: str, mode: str, arguments: Arguments, peak: float
) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        sizes = arguments.batch_size, arguments.pairs, arguments.dtype
        task = Task(arch, mode, *sizes, folder, arguments.forms)
        theirs.ask("write_encoder", task)
        weights, shape, loss, flops = ours.ask("build", task)
        forms, their_loss = theirs.ask("build", task, weights, shape)
    np.testing.assert_allclose(loss, their_loss, rtol=1e-3 if sizes[2] == "float32" else 2e-2)
    seconds: dict[str, list[float]] = {form: [] for form in ("jaxcap", *forms)}
    for _ in range(arguments.rounds):
        for form in seconds:
            worker = ours if form == "jaxcap" else theirs
            seconds[form].append(worker.ask("turn", form, arguments.steps) / arguments.steps)
    captions = dict.fromkeys(seconds, CAPTIONS * arguments.batch_size)
    captions["pairs"] = arguments.pairs
    rate = {form: captions[form] / statistics.median(s) for form, s in seconds.items()}
    images = rate["jaxcap"] / CAPTIONS
    shared = [form for form in forms if form != "pairs"]
    best = max(shared, key=rate.__getitem__) if shared else None
    cells = [arch, mode, f"{images:.1f}", f"{rate['jaxcap']:.0f}", f"{images * flops / peak:.0%}"]
    for form, name in (("pairs", []), (best, [best])):
        known = form in rate
        cells += [f"{rate[form]:.1f}" if known else "", *map(str, name)]
        cells += [f"{rate['jaxcap'] / rate[form]:.2f}" if known else ""]
    print("|", " | ".join(cells), "|", flush=True)
    for form, turns in seconds.items():
        each = ", ".join(f"{captions[form] / s:.1f}" for s in turns)
        print(f"  {form}: {each} captions/s", file=sys.stderr, flush=True)
    return images, flops


class _Steps:
    """The part that both processes share: running the steps that they built."""

    steps: dict[str, Callable[[], float]]

    def turn(self, form: str, count: int) -> float:
        """Return the seconds of `count` steps, after one untimed step."""
        self.steps[form]()
        began = time.perf_counter()
        for _ in range(count):
            self.steps[form]()
        return time.perf_counter() - began


class _Jaxcap(_Steps):
    """The process that runs jaxcap."""

    def peak(self, dtype: str) -> float:
        """Return the FLOP/s of a large matrix product."""
        from encoders import jaxcap_peak

        return jaxcap_peak(dtype)

    def memory(self) -> float:
        """The device's peak of allocated memory, in MB; 0 where JAX does not say."""
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e6

    def build(self, task: Task) -> tuple[dict[str, np.ndarray], tuple[int, int], float, float]:
        """The decoder's weights, P and D, the loss without dropout, and FLOPs of an image."""
        import jax
        from flax import traverse_util

        from jaxcap.data.batch import Batch
        from jaxcap.devices.parallel import create_parallel
        from jaxcap.model.captioner import create_captioner, encoder_shapes, init_variables
        from jaxcap.model.encoders.weights.loading import load_weights
        from jaxcap.training.step import optimizer
        from jaxcap.training.step.losses import cross_entropy
        from jaxcap.training.step.state import TrainState
        from jaxcap.training.step.train_step import train_step

        config = task.config
        parallel = create_parallel(config.train)
        model = create_captioner(config, WORDS, axis_name=parallel.axis_name)
        encoder = load_weights(
            str(Path(task.folder) / "encoder.pth"),
            task.arch,
            encoder_shapes(model, image_size=task.side),
        )
        variables = init_variables(model, jax.random.key(0), image_size=task.side, encoder=encoder)
        tokens = task.captions()
        shape = jax.eval_shape(
            functools.partial(model.apply, method="encode"), variables, task.pixels()
        ).shape
        batch = Batch(
            tokens=tokens,
            pixels=task.pixels() if task.mode == "all" else None,
            features=None if task.mode == "all" else task.features(*shape[1:]),
        )
        objective = functools.partial(cross_entropy, label_smoothing=config.train.label_smoothing)
        quiet = dataclasses.replace(
            DECODER, embedding_dropout=0.0, feature_dropout=0.0, output_dropout=0.0
        )
        plain = create_captioner(dataclasses.replace(config, decoder=quiet), WORDS)
        targets = tokens[:, :, 1:]
        output, _ = jax.jit(functools.partial(plain.apply, train=True, mutable=["batch_stats"]))(
            variables, batch.pixels, tokens[:, :, :-1], features=batch.features
        )
        total, words, _ = objective(output.logits, targets, targets != PAD)
        decoder = traverse_util.flatten_dict(variables["params"]["decoder"], sep="/")
        weights = {name: np.asarray(array) for name, array in decoder.items()}
        tx = optimizer.create_optimizer(config.train, config.encoder, steps_per_epoch=1000)
        step = parallel.compile(
            functools.partial(
                train_step,
                model=model,
                tx=tx,
                objective=objective,
                axis_name=parallel.axis_name,
            )
        )
        if parallel.method == "single":
            batch = jax.device_put(batch)
        self._state = parallel.place(TrainState.create(variables, tx))
        rng = jax.random.key(0)

        def run() -> float:
            self._state, metrics = step(self._state, batch, rng)
            return float(jax.block_until_ready(metrics).loss)

        self.steps = {"jaxcap": run}
        run()
        flops = _flops(model, variables, task, (shape[1], shape[2]))
        return weights, (shape[1], shape[2]), float(total / words), flops


def _flops(model: Any, variables: Any, task: Task, shape: tuple[int, int]) -> float:
    """Return the FLOPs of one image's share of a step: forward, and backward twice that."""
    from encoders import count_flops

    (p, d), c = shape, DECODER
    e, a, h = c.embedding_size, c.attention_size, c.hidden_size
    word = (e + a + h) * 4 * h + 2 * h * a + 2 * p * a + (h + a) * e + e * WORDS
    image = p * d * a + p * a * a + 2 * a * h
    flops = 2.0 * (image + CAPTIONS * (TOKENS - 1) * word)
    if task.mode == "all":
        one = np.zeros((1, task.side, task.side, 3), np.uint8)
        flops += count_flops(lambda v, x: model.apply(v, x, method="encode"), variables, one)
    return 3 * flops


class _PyTorch(_Steps):
    """The process that runs PyTorch."""

    def memory(self) -> float:
        """The device's peak of allocated memory, in MB; 0 without a GPU."""
        import torch

        return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0

    def write_encoder(self, task: Task) -> None:
        """Write random weights to a file that jaxcap reads."""
        import torch
        from encoders import pytorch_encoder
        from pytorch_training import published

        torch.manual_seed(0)
        self._encoder = pytorch_encoder(task.arch)
        inner = getattr(self._encoder, "net", self._encoder)
        torch.save(published(inner), Path(task.folder) / "encoder.pth")

    def build(
        self, task: Task, weights: dict[str, np.ndarray], shape: tuple[int, int]
    ) -> tuple[list[str], float]:
        """Names of the forms that work here, and the loss without dropout."""
        import copy

        import torch
        from pytorch_training import Captioner, Recipe, train_step

        from jaxcap.model.encoders import encoder_spec

        # As JAX does by default: float32 products in TensorFloat-32, if the device has it.
        torch.set_float32_matmul_precision("high")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        recipe = Recipe(
            DECODER.embedding_dropout,
            DECODER.feature_dropout,
            DECODER.output_dropout,
            TRAIN.label_smoothing,
            TRAIN.learning_rate,
            TRAIN.weight_decay,
            TRAIN.clip_norm,
            task.dtype,
        )
        tokens = torch.from_numpy(task.captions()).long().to(device)
        if task.mode == "all":
            pixels = torch.from_numpy(task.pixels()).permute(0, 3, 1, 2).to(device)
            spec = encoder_spec(task.arch).preprocessing
            mean, scale = (
                torch.tensor(x, device=device)[:, None, None] for x in (spec.mean, spec.scale)
            )
            given = pixels.contiguous()
        else:
            given = torch.from_numpy(task.features(*shape)).to(device)

        class Normalised(torch.nn.Module):
            def __init__(self, encoder: Any) -> None:
                super().__init__()
                self.encoder = encoder

            def forward(self, pixels: Any) -> Any:
                return self.encoder((pixels - mean) / scale)

        def model(recipe: Recipe = recipe) -> Captioner:
            encoder = None
            if task.mode == "all":
                encoder = Normalised(copy.deepcopy(self._encoder))
            return Captioner(encoder, weights, recipe).train().to(device)

        with torch.no_grad():
            quiet = dataclasses.replace(
                recipe, embedding_dropout=0.0, feature_dropout=0.0, output_dropout=0.0
            )
            words = (tokens[:, :, 1:] != PAD).sum()
            loss = float(model(quiet).shared(given, tokens) / words)
            flat = given.repeat_interleave(CAPTIONS, 0)[:10], tokens.flatten(0, 1)[:10]
            few = model(quiet).pairs(*flat), model(quiet).shared(flat[0], flat[1][:, None])
            torch.testing.assert_close(*few, rtol=1e-3, atol=0.0)  # the forms agree

        last = given
        if task.mode == "all":
            last = given.contiguous(memory_format=torch.channels_last)
        self.steps = {}
        for form in task.forms:
            if form == "channels last" and task.mode == "decoder":
                continue
            captioner, images, said = model(), given, tokens
            if form == "pairs":
                images = given.repeat_interleave(CAPTIONS, 0)[: task.pairs]
                said = tokens.flatten(0, 1)[: task.pairs]
            if form in ("channels last", "torch.compile") and task.mode == "all":
                captioner, images = captioner.to(memory_format=torch.channels_last), last
            if form == "torch.compile":
                captioner = captioner.compiled()
            step = train_step(
                captioner, captioner.pairs if form == "pairs" else captioner.shared, images, said
            )
            try:
                step()
            except Exception as error:  # whatever the compiler chain dislikes on this machine
                if form != "torch.compile":
                    raise
                print(f"torch.compile does not work here: {error}", file=sys.stderr)
            else:
                self.steps[form] = step
        return list(self.steps), loss


if __name__ == "__main__":
    restart_with_huge_pages()  # as train.py does; both processes inherit it
    main(tyro.cli(Arguments))
