"""A tiny captioner with random weights, and images for it."""

from __future__ import annotations

import io
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from jaxcap.captioning.loaded_model import LoadedModel
from jaxcap.config import Config, DataConfig, DecoderConfig, EncoderConfig, SearchConfig
from jaxcap.model.captioner import create_captioner, init_variables
from jaxcap.storage import published
from jaxcap.storage.trained import TrainedCaptioner
from jaxcap.text.vocabulary import SPECIALS, Vocabulary


def write_model(path: Path) -> Path:
    """Write a captioner of 40 words, which says something else about every image."""
    config = Config(
        data=DataConfig(image_size=32),
        encoder=EncoderConfig(name="resnet_small"),
        decoder=DecoderConfig(hidden_size=16, embedding_size=8, attention_size=8),
        search=SearchConfig(beam_size=2, max_length=6),
    )
    vocabulary = Vocabulary((*SPECIALS, *(f"word{n}" for n in range(40))))
    model = create_captioner(config, len(vocabulary))
    variables = init_variables(model, jax.random.key(0), image_size=32)
    variables = jax.tree.map(lambda x: 4 * x, variables)
    published.write(TrainedCaptioner(path, config, vocabulary, variables, 0), path)
    return path


def jpeg(number: int) -> bytes:
    """Return a drawn image, different for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((64, 48)).save(file, "JPEG")
    return file.getvalue()


def captions(model: LoadedModel, images: list[bytes]) -> list[str]:
    """Return the best caption of each image."""
    return [result.captions[0].text for result in model.caption(images)]
