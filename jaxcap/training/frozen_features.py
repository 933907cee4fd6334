"""Cache the features of a frozen encoder: compute them once instead of once per epoch.

The key of a cache covers everything that features depend on: parameters and batch statistics, the
program that XLA compiles (architecture, normalisation of pixels, dtype), the image files, and
sample pixels decoded from them. If any of it changes, so does the key, and other features are
computed beside the old ones.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from rich.console import Console
from rich.filesize import decimal

from jaxcap.config import Config
from jaxcap.data.feature_cache import (
    EncodedImages,
    FeatureCache,
    default_cache_dir,
    rows_of_words,
)
from jaxcap.data.pipeline import Source, evaluation_batches, load_image
from jaxcap.messages.errors import counted
from jaxcap.messages.progress import Display, print_line
from jaxcap.model.captioner import Captioner

CHUNK = 32
"""The number of images encoded, written and checked together."""

_DECODED = 4
"""The number of images whose pixels enter the key, to cover decoding and resizing."""


def cached_features(
    source: Source,
    split: str,
    *,
    model: Captioner,
    variables: dict[str, Any],
    config: Config,
    console: Console,
) -> EncodedImages:
    """Return the features and recognised words of all images, in order, from a memory map.

    Missing features are computed first. Losses equal those from pixels up to rounding: XLA sums in
    another order when it compiles the encoder alone.

    Args:
      source: the records, without augmentation.
      split: the name of the split, for messages and file names.
      variables: the `{"params": …, "batch_stats": …}` of the whole model.

    Raises:
      InputError: an image cannot be decoded, or the cache is full or not writable.
    """
    encoder = {
        name: {part: tree[part] for part in ("encoder", "recogniser") if part in tree}
        for name, tree in variables.items()
        if "encoder" in tree
    }
    encode = _compiled(model)
    root = config.encoder.cache_dir
    cache = find_cache(
        default_cache_dir() if root is None else Path(root).expanduser(),
        source,
        split,
        model=model,
        encoder=encoder,
        encode=encode,
        config=config,
    )
    other = "Another process is computing these features; waiting for it"
    with cache.locked(lambda: print_line(console, other)):
        missing = cache.missing()
        done = len(source) - sum(len(cache.numbers(chunk)) for chunk in missing)
        size = decimal(len(source) * cache.image_bytes)
        print_line(
            console,
            f"Features of {counted(len(source), f'{split} image')}, {size} in {cache.directory}"
            + (f"; {counted(done, 'image')} done" if missing else ""),
        )
        if missing:
            cache.check_room(missing)
            batches = evaluation_batches(
                source,
                config=config.data,
                batch_size=cache.chunk,
                numbers=np.concatenate([cache.numbers(chunk) for chunk in missing]),
            )
            with Display(console, f"encoding {split}", total=len(source), done=done) as display:
                for chunk, batch in zip(missing, batches, strict=True):
                    count = len(cache.numbers(chunk))  # the rest pads the batch
                    cache.write(chunk, np.asarray(encode(encoder, batch.pixels))[:count])
                    done += count
                    display.update(done)
    return EncodedImages(cache.read(), config.recognition.words)


@functools.lru_cache(maxsize=1)
def _compiled(model: Captioner) -> Any:
    """Return `_encode` for a model, which is compiled once for all data sets."""
    return jax.jit(functools.partial(_encode, model))


def _encode(
    model: Captioner, variables: dict[str, Any], images: UInt8[Array, "B S S 3"]
) -> Float[Array, "B P D"]:
    """Return the rows of `EncodedImages`."""
    encoded: Any = model.apply(variables, images, method="encode_and_recognise")
    features, words = encoded
    if words is None:
        return features
    flat = jnp.concatenate([words.ids.astype(jnp.float32), words.probabilities], axis=1)
    batch, width = features.shape[0], features.shape[2]
    rows = rows_of_words(words.ids.shape[1], width)
    flat = jnp.pad(flat, ((0, 0), (0, rows * width - flat.shape[1])))
    return jnp.concatenate([features, flat.reshape(batch, rows, width)], axis=1)


def find_cache(
    root: Path,
    source: Source,
    split: str,
    *,
    model: Captioner,
    encoder: dict[str, Any],
    encode: Any,
    config: Config,
) -> FeatureCache:
    """Return the cache for these weights, this program and these images."""
    side = config.data.image_size
    lowered = encode.lower(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), encoder),
        jax.ShapeDtypeStruct((1, side, side, 3), np.uint8),
    )
    decoded = np.unique(np.linspace(0, len(source) - 1, _DECODED).astype(int))
    identity = {
        "encoder": config.encoder.name,
        "weights": _digest_of_arrays(encoder),
        "computed in": config.encoder.dtype,
        "computed by": jax.default_backend(),
        "program": hashlib.sha256(lowered.as_text().encode()).hexdigest(),
        "image size": side,
        "preprocessing": dataclasses.asdict(model.preprocessing),
        "records": f"{len(source)} of {source!r}",
        "image files": _digest_of_files(source),
        "pixels": _digest_of_arrays(
            [load_image(source[int(i)], config=config.data, rng=None) for i in decoded]
        ),
    }
    label = f"{config.data.name}-{split}-{config.encoder.name}"
    shape = (len(source), *lowered.out_info.shape[1:])
    return FeatureCache.under(root, label, identity, shape=shape, chunk=CHUNK)


def _digest_of_arrays(tree: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _digest_of_files(source: Source) -> str:
    digest = hashlib.sha256()
    for number in range(len(source)):
        image = source[number]["image"]
        digest.update(f"{len(image)}\n".encode())
        digest.update(image)
    return digest.hexdigest()
