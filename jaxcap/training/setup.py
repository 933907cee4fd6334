"""Set up a training run. Everything is checked before anything is written."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import Path

import jax
from rich.console import Console

from jaxcap.config import Config, load_config, stage_configs, validate
from jaxcap.config.local_paths import local_path
from jaxcap.data.feature_cache import EncodedImages
from jaxcap.data.mixture import Turns
from jaxcap.data.pipeline import Source, has_images
from jaxcap.datasets.prepare import find_dataset, load_source
from jaxcap.devices import hosts
from jaxcap.devices.parallel import check_device, create_parallel, on_one_device, use_device
from jaxcap.devices.promotion import standard_promotion
from jaxcap.evaluation import score_names
from jaxcap.messages.errors import InputError, counted, did_you_mean
from jaxcap.messages.progress import print_line, timed
from jaxcap.model.captioner import create_captioner, encoder_shapes, init_variables
from jaxcap.model.encoders.weights.loading import load_classifier, load_weights
from jaxcap.model.recogniser.recogniser import with_words, words_to_recognise
from jaxcap.storage.checkpoints import Checkpoints
from jaxcap.storage.runs import check_copies
from jaxcap.training.experiment import Experiment
from jaxcap.training.frozen_features import cached_features
from jaxcap.training.loop import Loop, Summary
from jaxcap.training.self_critical import check_references
from jaxcap.training.stages import create_stages, enter_stage, stage_at
from jaxcap.training.start_from import extend_variables, load_start, recognising_as
from jaxcap.training.step import optimizer
from jaxcap.training.step.state import TrainState
from jaxcap.training.training_data import TrainingData, load_sources
from jaxcap.training.training_text import training_text
from jaxcap.training.workdir import check, claim


@standard_promotion()
def train(config: Config, workdir: Path, *, console: Console) -> Summary:
    """Train the captioner that `config` describes, or resume its training.

    All files are written to `workdir` (see `docs/architecture.md`). Called again with the same
    configuration, training resumes from the latest checkpoint and ends as if it had never been
    interrupted.

    Raises:
      InputError: an option is invalid, the data set is not prepared, a split is missing or too
        small, `workdir` is not writable, is not a run, has another configuration or is in use, or
        training diverged.
      Interrupted: SIGTERM, SIGINT, or SIGHUP arrived. The state is saved.
    """
    config, workdir = validate(config), local_path(workdir, "--workdir")
    use_device(config.train.device)
    hosts.connect(config.train)
    check_device(config.train.device)  # processes communicate through their devices
    if not hosts.is_first():
        console = Console(quiet=True)
    with hosts.all_succeed():
        print_line(console, f"Training in {workdir} on {_devices()}")
        check(workdir, config)
        experiment = set_up(config, workdir, console=console)
        stages = create_stages(experiment)
        state = first_state(stages[0])
    with contextlib.ExitStack() as stack:
        with hosts.all_succeed():
            if hosts.is_first():
                stack.enter_context(claim(workdir, experiment.config, experiment.vocabulary))
        checkpoints = stack.enter_context(
            Checkpoints(
                workdir / "checkpoints",
                metric=config.evaluation.metric,
                beside=[workdir / "config.json", workdir / "vocabulary.json"],
                report=functools.partial(print_line, console),
            )
        )
        restored = checkpoints.restore_newest(
            like=lambda step: enter_stage(stage_at(stages, step), state)
        )
        if restored is not None:
            state = restored
            check_copies(workdir, experiment.config, experiment.vocabulary, int(state.step))
            print_line(console, f"Resuming from step {int(state.step)}")
        if (step := int(state.step)) > (total := stages[-1].total):
            raise InputError(
                f"{workdir}: its checkpoint is of step {step}, but training ends at step {total}: "
                "the data set has fewer images than before. Give a new --workdir."
            )
        for number, stage in enumerate(stages, start=1):
            if state.step > stage.total:
                continue
            if state.step == stage.first_step:
                state = enter_stage(stage, state)
            if state.step < stage.total:
                if len(stages) > 1:
                    print_line(console, f"Stage {number} of {len(stages)}, to step {stage.total}")
                if stage.config.encoder.cache_features:
                    stage = with_features(stage, state)
            with hosts.ending_with_others():
                state, summary = Loop(stage, checkpoints, state).run()
            if state.step < stage.total:
                break  # the score stopped improving
        with hosts.all_succeed():  # a process that ends before the first has saved would end it too
            checkpoints.wait()
        return summary


def set_up(config: Config, workdir: Path, *, console: Console) -> Experiment:
    """Load the data, and create vocabulary, model and optimizer. Writes nothing.

    Raises:
      InputError: see `train`.
    """
    sources = load_sources(config.data)
    validation = load_source(config.data.name, config.evaluation.split, config.data.directory)
    metric, metrics = config.evaluation.metric, score_names(validation)
    if metric not in metrics:
        raise InputError(
            f"evaluation.metric is '{metric}', which '{config.data.name}' does not have; give "
            f"one of {', '.join(metrics)}.{did_you_mean(metric, metrics)}"
        )
    stages = stage_configs(config)
    flips = any(stage.data.flip for stage in stages)
    for name, source in sources.items():
        flippable = find_dataset(name, config.data.directory).flippable
        if flips and has_images(source) and not flippable:
            raise InputError(
                f"data.flip is true, but captions of '{name}' say what is left and right, which is "
                "wrong for mirrored images. Give --data.no-flip."
            )
    start = load_start(config)
    saved = workdir / "config.json"
    if saved.exists():
        config = recognising_as(config, load_config(saved))
    elif start is not None:
        config = recognising_as(config, start.config)
    with timed(
        console, f"Reading the captions of {counted(sum(map(len, sources.values())), 'image')}"
    ):
        vocabulary, captions = training_text(
            list(sources.values()),
            dataclasses.replace(config.data, flip=flips),
            saved=workdir / "vocabulary.json",
            given=None if start is None else start.vocabulary,
            extend=config.train.extend_vocabulary,
            always=words_to_recognise(config.recognition),
            warn=functools.partial(print_line, console),
        )
    parallel = create_parallel(config.train, [stage.train for stage in stages])
    if config.recognition.words:
        recognition = with_words(config.recognition, vocabulary.words)
        config = dataclasses.replace(config, recognition=recognition)
    model = create_captioner(
        config, len(vocabulary), words=vocabulary.words, axis_name=parallel.axis_name
    )
    data = TrainingData.create(
        sources, captions, names=config.data.names, recogniser=model.recogniser
    )
    if any(stage.train.objective == "self_critical" for stage in stages):
        check_references(data.captions)
    steps_per_epoch, *_ = [data.steps_per_epoch(stage) for stage in stages]
    print_line(
        console,
        f"{data} and {counted(len(validation), f'{config.evaluation.split} image')}, "
        f"{len(vocabulary)} {vocabulary.units.name}, {counted(steps_per_epoch, 'step')} per epoch",
    )
    return Experiment(
        config=config,
        workdir=workdir,
        console=console,
        model=model,
        tx=optimizer.create_optimizer(
            config.train,
            config.encoder,
            steps_per_epoch=steps_per_epoch,
            recognition=config.recognition,
        ),
        vocabulary=vocabulary,
        data=data,
        validation=validation,
        turns=Turns(data.shares(stages[0].data), (0,) * len(sources)),
        steps_per_epoch=steps_per_epoch,
        parallel=parallel,
        start=None if start is None else extend_variables(start, vocabulary, config),
    )


def first_state(experiment: Experiment) -> TrainState:
    """Create the state before the first step.

    Its variables are those of another captioner, or random, with published encoder weights if the
    configuration names some.
    """
    config, model, tx = experiment.config, experiment.model, experiment.tx
    size, weights = config.data.image_size, config.encoder.weights
    encoder = classifier = None
    variables = experiment.start
    if variables is None and weights is not None:
        with timed(experiment.console, f"Loading the weights '{weights}'"):
            shapes = encoder_shapes(model, image_size=size)
            encoder = load_weights(weights, config.encoder.name, shapes)
            if model.recogniser is not None:
                classifier = load_classifier(weights, config.encoder.name)
    with timed(experiment.console, f"Creating the model ({config.encoder.name} and its decoder)"):
        if variables is None:
            rng = jax.random.key(config.train.seed)
            variables = init_variables(
                model, rng, image_size=size, encoder=encoder, classifier=classifier
            )
        average = config.train.ema_decay > 0
        create = jax.jit(lambda variables: TrainState.create(variables, tx, average=average))
        return jax.block_until_ready(experiment.parallel.place(create(variables)))


def with_features(experiment: Experiment, state: TrainState) -> Experiment:
    """Return the experiment with cached features of the frozen encoder in place of pixels."""
    config, data = experiment.config, experiment.data

    def features(source: Source, name: str, split: str) -> EncodedImages:
        return cached_features(
            source,
            split,
            model=experiment.model,
            variables=on_one_device(state.variables),
            config=dataclasses.replace(config, data=dataclasses.replace(config.data, name=name)),
            console=experiment.console,
        )

    sets = {
        name: dataclasses.replace(each, features=features(each.source, name, "train"))
        if share > 0 and has_images(each.source)
        else each
        for (name, each), share in zip(data.sets.items(), experiment.turns.shares, strict=True)
    }
    return dataclasses.replace(
        experiment,
        data=dataclasses.replace(data, sets=sets),
        validation_features=features(
            experiment.validation, config.data.name, config.evaluation.split
        ),
    )


def _devices() -> str:
    devices = jax.devices()
    used = counted(len(devices), f"{devices[0].platform.upper()} device")
    _, processes = hosts.share()
    return used + (f" of {processes} processes" if processes > 1 else "")
