"""Models have the same identity exactly if they caption alike."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from jaxcap.captioning.identity import identity
from jaxcap.captioning.loaded_model import load
from jaxcap.storage import published


@pytest.mark.slow
def test_a_copy_of_a_model_is_the_same(tiny_run, tmp_path):
    model = load(tiny_run)
    published.write(model.single, tmp_path / "model.safetensors")
    shutil.copytree(tiny_run, tmp_path / "moved")
    assert identity(load(tmp_path / "model.safetensors")) == identity(model)
    assert identity(load(tmp_path / "moved")) == identity(model)


@pytest.mark.slow
def test_weights_words_and_search_make_another_model(tiny_run):
    model = load(tiny_run)
    member = model.single
    words = dataclasses.replace(member.vocabulary, words=(*member.vocabulary.words[:-1], "zebra"))
    changed = [
        dataclasses.replace(member, variables=jax.tree.map(lambda x: x + 1, member.variables)),
        dataclasses.replace(member, vocabulary=words),
        dataclasses.replace(member, calibration={"confidence/weights": np.ones(3)}),
    ]
    others = [dataclasses.replace(model, members=(each,)) for each in changed]
    others += [model.with_search(beam_size=7), load(tiny_run, tiny_run)]
    found = [tuple(identity(each).items()) for each in (model, *others)]
    assert len(set(map(str, found))) == len(found)
    assert identity(model.with_search(beam_size=7))["search.beam_size"] == 7
