"""From a trained run, or several together, to captions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxcap.captioning.decoding import Decode, check_search, create_decode, same_vocabulary
from jaxcap.captioning.stream import (
    Caption,
    Captioned,
    ReadImage,
    Word,
    caption_batches,
    caption_images,
)
from jaxcap.config import Config, check_heeded, load_config
from jaxcap.data import images as image_files
from jaxcap.errors import InputError
from jaxcap.model.captioner import Captioner, create_captioner, variable_shapes
from jaxcap.pretrained import packaged
from jaxcap.search import SearchResult
from jaxcap.storage.program_cache import Store, kept
from jaxcap.storage.published import is_published, read
from jaxcap.text.vocabulary import Vocabulary

__all__ = [
    "Caption",
    "Captioned",
    "Decode",
    "ImageLike",
    "LoadedModel",
    "Word",
    "caption_batches",
    "create_decode",
    "load",
]

_LEAST_ALIKE = 0.5  # two trainings of the same captioner have more, of other beginnings nearly 0

_Decodable = Path | bytes | Image.Image | np.ndarray
ImageLike = _Decodable | str
RunPath = str | os.PathLike[str]


def load(
    *runs: RunPath | Sequence[RunPath], best: bool = True, store: Store | None = None
) -> LoadedModel:
    """Opens runs for captioning; nothing but their directories is needed.

    Args:
      runs: `runs/NAME`, as training left it, or a published model. Several, as arguments or as a
        list, caption together: an ensemble, whose members may have any encoders and image sizes
        but must have one vocabulary. The search is configured as in the first. Without any: the
        model that comes with the package.
      best: the checkpoint with the best score, or the latest.
      store: where programs are kept, for the next process to begin sooner.

    Raises:
      InputError: a directory is no run, or holds no checkpoint yet; the vocabularies differ; the
        package has no model.
    """
    paths = [
        Path(path)
        for run in (runs or (packaged(),))
        for path in ([run] if isinstance(run, str | os.PathLike) else run)
    ]
    if not paths:
        raise InputError("Which run? Give its directory, or several for an ensemble.")
    first, *others = [_load_one(path, best=best, store=store) for path in paths]
    same_vocabulary({str(run.directory): run.vocabulary for run in (first, *others)})
    return replace(first, others=tuple(others))


def _load_one(directory: Path, *, best: bool, store: Store | None) -> LoadedModel:
    if is_published(directory):
        found = read(directory, store=store)
        return LoadedModel(
            directory,
            found.config,
            found.vocabulary,
            create_captioner(found.config, len(found.vocabulary)),
            found.variables,
            found.step,
            note=found.note,
            store=store,
        )
    if not directory.exists():
        raise InputError(f"{directory}: there is no such run directory. Train one with train.py.")
    missing = [
        name
        for name in ("config.json", "vocabulary.json", "checkpoints")
        if not (directory / name).exists()
    ]
    if missing:
        raise InputError(
            f"{directory}: this is no run directory, it has no {' and no '.join(missing)}. "
            "Give the --workdir of a training (runs/NAME)."
        )
    # Orbax takes a while to import, and published files need none of it.
    from jaxcap.storage.checkpoints import Checkpoints

    config = load_config(directory / "config.json")
    vocabulary = Vocabulary.load(directory / "vocabulary.json")
    model = create_captioner(config, len(vocabulary))
    like = variable_shapes(model, image_size=config.data.image_size)
    with Checkpoints(
        directory / "checkpoints", metric=config.evaluation.metric, reading_only=True
    ) as checkpoints:
        restored = checkpoints.restore_sound_variables(like, best=best)
    if restored is None:
        raise InputError(f"{directory}: no checkpoint yet; training saves one every epoch.")
    step, variables = restored
    return LoadedModel(directory, config, vocabulary, model, variables, step, store=store)


@dataclass(frozen=True)
class LoadedModel:
    """A trained captioner with all that it needs, or an ensemble of them.

    Attributes:
      directory: where it was loaded from.
      variables: `{"params": …, "batch_stats": …}`.
      step: the optimizer step that they were saved at.
      others: the other members of an ensemble; what is above is the first one's.
      note: what the publisher of a published model wants users to know.
      store: where programs are kept, for the next process to begin sooner.
    """

    directory: Path
    config: Config
    vocabulary: Vocabulary
    model: Captioner
    variables: dict[str, Any]
    step: int
    others: tuple[LoadedModel, ...] = ()
    note: str = ""
    store: Store | None = None

    @property
    def members(self) -> tuple[LoadedModel, ...]:
        """The runs that caption together: this one, if it is no ensemble."""
        return (self, *self.others)

    def with_search(self, **options: Any) -> LoadedModel:
        """The same run, decoded otherwise: any field of `SearchConfig`.

        Raises:
          InputError: a search that cannot be, or an option that it does not look at.
        """
        search = replace(self.config.search, **options)
        check_heeded(options, search)
        check_search(search, self.vocabulary)
        return replace(self, config=replace(self.config, search=search))

    def averaged(self) -> LoadedModel:
        """One captioner with the mean parameters of the members: as fast as one of them.

        "Model soups" (Wortsman et al. 2022, https://arxiv.org/abs/2203.05482), for trainings that
        went out from the same captioner: between those the mean is often better than each. The
        search is the first one's.

        Raises:
          InputError: the members have other parameters, or too different ones.
        """
        if not self.others:
            return self
        first, *others = self.members
        like = jax.tree.map(np.shape, first.variables)
        for other in others:
            if jax.tree.map(np.shape, other.variables) != like:
                raise InputError(
                    f"{other.directory} and {first.directory} have parameters of other shapes; "
                    "give trainings of the same configuration, with one train.start_from."
                )
            alike = _cosine(first.variables, other.variables)
            if alike < _LEAST_ALIKE:
                raise InputError(
                    f"{other.directory} and {first.directory} are no two trainings of one "
                    f"captioner: the cosine between their decoders' parameters is {alike:.2f}, and "
                    "their mean could not caption. Give trainings with the same "
                    "train.start_from, or let them caption as an ensemble."
                )

        def mean(*values: Any) -> np.ndarray:
            exact = np.mean([np.asarray(value, np.float64) for value in values], axis=0)
            return exact.astype(values[0].dtype)

        variables = jax.tree.map(mean, *(member.variables for member in self.members))
        names = "+".join(member.directory.resolve().name for member in self.members)
        directory = first.directory.parent / names
        return replace(first, directory=directory, variables=variables, others=())

    @cached_property
    def decode(self) -> Decode:
        """The jitted search over batches of images.

        `(variables, images uint8 [B, S, S, 3])`, in an ensemble a sequence of each, one for every
        member.
        """
        models = [member.model for member in self.members]
        decode = create_decode(
            models if self.others else self.model, self.config.search, self.vocabulary
        )
        if self.store is None:
            return decode
        configs = [member.config for member in self.members]
        return kept(
            decode,
            self.store,
            result=SearchResult,
            identity=(configs, self.vocabulary.to_json()),
        )

    def caption(
        self,
        images: Iterable[ImageLike],
        *,
        batch_size: int = 8,
        threads: int | None = None,
        attention: bool = True,
    ) -> Iterator[Captioned]:
        """Captions images in batches of one fixed shape, yielding results in order.

        Images are read and decoded in threads while the device computes; memory does not grow with
        their number. `images` may be endless: it is taken from in a thread of its own, at most
        three batches ahead.

        Args:
          images: paths, the bytes of image files, Pillow images, or arrays uint8 [H, W, 3].
          batch_size: images encoded at once.
          threads: how many decode images; as many as there are processors, if None.
          attention: tell where the model looked as it chose each word of the best caption.

        Returns:
          One `Captioned` per image. One that cannot be decoded has an `error` and no
          captions, and does not stop the others.

        Raises:
          InputError: `batch_size` or `threads` below 1, or a single image instead of several.
        """
        for name, value in (("batch_size", batch_size), ("threads", threads)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1.")
        if isinstance(images, str | bytes | Path | Image.Image):
            raise InputError(
                f"caption takes a list or an iterator of images, not a single "
                f"{type(images).__name__}: give [image]."
            )
        variables = [member.variables for member in self.members]
        return caption_images(
            images,
            self._read,
            lambda pixels: (
                self.decode(variables, pixels)
                if self.others
                else self.decode(self.variables, pixels[0])
            ),
            self.vocabulary,
            batch_size=batch_size,
            threads=threads or os.cpu_count() or 1,
            attention=attention,
        )

    def _read(self, image: Any, number: int) -> ReadImage:
        source: Any = Path(image) if isinstance(image, str | os.PathLike) else image
        name = str(source) if isinstance(source, Path) else f"image {number}"
        if not isinstance(source, _Decodable):
            error = f"{name}: a {type(image).__name__} is no image; give a path, bytes or pixels"
            return ReadImage(name, error=error)
        sizes = [member.config.data.image_size for member in self.members]
        try:
            # Files of photographs may be decoded at a fraction of their size, ten times faster;
            # at twice what a model sees, that moves its pixels by a quarter of a step of 255.
            array = image_files.decode(source, name=name, size=2 * max(sizes))
        except InputError as error:
            return ReadImage(name, error=str(error))
        of_size = {size: image_files.resize(array, size) for size in sizes}
        return ReadImage(name, tuple(of_size[size] for size in sizes))


def _cosine(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Of the angle between the decoders' parameters; encoders may share published weights."""
    x, y = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(v["params"]["decoder"])])
        for v in (a, b)
    )
    return float(x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), np.finfo(np.float32).tiny))
