"""Training from another captioner: what it takes over, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configurations import changed
from rich.console import Console

from jaxcap.captioning.loaded_model import load
from jaxcap.config import Config
from jaxcap.datasets.prepare import load_source
from jaxcap.evaluation import evaluate_source, read_metrics
from jaxcap.messages.errors import InputError
from jaxcap.text.vocabulary import UNK
from jaxcap.training import train
from jaxcap.training.setup import first_state, set_up
from jaxcap.training.start_from import extend_variables

pytestmark = pytest.mark.usefixtures("shared_programs")

QUIET = Console(quiet=True)


@pytest.mark.slow
def test_training_starts_from_the_parameters_and_words_of_the_other(
    tiny_run, tiny_config, tmp_path
):
    # Of its own the split would have fewer words: all but the most frequent would be <unk>.
    config = changed(tiny_config, train__start_from=str(tiny_run), data__min_count=1000)
    experiment = set_up(config, tmp_path / "new", console=QUIET)
    state, other = first_state(experiment), load(tiny_run)
    assert experiment.vocabulary == other.vocabulary
    assert len(other.vocabulary) > 10
    jax.tree.map(np.testing.assert_array_equal, state.variables, other.variables)
    assert state.step == 0
    assert not any(np.any(x) for x in jax.tree.leaves(state.opt_state))


def test_a_resumed_training_must_have_the_words_of_the_other(tiny_run, tiny_config, tmp_path):
    words = load(tiny_run).vocabulary
    dataclasses.replace(words, words=words.words[:-1]).save(tmp_path / "vocabulary.json")
    with pytest.raises(InputError, match=r"is not the vocabulary of train\.start_from"):
        set_up(changed(tiny_config, train__start_from=str(tiny_run)), tmp_path, console=QUIET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"decoder__hidden_size": 7},
            r"does not have the parameters .* describes: decoder\.hidden_size is 7 here and",
        ),
        ({"data__units": "characters"}, r"in words, but data\.units is characters\. Give"),
    ],
)
def test_another_captioner_than_described_is_refused(
    tiny_run: Path, tiny_config: Config, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    config = changed(tiny_config, train__start_from=str(tiny_run), **options)
    with pytest.raises(InputError, match=message):
        set_up(config, tmp_path / "new", console=QUIET)


def test_a_missing_captioner_is_named(tiny_config, tmp_path):
    config = changed(tiny_config, train__start_from=str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"start_from: .*absent: no such run directory"):
        set_up(config, tmp_path / "new", console=QUIET)


@pytest.mark.slow
def test_new_words_share_a_hundredth_of_the_probability_of_unknown_words(tiny_run, tiny_config):
    other = load(tiny_run)
    vocabulary = other.vocabulary.extended(
        {"zebra": 3, "yak": 2, "ant": 1, other.vocabulary.words[4]: 9}, min_count=2
    )
    known = len(other.vocabulary)
    assert vocabulary.words[known:] == ("zebra", "yak")
    variables = extend_variables(other, vocabulary, tiny_config)

    def probabilities(variables, vocabulary):
        model = dataclasses.replace(other.single, vocabulary=vocabulary).model
        images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
        tokens = np.array([[[1, 5, UNK, 7]], [[1, UNK, 6, 4]]], np.int32)
        return np.asarray(
            jax.nn.softmax(model.apply(variables, jnp.asarray(images), jnp.asarray(tokens)).logits)
        )

    before = probabilities(other.variables, other.vocabulary)
    after = probabilities(variables, vocabulary)
    words = np.arange(known) != UNK
    np.testing.assert_allclose(after[..., :known][..., words], before[..., words], rtol=1e-4)
    shares = before[..., [UNK, UNK, UNK]] * [0.99, 0.005, 0.005]
    np.testing.assert_allclose(after[..., [UNK, known, known + 1]], shares, rtol=1e-4)


@pytest.mark.slow
def test_the_vocabulary_grows_by_the_frequent_words_of_the_new_data(tiny_config, tmp_path):
    few = changed(tiny_config, data__min_count=60, train__epochs=0)
    train(few, tmp_path / "few", console=QUIET)
    other = load(tmp_path / "few")
    more = changed(
        tiny_config, train__start_from=str(tmp_path / "few"), train__extend_vocabulary=True
    )
    experiment = set_up(more, tmp_path / "more", console=QUIET)
    own = set_up(tiny_config, tmp_path / "own", console=QUIET)
    words = experiment.vocabulary.words
    assert words[: len(other.vocabulary)] == other.vocabulary.words
    assert 4 < len(other.vocabulary) < len(words)
    assert set(words) == set(own.vocabulary.words)
    state = first_state(experiment)
    assert state.params["decoder"]["word_embed"]["embedding"].shape[0] == len(words)


@pytest.mark.slow
def test_the_start_is_scored_and_kept_if_training_makes_it_worse(tiny_run, tiny_config, tmp_path):
    other = load(tiny_run)
    scores = evaluate_source(
        load_source("shapes", "dev", tiny_config.data.directory),
        decode=other.decode,
        variables=other.variables,
        vocabulary=other.vocabulary,
        config=other.config,
        report=lambda done, note: None,
    ).corpus
    worse = changed(
        tiny_config, train__start_from=str(tiny_run), train__epochs=1, train__learning_rate=1.0
    )
    summary = train(worse, tmp_path / "new", console=QUIET)
    assert summary.best_step == 0
    assert summary.scores == pytest.approx(scores)
    first, *_, last = read_metrics(tmp_path / "new" / "metrics.jsonl")
    assert (first["step"], first["epoch"]) == (0, 0)
    assert first["dev/CIDEr-D"] == pytest.approx(scores["CIDEr-D"])
    assert last["dev/CIDEr-D"] < first["dev/CIDEr-D"]
    kept = load(tmp_path / "new")
    jax.tree.map(np.testing.assert_array_equal, kept.variables, other.variables)
    again = train(worse, tmp_path / "new", console=QUIET)
    assert again.scores == summary.scores


@pytest.mark.slow
def test_no_epochs_only_score(tiny_config, tmp_path):
    summary = train(changed(tiny_config, train__epochs=0), tmp_path / "new", console=QUIET)
    assert summary.best_step == 0
    assert "CIDEr-D" in summary.scores
    (line,) = read_metrics(tmp_path / "new" / "metrics.jsonl")
    assert line["step"] == 0


def test_a_vocabulary_is_extended_only_with_a_captioner(tiny_config, tmp_path):
    config = changed(tiny_config, train__extend_vocabulary=True)
    with pytest.raises(InputError, match=r"train\.start_from names no captioner"):
        train(config, tmp_path / "new", console=QUIET)
