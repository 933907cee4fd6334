"""The training loop: steps, log lines, checkpoints, and an evaluation after every epoch."""

from __future__ import annotations

import contextlib
import functools
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from jaxcap.devices import hosts
from jaxcap.evaluation import Evaluation, LogLine, evaluate_source
from jaxcap.messages.errors import InputError, one_line
from jaxcap.messages.progress import Display, print_line
from jaxcap.storage.checkpoints import Checkpoints
from jaxcap.training import compilations
from jaxcap.training.divergence import Divergence, Offender, divergence, save_offender
from jaxcap.training.experiment import Experiment
from jaxcap.training.input_wait import Waiting
from jaxcap.training.interruption import Interrupted, Interruption
from jaxcap.training.log import Log, Meter, figures
from jaxcap.training.memory import peak_memory
from jaxcap.training.step.state import TrainState
from jaxcap.training.tensorboard import TensorBoard
from jaxcap.training.validation_loss import validation_loss

_NOT_SCORES = ("step", "epoch", "elapsed_s", "loss")
_AGREE = 10
"""Steps between agreements of several processes on saving and stopping."""


@dataclass(frozen=True)
class Summary:
    """The result of a finished training run.

    Attributes:
      best_step: the step of the best checkpoint.
      scores: the scores of that checkpoint on the evaluation split, ×100.
      seconds: the time spent training and evaluating, over all sessions of the run.
    """

    best_step: int
    scores: dict[str, float]
    seconds: float


