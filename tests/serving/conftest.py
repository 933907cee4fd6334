"""A tiny model with random weights, and servers of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import pytest
from http_client import Client, running

if TYPE_CHECKING:
    from jaxcap.captioning.loaded_model import LoadedModel
    from jaxcap.serving.service import Settings


@pytest.fixture(scope="session")
def model() -> LoadedModel:
    """A model with random weights, which says something else of every image."""
    from jaxcap.captioning.loaded_model import LoadedModel
    from jaxcap.config import Config, DataConfig, DecoderConfig, EncoderConfig, SearchConfig
    from jaxcap.model.captioner import create_captioner, init_variables
    from jaxcap.storage.trained import TrainedCaptioner
    from jaxcap.text.vocabulary import SPECIALS, Vocabulary

    config = Config(
        data=DataConfig(image_size=32),
        encoder=EncoderConfig(name="resnet_small"),
        decoder=DecoderConfig(hidden_size=16, embedding_size=8, attention_size=8),
        search=SearchConfig(beam_size=2, min_length=3, max_length=5),
    )
    vocabulary = Vocabulary((*SPECIALS, "a", "cat", "dog", "runs", "sits"))
    network = create_captioner(config, len(vocabulary))
    variables = init_variables(network, jax.random.key(0), image_size=32)
    scaled = jax.tree.map(lambda x: 3 * x, variables["params"]["decoder"])
    variables["params"]["decoder"] = scaled
    return LoadedModel((TrainedCaptioner(Path("tiny"), config, vocabulary, variables, 0),))


@pytest.fixture(scope="session")
def settings() -> Settings:
    """Two sizes, a queue of eight images, and two more programs."""
    from jaxcap.serving.service import Settings

    return Settings(
        sizes=(1, 4), queue=8, seconds=120.0, body_bytes=300_000, searches=3, pixels=10**6
    )


@pytest.fixture(scope="session")
def client(model: LoadedModel, settings: Settings) -> Iterator[Client]:
    """A server for tests that change nothing."""
    with running(model, settings) as client:
        yield client


@pytest.fixture
def serve(model: LoadedModel, settings: Settings) -> Iterator[Callable[..., Client]]:
    """Return a function that starts a server with other settings."""
    with contextlib.ExitStack() as stack:

        def start(
            model: LoadedModel = model,
            connections: int = 100,
            compiled: bool = True,
            **changes: Any,
        ) -> Client:
            started = running(
                model, replace(settings, **changes), connections=connections, compiled=compiled
            )
            return stack.enter_context(started)

        yield start
