"""A process of `test_parallel.py`: train a few steps in several ways and save the results.

Run as a program, with the number of devices in JAX_NUM_CPU_DEVICES:
python parallel_process.py OUT.npz VARIANT,… [COORDINATOR PROCESSES PROCESS]

`METHOD/SETUP>DIRECTORY` saves the state half-way, and `METHOD/SETUP<DIRECTORY` resumes from there.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcap.config import Config, DecoderConfig, EncoderConfig, TrainConfig
from jaxcap.data.batch import Batch
from jaxcap.data.pipeline import share_of_batch
from jaxcap.devices import hosts
from jaxcap.devices.parallel import create_parallel, on_one_device
from jaxcap.model.captioner import create_captioner, init_variables
from jaxcap.storage.checkpoints import Checkpoints
from jaxcap.training.step.losses import cross_entropy
from jaxcap.training.step.optimizer import create_optimizer
from jaxcap.training.step.scheduled_sampling import ScheduledSampling
from jaxcap.training.step.state import TrainState
from jaxcap.training.step.train_step import train_step

IMAGES, CAPTIONS, WORDS, SIDE, STEPS, VOCABULARY = 32, 2, 9, 16, 4, 13

_SETUPS: dict[str, dict[str, Any]] = {
    # Batch statistics, dropout and scheduled sampling: everything that could differ by device.
    "random": {},
    # Equal with and without accumulation: no random numbers, and no batch statistics.
    "still": {"frozen": True},
    "parts": {"frozen": True, "accumulate": 4},
}


def batch(step: int) -> Batch:
    """Return captions that are long for the first images and short or missing for the last."""
    rng = np.random.default_rng(step)
    tokens = np.zeros((IMAGES, CAPTIONS, WORDS), np.int32)
    for image in range(IMAGES):
        for caption in range(CAPTIONS):
            length = max(0, WORDS - image // 4 - 2 * caption)
            if length > 1:
                words = rng.integers(4, VOCABULARY, length - 2)
                tokens[image, caption, :length] = [1, *words, 2]
    pixels = rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8)
    return Batch(pixels=pixels, tokens=tokens)


def train(variant: str) -> dict[str, np.ndarray]:
    """Return the loss of every step and the last state."""
    method, setup, kept, directory = re.fullmatch(r"(\w+)/(\w+)([<>]?)(.*)", variant).groups()  # type: ignore[union-attr]
    options = _SETUPS[setup]
    accumulate = options.get("accumulate", 1)
    config = Config(
        encoder=EncoderConfig(
            name="resnet_small", batch_stats="frozen" if options.get("frozen") else "trained"
        ),
        decoder=DecoderConfig(
            hidden_size=8,
            embedding_size=6,
            attention_size=6,
            output_dropout=0.5,
            embedding_dropout=0.2,
            feature_dropout=0.2,
        ),
        train=TrainConfig(
            parallel=method,
            batch_size=IMAGES,
            accumulate=accumulate,
            optimizer="sgd",
            learning_rate=0.1,
            warmup_epochs=0.0,
        ),
    )
    if options.get("frozen"):
        config = _without_dropout(config)
    parallel = create_parallel(config.train)
    model = create_captioner(config, VOCABULARY, axis_name=parallel.axis_name)
    model = model.clone(encoder=model.encoder.clone(stage_sizes=(1,), width=4))
    tx = create_optimizer(config.train, config.encoder, steps_per_epoch=STEPS)
    create = jax.jit(functools.partial(TrainState.create, tx=tx))
    state = parallel.place(create(init_variables(model, jax.random.key(0), image_size=SIDE)))
    step = parallel.compile(
        functools.partial(
            train_step,
            model=model,
            tx=tx,
            objective=cross_entropy,
            axis_name=parallel.axis_name,
            accumulate=accumulate,
            sampling=None if options.get("frozen") else ScheduledSampling("linear", k=0.5),
        )
    )
    rows, losses = share_of_batch(IMAGES, hosts.share()), []
    first = 0
    if kept == "<":
        with _checkpoints(directory) as checkpoints:
            state = checkpoints.restore(STEPS // 2, state)
            first = int(state.step)
    for number in range(first, STEPS):
        mine = jax.tree.map(lambda x: x[rows], batch(number))
        state, metrics = step(state, mine, jax.random.key(7))
        losses.append(metrics.loss / metrics.words)
        if kept == ">" and state.step == STEPS // 2:
            with _checkpoints(directory) as checkpoints:
                checkpoints.save(state, None)
    for leaf in jax.tree.leaves(state.variables):
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(shard.data, leaf.addressable_data(0))
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(on_one_device(state.variables))
    }
    return {"losses": np.array([float(jnp.asarray(x)) for x in losses]), **found}


def _checkpoints(directory: str) -> Checkpoints:
    return Checkpoints(Path(directory), metric="none", report=print)


def _without_dropout(config: Config) -> Config:
    still = {"output_dropout": 0.0, "embedding_dropout": 0.0, "feature_dropout": 0.0}
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, **still))


if __name__ == "__main__":
    gc.set_threshold(100_000, 20, 20)  # as in the tests
    out, variants, *several = sys.argv[1:]
    if several:
        address, processes, process = several
        hosts.connect(
            TrainConfig(coordinator=address, processes=int(processes), process_id=int(process))
        )
    results = {
        f"{variant}:{name}": value
        for variant in variants.split(",")
        for name, value in train(variant).items()
    }
    if hosts.is_first():
        np.savez(out, **results)
