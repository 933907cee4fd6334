"""jaxcap: a CNN-LSTM image captioner in JAX and Flax, trained end to end.

>>> run = jaxcap.load("runs/flickr8k")
>>> for result in run.caption(["photo.jpg"]):
...     print(result.name, result.captions[0].text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcap.captioning.loaded_model import LoadedModel, load

__all__ = ["LoadedModel", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # JAX takes a second to import, and `jaxcap --help` or `jaxcap.metrics` need none of it.
    if name in __all__:
        from jaxcap.captioning import loaded_model

        return getattr(loaded_model, name)
    raise AttributeError(f"module 'jaxcap' has no attribute '{name}'")
