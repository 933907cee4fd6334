"""Training from another captioner: what it takes over, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from configurations import changed
from rich.console import Console

from jaxcap.captioning.loaded_model import load
from jaxcap.config import Config
from jaxcap.errors import InputError
from jaxcap.training.setup import first_state, set_up

QUIET = Console(quiet=True)


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
            r"has other parameters .* describes: decoder\.hidden_size is 7 here and",
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
    with pytest.raises(InputError, match="absent: no such run directory"):
        set_up(config, tmp_path / "new", console=QUIET)
