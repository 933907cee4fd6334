"""jaxcap: a CNN-LSTM image captioner in JAX and Flax, trained end to end.

>>> jaxcap.caption("photo.jpg")
>>> model = jaxcap.load("runs/flickr8k")
>>> for result in model.caption(["photo.jpg"]):
...     print(result.name, result.captions[0].text)

Everything else is in a subpackage, which loads on first use: read `jaxcap.model`,
`jaxcap.training.step` and `jaxcap.search` first.

Signatures give shapes in the notation of jaxtyping: `Float[Array, "B N V"]` is an array of floats
with the axes B, N and V. `*T` stands for any number of axes, and `""` for a scalar.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jaxcap.messages.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from jaxcap import (
        batch,
        caption_files,
        captioning,
        config,
        data,
        datasets,
        devices,
        evaluation,
        metrics,
        model,
        report,
        scoring,
        search,
        storage,
        text,
        training,
    )
    from jaxcap.captioning.loaded_model import LoadedModel, caption, load
    from jaxcap.captioning.results import Caption, Captioned

__version__ = "0.1.0"

_LOCATIONS = {
    "Caption": "jaxcap.captioning.results",
    "Captioned": "jaxcap.captioning.results",
    "LoadedModel": "jaxcap.captioning.loaded_model",
    "caption": "jaxcap.captioning.loaded_model",
    "load": "jaxcap.captioning.loaded_model",
}
"""The modules of functions and classes, imported on first use: JAX takes a second to import."""

__all__ = [
    "Caption",
    "Captioned",
    "InputError",
    "LoadedModel",
    "batch",
    "caption",
    "caption_files",
    "captioning",
    "config",
    "data",
    "datasets",
    "devices",
    "evaluation",
    "load",
    "metrics",
    "model",
    "report",
    "scoring",
    "search",
    "storage",
    "text",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _LOCATIONS:
        return getattr(importlib.import_module(_LOCATIONS[name]), name)
    if name in __all__:
        return importlib.import_module(f"jaxcap.{name}")
    raise AttributeError(f"module 'jaxcap' has no attribute '{name}'.{did_you_mean(name, __all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "__doc__", "__file__", "__name__", "__path__"])
