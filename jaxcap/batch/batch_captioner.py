"""A captioner that engines for bulk data can send to their workers."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxcap.captioning.loaded_model import LoadedModel, ModelPath, load
from jaxcap.messages.errors import InputError

Columns = dict[str, np.ndarray]
"""Arrays of one length, by name."""

_Arguments = tuple[ModelPath | tuple[ModelPath, ...], ...]

_ADDED = ("caption", "log_prob", "confidence", "error")


class Captioner:
    """Caption the images in a column, and add the captions as further columns.

    It pickles. A model given by its path is loaded once by each process that captions.

    >>> captioner = jaxcap.batch.Captioner("runs/flickr8k", beam_size=5)
    >>> captioner({"image": [jpeg, "photo.jpg"]})["caption"]
    """

    def __init__(
        self,
        model: ModelPath | Sequence[ModelPath] | LoadedModel | None = None,
        *,
        image: str = "image",
        batch_size: int = 32,
        **search: Any,
    ):
        """Args:
        model: as `jaxcap.load` takes it, or its result. None: the model in the package.
        image: the name of the column with the images: paths or the bytes of image files.
        batch_size: images captioned at once, whatever the size of the batches.
        search: options of the search, any fields of `SearchConfig`.
        """
        # A copy, because compiled programs, which a model keeps once it has captioned, do not
        # pickle.
        self._model = replace(model) if isinstance(model, LoadedModel) else _arguments(model)
        self._image, self._batch_size = image, batch_size
        self._search = tuple((name, _hashable(value)) for name, value in search.items())

    def __call__(self, batch: Mapping[str, Any]) -> Columns:
        """Caption a batch.

        Args:
          batch: columns of one length `[B]`, arrays or lists, among them the images.

        Returns:
          The columns of `batch`, but for the bytes of images, with `caption` and `error` (strings
          or None), and `log_prob` and `confidence` (float64; NaN for an image with an error).

        Raises:
          InputError: there is no column of images, or one that would be replaced, the model cannot
            be loaded, or a search option is invalid. An image that cannot be read has an `error`
            instead.
        """
        if self._image not in batch:
            raise InputError(
                f"the batch has no column {self._image!r} of images; found "
                f"{', '.join(batch) or 'none'}. Name it: Captioner(image=…)"
            )
        if twice := [name for name in batch if name in _ADDED and name != self._image]:
            raise InputError(
                f"the batch has a column {twice[0]!r} already, which captioning would replace; "
                "rename or drop it."
            )
        images = list(batch[self._image])
        model = _loaded(self._model, self._search)
        results = list(model.caption(images, batch_size=self._batch_size, attention=False))
        best = [result.captions[0] if result.captions else None for result in results]
        are_paths = all(isinstance(image, str | os.PathLike) for image in images)
        kept = {
            name: values if isinstance(values, np.ndarray) else _objects(values)
            for name, values in batch.items()
            if name != self._image or are_paths
        }
        return kept | {
            "caption": _objects(each and each.text for each in best),
            "log_prob": np.array([each and each.log_prob for each in best], float),
            "confidence": np.array([each and each.confidence for each in best], float),
            "error": _objects(result.error for result in results),
        }


def _arguments(model: ModelPath | Sequence[ModelPath] | None) -> _Arguments:
    """Return the arguments of `load`, hashable: it refuses an empty list."""
    if model is None:
        return ()
    return (model if isinstance(model, str | os.PathLike) else tuple(model),)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@functools.lru_cache(maxsize=1)
def _loaded(model: _Arguments | LoadedModel, search: tuple[tuple[str, Any], ...]) -> LoadedModel:
    """Return the model; the engines' workers call this for every batch."""
    loaded = model if isinstance(model, LoadedModel) else load(*model)
    return loaded.with_search(**dict(search))


def _objects(values: Iterable[Any]) -> np.ndarray:
    """Return an array of objects; `np.array` would cut bytes at their last NULs."""
    listed = list(values)
    column = np.empty(len(listed), object)
    column[:] = listed
    return column
