"""Load trained captioners and caption images with them."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import jax
import numpy as np

from jaxcap.captioning.calibration import Calibration, from_arrays
from jaxcap.captioning.decoding import Decode, Decoded, check_search, create_decode, same_vocabulary
from jaxcap.captioning.image_reading import ImageLike, ReadImage, is_image, read_image
from jaxcap.captioning.results import Captioned, Results
from jaxcap.captioning.stream import caption_images, caption_read, padded
from jaxcap.config import Config, SearchConfig, check_heeded
from jaxcap.config.extensions import source_digests
from jaxcap.config.local_paths import local_path
from jaxcap.data.image_paths import images_below
from jaxcap.devices.promotion import standard_promotion
from jaxcap.files import hub
from jaxcap.files.json_data import from_dict
from jaxcap.messages.errors import InputError, known_arguments
from jaxcap.model.captioner import Captioner
from jaxcap.model.cost import check_captioning
from jaxcap.storage import published, runs
from jaxcap.storage.packaged import model_name, packaged
from jaxcap.storage.program_cache import Store, default_store, keep_compiled_programs, kept
from jaxcap.storage.trained import TrainedCaptioner
from jaxcap.text.vocabulary import Vocabulary

_MIN_COSINE = 0.5
"""Trainings from the same captioner have a higher cosine; independent ones are near 0."""

_SEARCH_OPTIONS = known_arguments(
    *SearchConfig.__dataclass_fields__,
    hint=" Options of search: model.with_search(beam_size=3).caption(…)",
)

ModelPath = str | os.PathLike[str]


@known_arguments(hint=" The models come first, without a name: load('runs/NAME')")
@standard_promotion()
def load(
    *models: ModelPath | Sequence[ModelPath], best: bool = True, cache: bool = True
) -> LoadedModel:
    """Load a trained captioner, or several as an ensemble.

    Args:
      models: run directories (`runs/NAME`), published files, or `hf:OWNER/NAME[@REVISION]` on the
        Hugging Face Hub, as arguments or as a list. Members of an ensemble may have any encoders
        and image sizes but must have the same vocabulary; the first one's search options
        apply. Without arguments: the packaged model.
      best: load the checkpoint with the best score, or else the latest.
      cache: keep compiled programs in `$XDG_CACHE_HOME/jaxcap`, else `~/.cache/jaxcap`, so that the
        next process starts sooner. This also sets JAX's compilation cache, unless you have set it.

    Raises:
      InputError: a path is not a run or published file, a run has no intact checkpoint or
        does not match it, weights are not finite, the vocabularies differ, or the packaged model is
        not installed.
    """
    paths = [
        hub.fetch(path) if hub.is_reference(path) else local_path(path)
        for model in (models or (packaged(),))
        for path in ([model] if isinstance(model, str | os.PathLike) else model)
    ]
    if not paths:
        raise InputError("No model given. Pass a run directory, or several for an ensemble.")
    if cache:
        keep_compiled_programs()
    store = default_store() if cache else None
    members = tuple(_load_member(path, best=best, store=store) for path in paths)
    same_vocabulary({str(member.directory): member.vocabulary for member in members})
    return LoadedModel(members, store)


def _load_member(path: Path, *, best: bool, store: Store | None) -> TrainedCaptioner:
    if path.suffix == ".stablehlo":
        raise InputError(
            f"{path}: an exported program, which only jax.export.deserialize reads; the .json file "
            "beside it describes its inputs and outputs. Give the run or the .safetensors file "
            "that it was exported from."
        )
    if published.is_published(path):
        return published.read(path, store=store)
    return runs.read(path, best=best)


@dataclass(frozen=True, eq=False, repr=False)
class LoadedModel:
    """One trained captioner, or several that caption together as an ensemble.

    Attributes:
      members: the captioners, all with the same vocabulary. The properties `directory`, `config`,
        `vocabulary`, `model`, `variables`, `step` and `note` are those of the first.
      store: a cache of compiled programs, so that the next process starts sooner.
    """

    members: tuple[TrainedCaptioner, ...]
    store: Store | None = None

    def __repr__(self) -> str:
        names = ", ".join(model_name(member.directory) for member in self.members)
        return f"<LoadedModel {names}: {self.config.encoder.name}, {self.config.decoder.name}>"

    @property
    def directory(self) -> Path:
        """The run directory or published file."""
        return self.members[0].directory

    @property
    def config(self) -> Config:
        """The training configuration; `config.search` is how this model captions."""
        return self.members[0].config

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, the same for all members."""
        return self.members[0].vocabulary

    @property
    def model(self) -> Captioner:
        """The Linen module that `variables` belong to."""
        return self.members[0].model

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params": …, "batch_stats": …}`."""
        return self.members[0].variables

    @property
    def step(self) -> int:
        """The optimizer step at which `variables` were saved."""
        return self.members[0].step

    @property
    def note(self) -> str:
        """The publisher's note to users."""
        return self.members[0].note

    @property
    def single(self) -> TrainedCaptioner:
        """The only member.

        Raises:
          InputError: the model is an ensemble.
        """
        if len(self.members) > 1:
            raise InputError(
                f"An ensemble of {len(self.members)} cannot be exported or evaluated as one model. "
                "Use its members individually, or the mean of their parameters (--average-with)."
            )
        return self.members[0]

    def with_search(self, **options: Any) -> LoadedModel:
        """Return the same model with other search options, any fields of `SearchConfig`.

        Raises:
          InputError: an option is unknown or invalid, or has no effect with this search method.
        """
        first, *others = self.members
        given = {**vars(first.config.search), **options}
        search = from_dict(SearchConfig, given, where="search")
        check_heeded(options, search)
        recognises = any(member.config.recognition.words for member in self.members)
        check_search(search, first.vocabulary, recognises=recognises)
        changed = replace(first, config=replace(first.config, search=search))
        return replace(self, members=(changed, *others))

    def averaged(self) -> LoadedModel:
        """Return one captioner with the mean parameters of the members.

        It is as fast as one member. "Model soups" (Wortsman et al. 2022,
        https://arxiv.org/abs/2203.05482): the mean of runs that started from the same
        captioner is often better than each of them. The first one's search options apply.

        Raises:
          InputError: the members' parameters differ in shape or do not share a starting point.
        """
        if len(self.members) == 1:
            return self
        first, *others = self.members
        like = jax.tree.map(np.shape, first.variables)
        for other in others:
            if jax.tree.map(np.shape, other.variables) != like:
                raise InputError(
                    f"{other.directory} and {first.directory} have parameters of different "
                    "shapes. Give runs with the same configuration and train.start_from."
                )
            cosine = _decoder_cosine(first.variables, other.variables)
            if cosine < _MIN_COSINE:
                raise InputError(
                    f"{other.directory} and {first.directory} did not start from the same "
                    f"captioner: the cosine between their decoders' parameters is {cosine:.2f}, "
                    f"expected at least {_MIN_COSINE}. Give runs with the same "
                    "train.start_from, or use them as an ensemble."
                )

        def mean(*values: Any) -> np.ndarray:
            exact = np.mean([np.asarray(value, np.float64) for value in values], axis=0)
            return exact.astype(values[0].dtype)

        variables = jax.tree.map(mean, *(member.variables for member in self.members))
        names = "+".join(member.directory.resolve().name for member in self.members)
        directory = first.directory.parent / names
        average = replace(first, directory=directory, variables=variables, calibration={})
        return replace(self, members=(average,))

    @cached_property
    def calibration(self) -> Calibration | None:
        """How the model judges its captions.

        None for an ensemble, and for a model that was exported without --calibrate.
        """
        first, *others = self.members
        if others or not first.calibration:
            return None
        return from_arrays(first.calibration, where=str(first.directory))

    @cached_property
    def decode(self) -> Decode:
        """The jitted search over batches of images; see `decoding.Decode`."""
        models = [member.model for member in self.members]
        decode = create_decode(models, self.config.search, self.vocabulary)
        if self.store is None:
            return decode
        configs = [member.config for member in self.members]
        return kept(
            decode,
            self.store,
            result=Decoded.from_leaves,
            identity=(
                configs,
                self.vocabulary.to_json(),
                [source_digests(config) for config in configs],
            ),
        )

    @_SEARCH_OPTIONS
    def caption(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int = 8,
        threads: int | None = None,
        attention: bool = True,
    ) -> Results:
        """Caption images and yield the results in order.

        Images are decoded in threads while the device computes, and memory does not grow with
        their number. `images` may be endless: a thread consumes it, at most three batches ahead.

        Args:
          images: paths, the bytes of image files, open files, Pillow images, or arrays uint8
            `[H, W, 3]`; or one of these, or a folder, whose images are found as by the command.
          batch_size: images per batch. The last batch is padded; fewer images than one batch
            take a smaller one, so that a single photograph is quick.
          threads: how many threads decode images; by default one per processor.
          attention: whether to return the attention of the best caption of each image.

        Returns:
          An iterator over one `Captioned` per image. An image that cannot be read or captioned has
          an `error` and no captions, and does not stop the others.

        Raises:
          InputError: `images` is neither an image nor iterable, or a folder without images,
            `batch_size` or `threads` is below 1, or a batch does not fit into memory.
        """
        for name, value in (("batch_size", batch_size), ("threads", threads)):
            if value is not None and not value >= 1:  # NaN is neither
                raise InputError(f"{name} is {value}; it must be at least 1.")
        several: Any = [images] if is_image(images) else images
        if _is_folder(images):
            several = _images_in(images)
        if not isinstance(several, Iterable):
            raise InputError(
                f"caption takes an image, or several in a list or another iterable, not {images!r}."
            )
        size = min(batch_size, len(several)) if isinstance(several, Sequence) else batch_size
        for member in self.members:
            config = replace(member.config, search=self.config.search)
            check_captioning(config, len(self.vocabulary), batch_size=max(1, size))
        results = caption_images(
            several,
            self.decode,
            [member.variables for member in self.members],
            self.vocabulary,
            sizes=self._sizes,
            batch_size=batch_size,
            threads=threads or os.cpu_count() or 1,
            attention=attention,
            guide=self.config.search.guide,
        )
        if self.calibration is not None:
            results = map(self.calibration.apply, results)
        return Results(results)

    @property
    def _sizes(self) -> list[int]:
        return [member.config.data.image_size for member in self.members]

    def read(
        self, image: ImageLike, number: int = 0, *, max_pixels: int | None = None
    ) -> ReadImage:
        """Decode an image for `caption_batch`, in any thread.

        Args:
          number: names an image that has no path.
          max_pixels: refuse larger images.

        Returns:
          The image, or the reason why it cannot be read.
        """
        return read_image(image, number, sizes=self._sizes, max_pixels=max_pixels)

    def caption_batch(
        self, images: Sequence[ReadImage], *, batch_size: int, attention: bool = True
    ) -> list[Captioned]:
        """Caption images that `read` returned, as one batch and without threads.

        Args:
          images: at most `batch_size` images.
          batch_size: the number of rows, by padding. Each size is compiled when it is first used.
          attention: whether to return the attention of the best caption of each image.
        """
        results = caption_read(
            [padded(images, batch_size)],
            self.decode,
            [member.variables for member in self.members],
            self.vocabulary,
            attention=attention,
            guide=self.config.search.guide,
        )
        return list(results if self.calibration is None else map(self.calibration.apply, results))

    def warm_up(self, batch_sizes: Iterable[int] = (1,)) -> None:
        """Compile the programs for batches of these sizes, so that the first caption is quick.

        `caption` uses batches of its `batch_size`, and of 1 or 8 if there are fewer images.

        Raises:
          InputError: a batch size is below 1.
        """
        for size in batch_sizes:
            images = [np.zeros((1, 1, 3), np.uint8)] * size
            for _ in self.caption(images, batch_size=size):
                pass


