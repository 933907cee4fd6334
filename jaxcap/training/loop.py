"""Step after step, evaluation after every epoch, a checkpoint of each."""

from __future__ import annotations

import functools
import shlex
import time
from dataclasses import dataclass

import jax

from jaxcap.devices import hosts
from jaxcap.errors import InputError
from jaxcap.evaluation import Evaluation, LogLine, evaluate_source
from jaxcap.progress import Display, print_line
from jaxcap.storage.checkpoints import Checkpoints
from jaxcap.training import compilations
from jaxcap.training.divergence import Divergence, Offender, divergence, save_offender
from jaxcap.training.experiment import Experiment
from jaxcap.training.input_wait import Waiting
from jaxcap.training.interruption import Interrupted, Interruption
from jaxcap.training.log import Log, Meter, figures, stalled
from jaxcap.training.memory import peak_memory
from jaxcap.training.step.state import TrainState
from jaxcap.training.tensorboard import TensorBoard

_AGREE = 10
"""Steps after which several processes ask each other whether to save or to stop."""


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


class Loop:
    """One session of a training."""

    def __init__(self, experiment: Experiment, checkpoints: Checkpoints):
        self._of, self._checkpoints = experiment, checkpoints

    def run(self, state: TrainState) -> Summary:
        """Trains from `state`, which is the newest checkpoint's or the first, to the end.

        Raises:
          InputError: the loss diverged, or there is no room for a checkpoint.
          Interrupted: after SIGTERM or SIGINT, with the state saved.
        """
        of, train = self._of, self._of.config.train
        done = self._saved = int(state.step)
        self._saved_at = time.monotonic()
        split = of.config.evaluation.split
        # A session may have ended between the last step of an epoch and its evaluation.
        unscored = done > 0 and self._epoch_ends(done) and not self._checkpoints.scored(done)
        self._log = Log(of.workdir / "metrics.jsonl", done, split=split, scored=not unscored)
        under_way = unscored or not self._epoch_ends(done)
        self._board = self._tensorboard()
        self._meter = Meter(done, self._checkpoints.note(done) if under_way else None)
        self._decode, self._rate = of.decode(), of.learning_rate()
        step, rng = of.step(), jax.random.key(train.seed)
        if (done < of.total and not self._stalled()) or unscored:
            print_line(of.console, f"Compiling{compilations.place()}…")
        with (
            Interruption() as interruption,
            Display(of.console, "step", total=of.total, done=done) as display,
            compilations.telling(display.line),
            Waiting() as waiting,
        ):
            if unscored:
                self._end_epoch(state, display, interruption)
            last = done if self._stalled() else of.total
            for batch in waiting.batches(of.batches(done, last)):
                state, metrics = step(state, batch, rng)
                done += 1
                waiting.handed_over(metrics.loss, functools.partial(display.advance, done))
                self._meter.add(metrics, batch.tokens)
                epoch_ends = self._epoch_ends(done)
                if done % train.log_every == 0 or epoch_ends or done == 1:
                    self._stop_if_diverged()
                    line = self._meter.line(waiting.seconds()) | peak_memory()
                    line["epoch"] = done / of.steps_per_epoch
                    line["learning_rate"] = float(self._rate(done - 1))
                    self._write(line)
                    display.update(done, figures(line))
                stop, save = self._wishes(done, interruption)
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
                        f"No better {of.config.evaluation.metric} in {train.patience} epochs: "
                        f"training ends after {done // of.steps_per_epoch} of {self._epochs()}."
                    )
                    break
        self.state = state
        return self._summary()

    def _tensorboard(self) -> TensorBoard | None:
        of = self._of
        if not of.config.train.tensorboard or not hosts.is_first():
            return None
        return TensorBoard(
            of.workdir / "tensorboard",
            self._log.lines,
            split=of.config.evaluation.split,
            say=functools.partial(print_line, of.console),
        )

    def _write(self, line: LogLine) -> None:
        self._log.write(line)
        if self._board is not None:
            self._board.write(line)

    def _epoch_ends(self, done: int) -> bool:
        return done % self._of.steps_per_epoch == 0

    def _epochs(self) -> int:
        """How many there are to the end of the training or stage, those before it included."""
        return self._of.total // self._of.steps_per_epoch

    def _stalled(self) -> bool:
        metric, patience = self._of.config.evaluation.metric, self._of.config.train.patience
        return stalled([line[metric] for line in self._log.evaluations()], patience)

    def _wishes(self, done: int, interruption: Interruption) -> tuple[int | None, bool]:
        """The signal that came, if any, and whether it is time to save; in all processes alike."""
        train = self._of.config.train
        minutes = (time.monotonic() - self._saved_at) / 60
        in_steps = train.save_every > 0 and done % train.save_every == 0
        wishes = interruption.signal, 0 < train.save_minutes <= minutes
        if hosts.share()[1] > 1:
            # Clocks and signals differ; asking the others at every step would take too long.
            if done % _AGREE and not self._epoch_ends(done):
                return None, in_steps
            signals, times = zip(*hosts.gather(wishes), strict=True)
            wishes = next(filter(None, signals), None), any(times)
        return wishes[0], wishes[1] or in_steps

    def _save(self, state: TrainState) -> None:
        self._stop_if_diverged()
        with self._meter.paused():
            self._checkpoints.save(state, None, note=self._meter.note())
        self._saved, self._saved_at = int(state.step), time.monotonic()

    def _stop_if_diverged(self) -> None:
        """Waits for the device, and looks at every step since the last time."""
        for step, metrics in self._meter.wait():
            if found := divergence(metrics, step, vocabulary=len(self._of.vocabulary)):
                raise InputError(self._diverged(found))

    def _diverged(self, found: Divergence) -> str:
        of = self._of
        # A batch is made by the step's number alone, so it need not have been kept.
        if not hosts.is_first():
            return f"{found}."
        batch = next(iter(of.batches(found.step - 1, found.step, whole=True)))
        try:
            path = save_offender(Offender(batch, found.step, after=self._saved), of.workdir)
        except OSError as error:
            kept = f"Its batch could not be kept ({error.strerror})."
        else:
            command = shlex.join(["jaxcap", "replay", str(path)])
            kept = f"Its batch is kept; to see it happen again:\n  {command}\n"
        saved = f"The checkpoint of step {self._saved} is kept. " if self._saved else ""
        return (
            f"{of.workdir}: {found}. {kept}{saved}A lower train.learning_rate or "
            "train.clip_norm, in a new --workdir, is the usual way out."
        )

    def _end_epoch(self, state: TrainState, display: Display, interruption: Interruption) -> None:
        """Evaluates the state, which is saved already."""
        of, split = self._of, self._of.config.evaluation.split
        step, epoch = int(state.step), int(state.step) // of.steps_per_epoch

        def check() -> None:
            if hosts.share()[1] == 1:  # else all stop together, after the next steps
                interruption.check(step)

        check()
        trained, rate = self._meter.epoch(), float(self._rate(step - 1))
        with Display(of.console, f"captioning {split}", total=len(of.validation)) as progress:

            def report(done: int, note: str) -> None:
                check()
                progress.update(done, note)

            evaluation = evaluate_source(
                of.validation,
                decode=self._decode,
                variables=state.variables,
                vocabulary=of.vocabulary,
                config=of.config,
                report=report,
                features=of.validation_features,
            )
        # Log first: a kill before the last costs a repeated line, which resuming removes.
        self._write(
            {"step": step, "epoch": epoch}
            | {f"{split}/{name}": score for name, score in evaluation.corpus.items()}
        )
        if self._board is not None:
            self._board.samples(evaluation, of.validation, step)
        self._checkpoints.score(step, evaluation.corpus)
        display.line(
            f"epoch {epoch}/{self._epochs()}  loss {trained['loss']:.3f}  lr {rate:.2g}  "
            + "  ".join(f"{k} {v:.1f}" for k, v in _headline(evaluation).items())
            + _speed(trained)
            + f"  ({self._log.elapsed / 60:.1f} min)"
            + ("  best so far" if self._checkpoints.best_step == step else "")
        )
        name, captions = next(iter(evaluation.captions.items()))
        display.line(f"    {name}: {captions[0].text}")
        self._meter = Meter(step)

    def _summary(self) -> Summary:
        best = self._checkpoints.best_step
        scores = next((s for s in self._log.evaluations() if s["step"] == best), None)
        if best is None or scores is None:
            raise InputError(
                f"{self._of.workdir}: the run has checkpoints but metrics.jsonl does not "
                "tell their scores; give a new --workdir."
            )
        return Summary(
            best_step=best,
            scores={k: v for k, v in scores.items() if k not in ("step", "epoch", "elapsed_s")},
            seconds=self._log.elapsed,
        )


def _speed(trained: LogLine) -> str:
    if "images_per_s" not in trained:
        return ""
    return f"  {trained['images_per_s']:.1f} images/s  waiting {trained['waiting_share']:.0%}"


def _headline(evaluation: Evaluation) -> dict[str, float]:
    hidden = ("BLEU-2", "BLEU-3", "ROUGE-L")
    return {name: score for name, score in evaluation.corpus.items() if name not in hidden}
