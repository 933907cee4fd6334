"""Compute the loss on the evaluated split, to be drawn beside the training loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcap.data.batch import Batch
from jaxcap.data.captions import Captions
from jaxcap.data.pipeline import evaluation_batches, pad_tokens, tokenised_captions
from jaxcap.devices import hosts
from jaxcap.devices.parallel import on_one_device
from jaxcap.text.vocabulary import PAD
from jaxcap.training.experiment import Experiment
from jaxcap.training.step.losses import Loss, cross_entropy


def validation_loss(experiment: Experiment) -> Callable[[Any], float]:
    """Return a function from variables to the mean cross-entropy per word, in nats.

    As in training, decoders read the true words, with the same captions, buckets and label
    smoothing. Unlike in training, there is no dropout and no augmentation.
    """
    config, vocabulary, model = experiment.config, experiment.vocabulary, experiment.model
    smoothing = config.train.label_smoothing
    texts = tokenised_captions(experiment.validation, vocabulary.units)
    captions = Captions.encode(texts, vocabulary, config=config.data)
    process, processes = hosts.share()
    numbers = np.array_split(np.arange(len(captions)), processes)[process]

    @jax.jit
    def loss(variables: Any, batch: Batch) -> Loss:
        targets = jnp.asarray(batch.tokens)[:, :, 1:]
        assert batch.valid is not None
        output: Any = model.apply(
            variables, batch.pixels, batch.tokens[:, :, :-1], features=batch.features
        )
        mask = (targets != PAD) & batch.valid[:, None, None]
        return cross_entropy(output.logits, targets, mask, label_smoothing=smoothing)

    def compute(variables: Any) -> float:
        total = words = 0.0
        for batch in evaluation_batches(
            experiment.validation,
            config=config.data,
            batch_size=config.evaluation.batch_size,
            numbers=numbers,
            features=experiment.validation_features,
        ):
            assert batch.numbers is not None
            rows = [captions.rows[int(number)] for number in batch.numbers]
            longest = config.data.length_buckets[-1]  # one shape, one compilation
            tokens = pad_tokens(rows, config=config.data, longest=longest)
            found = loss(on_one_device(variables), batch._replace(tokens=tokens))
            total, words = total + float(found.total), words + float(found.words)
        gathered = np.sum(hosts.gather((total, words)), axis=0)
        return float(gathered[0] / max(gathered[1], 1))

    return compute
