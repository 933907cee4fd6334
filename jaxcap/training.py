"""The outer loop of training: data in, steps, evaluation, checkpoints, a log.

All that touches disk, clock and terminal during a training is here; what it computes is in
`steps.train_step`.
"""

from __future__ import annotations

import functools
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Console

from jaxcap import optimizer
from jaxcap.captioner import Captioner, create_captioner, encoder_shapes, init_variables
from jaxcap.checkpoint import Checkpoints
from jaxcap.config import Config, differences, load_config, save_config, validate
from jaxcap.data.pipeline import (
    Captions,
    Source,
    tokenised_captions,
    training_batches,
)
from jaxcap.data.prepare import find_dataset, load_source
from jaxcap.encoders.weights import load_weights
from jaxcap.errors import InputError, did_you_mean
from jaxcap.evaluation import Evaluation, LogLine, evaluate_source, read_metrics, score_names
from jaxcap.features import cached_features
from jaxcap.files import write_text
from jaxcap.inference import create_decode
from jaxcap.losses import cross_entropy
from jaxcap.progress import Display, say
from jaxcap.state import TrainState
from jaxcap.steps import StepMetrics, train_step
from jaxcap.vocabulary import Vocabulary


@dataclass(frozen=True)
class Summary:
    """What a training ended with.

    Attributes:
      best_step: the step of the best checkpoint.
      scores: its scores on the evaluation split, ×100.
      seconds: time spent training and evaluating, over all sessions of the run.
    """

    best_step: int
    scores: dict[str, float]
    seconds: float


def train(config: Config, workdir: Path, *, console: Console) -> Summary:
    """Trains the captioner that `config` describes, or goes on with it.

    Everything is kept in `workdir` (see `docs/architecture.md`). Started again there with the
    same configuration, training goes on from the latest checkpoint.

    Raises:
      InputError: an option that cannot be, the data set is not prepared, its split is absent or
        too small, the work directory belongs to another configuration or is no run, or the
        loss stopped being a number.
    """
    config = validate(config)
    say(console, f"Training in {workdir} on {_devices()}")
    _check(workdir, config)
    source = load_source(config.data.name, "train", config.data.directory)
    validation = load_source(config.data.name, config.evaluation.split, config.data.directory)
    metric, metrics = config.evaluation.metric, score_names(validation)
    if metric not in metrics:
        raise InputError(
            f"evaluation.metric is '{metric}', which '{config.data.name}' does not have; give "
            f"one of {', '.join(metrics)}.{did_you_mean(metric, metrics)}"
        )
    if config.data.flip and not find_dataset(config.data.name).flippable:
        raise InputError(
            f"data.flip is true, but captions of '{config.data.name}' say what is left and what "
            "is right, which is false of a mirrored image; give --data.no-flip."
        )
    texts = tokenised_captions(source)
    vocabulary = _vocabulary(workdir, texts, config)
    captions = Captions.encode(texts, vocabulary, config=config.data)
    steps_per_epoch = len(source) // config.train.batch_size
    if steps_per_epoch == 0:
        raise InputError(
            f"train.batch_size is {config.train.batch_size}, but the training split of "
            f"'{config.data.name}' has only {len(source)} images; give at most that many."
        )
    say(
        console,
        f"{len(source)} training and {len(validation)} {config.evaluation.split} images, "
        f"{len(vocabulary)} words, {steps_per_epoch} steps per epoch",
    )
    model = create_captioner(config, len(vocabulary))
    tx = optimizer.create_optimizer(config.train, config.encoder, steps_per_epoch=steps_per_epoch)
    state = _first_state(model, tx, config)
    _claim(workdir, config, vocabulary)
    with Checkpoints(workdir / "checkpoints", metric=metric) as checkpoints:
        if checkpoints.latest_step is not None:
            state = checkpoints.restore(checkpoints.latest_step, like=state)
            say(console, f"Going on from step {checkpoints.latest_step}")
        total = config.train.epochs * steps_per_epoch
        features, validation_features = (
            cached_features(
                records,
                split,
                model=model,
                variables=state.variables,
                config=config,
                console=console,
            )
            if config.encoder.cache_features and state.step < total
            else None
            for records, split in ((source, "train"), (validation, config.evaluation.split))
        )
        loop = _Loop(
            config=config,
            workdir=workdir,
            console=console,
            model=model,
            tx=tx,
            vocabulary=vocabulary,
            source=source,
            captions=captions,
            features=features,
            validation=validation,
            validation_features=validation_features,
            checkpoints=checkpoints,
            steps_per_epoch=steps_per_epoch,
        )
        return loop.run(state)


