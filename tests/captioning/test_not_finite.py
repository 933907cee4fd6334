"""Weights and scores that are NaN or infinite: refused at load, an error of each image else."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro
from PIL import Image
from rich.console import Console

from jaxcap.captioning import loaded_model
from jaxcap.captioning.loaded_model import LoadedModel, load
from jaxcap.commands import caption
from jaxcap.datasets.prepare import load_source
from jaxcap.evaluation import evaluate_source
from jaxcap.messages.errors import InputError
from jaxcap.storage import published
from jaxcap.storage.checkpoints import Checkpoints
from jaxcap.storage.trained import check_finite


def spoiled(variables: dict[str, Any], value: float) -> dict[str, Any]:
    """Return a copy in which one bias of the decoder's output is `value`."""
    copy = jax.tree.map(np.array, variables)
    copy["params"]["decoder"]["output"]["bias"][5] = value
    return copy


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> LoadedModel:
    return load(tiny_run)


@pytest.fixture(scope="module")
def broken(model: LoadedModel) -> LoadedModel:
    return LoadedModel((replace(model.single, variables=spoiled(model.variables, np.nan)),))


@dataclass
class _State:
    step: int
    variables: dict[str, Any]
    training: dict[str, Any]

    @classmethod
    def from_parts(cls, variables: dict[str, Any], training: dict[str, Any]) -> _State:
        return cls(0, variables, training)


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_published_file_with_weights_that_are_not_finite_is_refused(model, tmp_path, value):
    path = tmp_path / "broken.safetensors"
    published.write(replace(model.single, variables=spoiled(model.variables, value)), path)
    with pytest.raises(
        InputError, match=r"broken\.safetensors: .*params/decoder/output/bias has 1 NaN or infinite"
    ):
        load(path)


def test_a_checkpoint_with_weights_that_are_not_finite_is_refused(tiny_run, model, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    metric = model.config.evaluation.metric
    with Checkpoints(copy / "checkpoints", metric=metric) as checkpoints:
        checkpoints.save(
            _State(10**6, spoiled(model.variables, np.nan), {"step": jnp.int32(10**6)}),
            {metric: 1e9},
        )
    with pytest.raises(InputError, match=r"checkpoints/1000000: .*output/bias has 1 NaN"):
        load(copy)


def test_weights_whose_sum_overflows_are_finite():
    check_finite({"w": np.full(100, 3e38, np.float32)}, where="here")
    with pytest.raises(InputError, match=r"here: .* b has 2 NaN or infinite values, and 1 more"):
        check_finite(
            {"b": np.float32([np.nan, 1, np.inf]), "c": np.float32([-np.inf]), "d": np.ones(3)},
            where="here",
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "search",
    [
        {"method": "beam"},
        {"method": "greedy"},
        {"method": "sample"},
        {"method": "diverse", "groups": 2},
    ],
    ids=lambda search: search["method"],
)
def test_an_image_without_a_caption_has_an_error(broken, search):
    image = np.zeros((32, 32, 3), np.uint8)
    results = list(broken.with_search(**search).caption([image, b"bad", image], batch_size=2))
    assert [each.captions for each in results] == [()] * 3
    assert str(results[1].error).startswith("image 1: not an image")
    for number in (0, 2):
        error = results[number].error
        assert error is not None
        assert error.startswith(f"image {number}: the search found no caption")


def test_the_command_counts_images_without_captions_and_ends_with_status_1(
    broken, tmp_path, monkeypatch
):
    monkeypatch.setattr(loaded_model, "load", lambda *_, **__: broken)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    output = tmp_path / "captions.jsonl"
    console = Console(file=io.StringIO(), width=10_000)
    arguments = ["--output", str(output), "--model", "RUN", "--", str(tmp_path)]
    assert caption.run(tyro.cli(caption.CaptionArguments, args=arguments), console) == 1
    printed = console.file.getvalue()
    assert "2 of 2 images could not be captioned" in printed
    assert f"{tmp_path / 'a.png'}: the search found no caption" in printed


@pytest.mark.slow
def test_evaluation_names_an_image_without_a_caption(broken, tiny_data):
    with pytest.raises(InputError, match=r"image .*: the search found no caption"):
        evaluate_source(
            load_source("shapes", "dev", tiny_data),
            decode=broken.decode,
            variables=broken.variables,
            vocabulary=broken.vocabulary,
            config=broken.config,
            report=lambda *_: None,
        )