@functools.lru_cache(maxsize=1)
def _packaged_model() -> LoadedModel:
    return load()


@_SEARCH_OPTIONS
def caption(image: ImageLike) -> str:
    """Caption one image with the packaged model, which stays loaded for the next call.

    Raises:
      InputError: the image cannot be read, or there are several.
    """
    if not is_image(image) or _is_folder(image):
        raise InputError(
            "jaxcap.caption takes one image. For several: jaxcap.load().caption(images)"
        )
    (result,) = _packaged_model().caption(image, attention=False)
    if result.error is not None:
        raise InputError(result.error)
    return result.captions[0].text


def _is_folder(images: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(images, str | os.PathLike) and os.path.isdir(os.path.expanduser(images))


def _images_in(folder: str | os.PathLike[str]) -> list[Path]:
    def refuse(reason: str) -> None:
        raise InputError(reason)

    found = images_below(Path(folder).expanduser(), unreadable=refuse)
    if not found:
        raise InputError(f"{os.fspath(folder)}: no images in this folder.")
    return found


def _decoder_cosine(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Return the cosine between the decoders' parameters; encoders may share pretrained weights."""
    x, y = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(v["params"]["decoder"])])
        for v in (a, b)
    )
    return float(x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), np.finfo(np.float32).tiny))