def _devices() -> str:
    devices = jax.devices()
    return f"{len(devices)} {devices[0].platform.upper()} device{'s' if len(devices) > 1 else ''}"


def _check(workdir: Path, config: Config) -> None:
    """Refuses a directory that holds another run, or something else."""
    path = workdir / "config.json"
    if path.exists():
        if lines := differences(load_config(path), config):
            raise InputError(
                f"{workdir} holds a run of another configuration:\n  "
                + "\n  ".join(lines)
                + "\nGive another --workdir, or the same options to go on with it."
            )
    elif workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(
            f"{workdir} exists and is no run (it has no config.json). "
            "Give a --workdir that is new or empty."
        )


def _claim(workdir: Path, config: Config, vocabulary: Vocabulary) -> None:
    """Makes the run directory: only now, so that a faulty option leaves none behind."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        save_config(config, workdir / "config.json")
        vocabulary.save(workdir / "vocabulary.json")
    except OSError as error:
        raise InputError(f"{workdir}: cannot write there ({error.strerror}).") from error


def _vocabulary(workdir: Path, texts: list[list[list[str]]], config: Config) -> Vocabulary:
    vocabulary = Vocabulary.from_captions(
        (words for of_image in texts for words in of_image), min_count=config.data.min_count
    )
    path = workdir / "vocabulary.json"
    if path.exists() and Vocabulary.load(path) != vocabulary:
        raise InputError(
            f"{path} is not the vocabulary of the training split of '{config.data.name}': the "
            "data set has changed since this run began. Give a new --workdir."
        )
    return vocabulary


def _first_state(model: Captioner, tx: Any, config: Config) -> TrainState:
    size, encoder = config.data.image_size, None
    if config.encoder.weights is not None:
        shapes = encoder_shapes(model, image_size=size)
        encoder = load_weights(config.encoder.weights, config.encoder.name, shapes)
    rng = jax.random.key(config.train.seed)
    variables = init_variables(model, rng, image_size=size, encoder=encoder)
    return jax.jit(lambda variables: TrainState.create(variables, tx))(variables)


@dataclass
class _Loop:
    config: Config
    workdir: Path
    console: Console
    model: Captioner
    tx: Any
    vocabulary: Vocabulary
    source: Source
    captions: Captions
    features: Float[np.ndarray, "images P D"] | None
    validation: Source
    validation_features: Float[np.ndarray, "dev_images P D"] | None
    checkpoints: Checkpoints
    steps_per_epoch: int

    def run(self, state: TrainState) -> Summary:
        train = self.config.train
        step = jax.jit(
            functools.partial(
                train_step,
                model=self.model,
                tx=self.tx,
                objective=functools.partial(cross_entropy, label_smoothing=train.label_smoothing),
            ),
            donate_argnums=0,
        )
        schedule = optimizer.learning_rate(train, steps_per_epoch=self.steps_per_epoch)
        decode = create_decode(self.model, self.config.search)
        rng = jax.random.key(train.seed)
        total = train.epochs * self.steps_per_epoch
        done = int(state.step)
        log = _Log(self.workdir / "metrics.jsonl", done)
        batches = training_batches(
            self.source,
            self.captions,
            config=self.config.data,
            batch_size=train.batch_size,
            seed=train.seed,
            first_step=done,
            steps=total,
            features=self.features,
        )
        if done < total:
            say(self.console, "Compiling…")
        with Display(self.console, "step", total=total, done=done) as display:
            meter = _Meter()
            for batch in batches:
                state, metrics = step(state, batch, rng)
                done += 1
                meter.add(metrics, batch.tokens)
                epoch_ends = done % self.steps_per_epoch == 0
                if done % train.log_every == 0 or epoch_ends or done == 1:
                    line = meter.read(done)
                    line["epoch"] = done / self.steps_per_epoch
                    line["learning_rate"] = float(schedule(done - 1))
                    # A gradient that is no number spoils the parameters about to be saved.
                    for name in ("loss", "grad_norm"):
                        if not math.isfinite(line[name]):
                            raise InputError(self._diverged(name, line[name], done))
                    log.write(line)
                    display.update(
                        done,
                        f"loss {line['loss']:.3f}  {line['images_per_s']:.1f} images/s  "
                        f"{line['captions_per_s']:.0f} captions/s",
                    )
                if epoch_ends:
                    self._end_epoch(state, decode, log, display, meter.epoch_loss())
                    meter = _Meter()
        best = self.checkpoints.best_step
        scores = next(
            (s for s in log.evaluations(self.config.evaluation.split) if s["step"] == best), None
        )
        if best is None or scores is None:
            raise InputError(
                f"{self.workdir}: the run has checkpoints but metrics.jsonl does not "
                "tell their scores; give a new --workdir."
            )
        return Summary(
            best_step=best,
            scores={k: v for k, v in scores.items() if k not in ("step", "epoch", "elapsed_s")},
            seconds=log.elapsed,
        )

    def _diverged(self, name: str, value: float, step: int) -> str:
        latest = self.checkpoints.latest_step
        kept = "" if latest is None else f" The checkpoint of step {latest} is kept."
        return (
            f"{self.workdir}: the {name} is {value} at step {step}.{kept} A lower "
            "train.learning_rate or train.clip_norm, in a new --workdir, is the usual way out."
        )

    def _end_epoch(
        self, state: TrainState, decode: Any, log: _Log, display: Display, loss: float
    ) -> None:
        split = self.config.evaluation.split
        step, epoch = int(state.step), int(state.step) // self.steps_per_epoch
        with Display(self.console, f"captioning {split}", total=len(self.validation)) as progress:
            evaluation = evaluate_source(
                self.validation,
                decode=decode,
                variables=state.variables,
                vocabulary=self.vocabulary,
                config=self.config,
                report=progress.update,
                features=self.validation_features,
            )
        # Log first: a kill between the two costs a repeated line, which resuming removes.
        log.write(
            {"step": step, "epoch": epoch}
            | {f"{split}/{name}": score for name, score in evaluation.corpus.items()}
        )
        self.checkpoints.save(state, evaluation.corpus)
        display.line(
            f"epoch {epoch}/{self.config.train.epochs}  loss {loss:.3f}  "
            + "  ".join(f"{k} {v:.1f}" for k, v in _headline(evaluation).items())
            + f"  ({log.elapsed / 60:.1f} min)"
            + ("  best so far" if self.checkpoints.best_step == step else "")
        )
        name, captions = next(iter(evaluation.captions.items()))
        display.line(f"    {name}: {captions[0].text}")


def _headline(evaluation: Evaluation) -> dict[str, float]:
    hidden = ("BLEU-2", "BLEU-3", "ROUGE-L")
    return {name: score for name, score in evaluation.corpus.items() if name not in hidden}


class _Meter:
    """Sums over steps; reading them waits for the device, so it is done now and then."""

    def __init__(self) -> None:
        self._pending: list[StepMetrics] = []
        self._captions = self._images = 0
        self._since = time.monotonic()
        self._loss = self._words = 0.0

    def add(self, metrics: StepMetrics, tokens: Any) -> None:
        self._pending.append(metrics)
        self._images += tokens.shape[0]
        self._captions += int(np.any(tokens != 0, axis=-1).sum())

    def read(self, step: int) -> LogLine:
        read = jax.device_get(self._pending)
        loss = float(sum(m.loss for m in read))
        words = float(sum(m.words for m in read))
        now = time.monotonic()
        seconds = max(1e-9, now - self._since)
        line: LogLine = {
            "step": step,
            "loss": loss / max(1.0, words),
            "grad_norm": float(read[-1].grad_norm),
            "images_per_s": self._images / seconds,
            "captions_per_s": self._captions / seconds,
        }
        self._loss += loss
        self._words += words
        self._pending, self._captions, self._images, self._since = [], 0, 0, now
        return line

    def epoch_loss(self) -> float:
        return self._loss / max(1.0, self._words)


class _Log:
    """`metrics.jsonl`: one line of training every few steps, one of evaluation every epoch."""

    def __init__(self, path: Path, step: int):
        """Keeps what happened up to `step`; later lines belong to a session that was lost."""
        self._path = path
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_text(path, text)
        self._lines = kept
        self._begin = time.monotonic() - (kept[-1]["elapsed_s"] if kept else 0.0)

    @property
    def elapsed(self) -> float:
        """Seconds spent on this run, over all its sessions."""
        return time.monotonic() - self._begin

    def write(self, line: LogLine) -> None:
        line = line | {"elapsed_s": round(self.elapsed, 2)}
        self._lines.append(line)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def evaluations(self, split: str) -> list[LogLine]:
        """The lines that carry scores of `split`, their names without it."""
        return [
            {name.removeprefix(f"{split}/"): value for name, value in line.items()}
            for line in self._lines
            if any(name.startswith(f"{split}/") for name in line)
        ]