class Loop:
    """One session of training, of a run or of one of its stages."""

    def __init__(self, experiment: Experiment, checkpoints: Checkpoints, state: TrainState):
        """Open the log of the run and cut it back to the step of `state`.

        Args:
          state: the newest checkpoint's, or the first.
        """
        self._experiment, self._checkpoints, self._first = experiment, checkpoints, state
        done = int(state.step)
        self._saved, self._saved_at = done, time.monotonic()
        train = experiment.config.train
        # Fine-tuning may end worse than it began, so its start is scored too. And a session may
        # have ended between the last step of an epoch and its evaluation.
        scores_here = done > 0 or train.start_from is not None or experiment.total == 0
        self._unscored = scores_here and self._epoch_ends(done) and not checkpoints.scored(done)
        self._log = Log(
            experiment.workdir / "metrics.jsonl",
            done,
            split=experiment.config.evaluation.split,
            scored=not self._unscored,
        )
        self._board = self._tensorboard()
        in_epoch = self._unscored or not self._epoch_ends(done)
        self._meter = Meter(
            done,
            checkpoints.note(done) if in_epoch else None,
            where=experiment.workdir / "checkpoints" / str(done) / "manifest.json: note",
        )
        self._decode, self._rate = experiment.decode(), experiment.learning_rate()
        self._validation_loss = validation_loss(experiment)

    def run(self) -> tuple[TrainState, Summary]:
        """Train to the end, and return the last state.

        Raises:
          InputError: the loss diverged, or there is no room for a checkpoint.
          Interrupted: SIGTERM, SIGINT, or SIGHUP arrived. The state is saved.
        """
        experiment, train = self._experiment, self._experiment.config.train
        state, done = self._first, int(self._first.step)
        step, rng = experiment.step(), jax.random.key(train.seed)
        if (done < experiment.total and not self._stalled()) or self._unscored:
            print_line(experiment.console, f"Compiling{compilations.cache_note()}…")
        with (
            Interruption() as interruption,
            Display(experiment.console, "step", total=experiment.total, done=done) as display,
            compilations.reported_to(display.line),
            Waiting() as waiting,
        ):
            if self._unscored:
                if not self._checkpoints.has(done):
                    self._save(state)
                self._end_epoch(state, display, interruption)
            last = done if self._stalled() else experiment.total
            compiled = set()
            for batch in waiting.batches(experiment.batches(done, last)):
                shapes = tuple(map(np.shape, jax.tree.leaves(batch)))
                # The call returns when the step is compiled, long before it is computed.
                with contextlib.nullcontext() if shapes in compiled else self._meter.paused():
                    state, metrics = step(state, batch, rng)
                compiled.add(shapes)
                done += 1
                waiting.watch_step(metrics.loss, functools.partial(display.advance, done))
                self._meter.add(metrics, batch.tokens)
                epoch_ends = self._epoch_ends(done)
                if done % train.log_every == 0 or epoch_ends or done == 1:
                    self._stop_if_diverged()
                    line = self._meter.line(waiting.seconds()) | peak_memory()
                    line["epoch"] = experiment.epoch(done)
                    line["learning_rate"] = float(self._rate(done - 1))
                    self._write(line)
                    display.update(done, figures(line))
                stop, save = self._requests(done, interruption)
                if epoch_ends or stop or save:
                    self._save(state)
                if epoch_ends:
                    self._end_epoch(state, display, interruption)
                if stop:
                    with hosts.all_succeed():
                        self._checkpoints.wait()
                    raise Interrupted(stop, done)
                if epoch_ends and self._stalled():
                    display.line(
                        f"No better {experiment.config.evaluation.metric} in {train.patience} "
                        f"epochs: training ends after {round(experiment.epoch(done))} of "
                        f"{self._epochs()}."
                    )
                    break
        return state, self._summary()

    def _tensorboard(self) -> TensorBoard | None:
        experiment = self._experiment
        if not experiment.config.train.tensorboard or not hosts.is_first():
            return None
        return TensorBoard(
            experiment.workdir / "tensorboard",
            self._log.lines,
            split=experiment.config.evaluation.split,
            report=functools.partial(print_line, experiment.console),
        )

    def _write(self, line: LogLine) -> None:
        self._log.write(line)
        if self._board is not None:
            self._board.write(line)

    def _epoch_ends(self, done: int) -> bool:
        return self._experiment.epoch(done).is_integer()

    def _epochs(self) -> int:
        """Count the epochs to the end of the stage, including those of earlier stages."""
        return round(self._experiment.epoch(self._experiment.total))

    def _stalled(self) -> bool:
        metric, patience = (
            self._experiment.config.evaluation.metric,
            self._experiment.config.train.patience,
        )
        lines = self._log.evaluations()
        return stalled([line[metric] for line in lines if metric in line], patience)

    def _requests(self, done: int, interruption: Interruption) -> tuple[int | None, bool]:
        """Return the signal that arrived, if any, and whether to save; the same everywhere."""
        train = self._experiment.config.train
        minutes = (time.monotonic() - self._saved_at) / 60
        in_steps = train.save_every > 0 and done % train.save_every == 0
        requests = interruption.signal, 0 < train.save_minutes <= minutes
        if hosts.share()[1] > 1:
            # Clocks and signals differ, and agreeing at every step would take too long.
            if done % _AGREE and not self._epoch_ends(done):
                return None, in_steps
            signals, times = zip(*hosts.gather(requests), strict=True)
            requests = next(filter(None, signals), None), any(times)
        return requests[0], requests[1] or in_steps

    def _save(self, state: TrainState) -> None:
        self._stop_if_diverged()
        with self._meter.paused():
            self._checkpoints.save(state, None, note=self._meter.note())
        self._saved, self._saved_at = int(state.step), time.monotonic()

    def _stop_if_diverged(self) -> None:
        """Wait for the device, and check every step since the last call."""
        for step, metrics in self._meter.wait():
            if found := divergence(metrics, step, vocabulary=len(self._experiment.vocabulary)):
                raise InputError(*self._diverged(found))

    def _diverged(self, found: Divergence) -> list[str]:
        experiment = self._experiment
        if not hosts.is_first():
            return [f"{found}."]
        # The number of a step determines its batch, so the batch need not have been kept.
        batch = next(iter(experiment.batches(found.step - 1, found.step, whole=True)))
        try:
            path = save_offender(Offender(batch, found.step, after=self._saved), experiment.workdir)
        except OSError as error:
            kept = [f"Its batch could not be saved ({error.strerror})."]
        else:
            folder = experiment.config.data.directory
            where = [] if folder is None else ["--data-dir", str(folder)]
            command = shlex.join(["jaxcap", "replay", str(path), *where])
            kept = ["Its batch is saved; to replay the step:", f"  {command}"]
        saved = f"The checkpoint of step {self._saved} is kept. " if self._saved else ""
        return [
            f"{experiment.workdir}: {found}. {kept[0]}",
            *kept[1:],
            f"{saved}Try a lower train.learning_rate or train.clip_norm in a new --workdir.",
        ]

    def _end_epoch(self, state: TrainState, display: Display, interruption: Interruption) -> None:
        """Evaluate the state, which is already saved."""
        experiment, split = self._experiment, self._experiment.config.evaluation.split
        step = int(state.step)
        epoch = round(experiment.epoch(step))

        def check() -> None:
            if hosts.share()[1] == 1:  # several processes stop together, after the next steps
                interruption.check(step)

        check()
        trained = self._meter.epoch()
        with Display(
            experiment.console, f"captioning {split}", total=len(experiment.validation)
        ) as progress:

            def report(done: int, note: str) -> None:
                check()
                progress.update(done, note)

            evaluation = evaluate_source(
                experiment.validation,
                decode=self._decode,
                variables=state.variables,
                vocabulary=experiment.vocabulary,
                config=experiment.config,
                report=report,
                features=experiment.validation_features,
            )
            loss = self._validation_loss(state.variables)
        # Log first: a kill before `score` only repeats the line, and resuming removes it.
        self._write(
            {"step": step, "epoch": epoch, f"{split}/loss": loss}
            | {f"{split}/{name}": score for name, score in evaluation.corpus.items()}
        )
        if self._board is not None:
            self._board.samples(evaluation, experiment.validation, step)
        self._checkpoints.score(step, evaluation.corpus)
        display.line(
            (
                f"epoch {epoch}/{self._epochs()}  loss {trained['loss']:.3f}, {split} {loss:.3f}  "
                f"lr {float(self._rate(step - 1)):.2g}  "
                if step
                else "before the first step  "
            )
            + "  ".join(f"{k} {v:.1f}" for k, v in _headline(evaluation).items())
            + _speed(trained)
            + f"  ({self._log.elapsed / 60:.1f} min)"
            + ("  best so far" if self._checkpoints.best_step == step else "")
        )
        name, captions = next(iter(evaluation.captions.items()))
        display.line(one_line(f"    {name}: {captions[0].text}"))
        self._meter = Meter(step)

    def _summary(self) -> Summary:
        best = self._checkpoints.best_step
        scores = next((s for s in self._log.evaluations() if s["step"] == best), None)
        if best is None or scores is None:
            raise InputError(
                f"{self._experiment.workdir}: the run has checkpoints, but metrics.jsonl does not "
                "hold their scores. Give a new --workdir."
            )
        return Summary(
            best_step=best,
            scores={k: v for k, v in scores.items() if k not in _NOT_SCORES},
            seconds=self._log.elapsed,
        )


def stalled(scores: Sequence[float], patience: int) -> bool:
    """Return whether `patience` epochs passed since the best score; 0 means never."""
    if not patience or not scores:
        return False
    return len(scores) - 1 - scores.index(max(scores)) >= patience


def _speed(trained: LogLine) -> str:
    if "images_per_s" not in trained:
        return ""
    return f"  {trained['images_per_s']:.1f} images/s  waiting {trained['waiting_share']:.0%}"


def _headline(evaluation: Evaluation) -> dict[str, float]:
    hidden = ("BLEU-2", "BLEU-3", "ROUGE-L")
    return {name: score for name, score in evaluation.corpus.items() if name not in hidden}
