"""The loss on the evaluated split, against the probabilities of its captions one by one."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from configurations import changed
from rich.console import Console

from jaxcap.captioning.loaded_model import load
from jaxcap.data.images import decode, resize
from jaxcap.evaluation import read_metrics
from jaxcap.training.setup import set_up
from jaxcap.training.validation_loss import validation_loss

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [4, 8])  # the six images fill no batch
def test_it_is_the_mean_over_all_words(tiny_run, tiny_config, tmp_path, batch_size) -> None:
    config = changed(tiny_config, evaluation__batch_size=batch_size)
    experiment = set_up(config, tmp_path / "run", console=Console(quiet=True))
    run = load(tiny_run)
    apply = jax.jit(run.model.apply)
    log_probs: list[float] = []
    for number in range(len(experiment.validation)):
        record = experiment.validation[number]
        pixels = resize(decode(record["image"], name="x"), config.data.image_size)[None]
        for caption in record["captions"][: config.data.captions_per_image]:
            longest = config.data.length_buckets[-1]
            words = run.vocabulary.units.split(caption)
            tokens = np.array(run.vocabulary.encode(words, max_length=longest), np.int32)
            padded = np.zeros((1, 1, longest), np.int32)
            padded[0, 0, : len(tokens) - 1] = tokens[:-1]
            logits = apply(run.variables, pixels, padded).logits[0, 0]
            found = jax.nn.log_softmax(logits)[np.arange(len(tokens) - 1), tokens[1:]]
            log_probs += found.tolist()
    found = validation_loss(experiment)(run.variables)
    assert found == pytest.approx(-np.mean(log_probs), rel=1e-4)


def test_it_is_logged_with_the_scores(tiny_run) -> None:
    lines = read_metrics(tiny_run / "metrics.jsonl")
    scored = [line for line in lines if "dev/CIDEr-D" in line]
    losses = [line["dev/loss"] for line in scored]
    assert len(losses) > 1
    assert losses[-1] < losses[0]
    assert losses[-1] == pytest.approx(lines[-2].get("loss", lines[-1].get("loss")), rel=0.5)
