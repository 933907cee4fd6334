"""What a frozen encoder makes of a split, computed once instead of once per epoch.

The features of `data.feature_cache` are used again only for what they were computed for: the very
parameters and batch statistics, the very program that XLA is given (architecture, normalisation of
pixels, type of computation), the very image files, and pixels that come out of them the same.
Whatever of it changes, the key changes, and the old features are left alone.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Console

from jaxcap.config import Config
from jaxcap.data.feature_cache import FeatureCache, default_cache_dir, size_text
from jaxcap.data.pipeline import Source, evaluation_batches, load_image
from jaxcap.model.captioner import Captioner
from jaxcap.progress import Display, print_line

CHUNK = 32
"""Images that are encoded, written and checked together."""

_LOOKED_AT = 4
"""Images whose pixels are part of the key, for the sake of what decodes and resizes them."""


def cached_features(
    source: Source,
    split: str,
    *,
    model: Captioner,
    variables: dict[str, Any],
    config: Config,
    console: Console,
) -> Float[np.ndarray, "images P D"]:
    """The features of every image of `source`, in its order, by memory map.

    Those that are not on disk yet are computed first. Training gets the same losses from them
    as from pixels, but for rounding: XLA adds up in another order when it compiles the encoder
    by itself.

    Args:
      source: records; augmentation is not looked at.
      split: its name, for messages and file names.
      variables: the whole model's `{"params": …, "batch_stats": …}`.

    Raises:
      InputError: an image that cannot be decoded, or no room or no permission in the cache.
    """
    encoder = {name: {"encoder": t["encoder"]} for name, t in variables.items() if "encoder" in t}
    encode = jax.jit(functools.partial(model.apply, method="encode"))
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
    other = "Another process computes these features; waiting for it"
    with cache.locked(lambda: print_line(console, other)):
        missing = cache.missing()
        done = len(source) - sum(len(cache.numbers(chunk)) for chunk in missing)
        size = size_text(len(source) * cache.image_bytes)
        print_line(
            console,
            f"Features of {len(source)} {split} images, {size} in {cache.directory}"
            + (f"; {done} images are done" if missing else ""),
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
                    features = np.asarray(encode(encoder, batch.pixels))
                    cache.write(chunk, features[batch.valid])
                    done += int(batch.valid.sum())
                    display.update(done)
    return cache.read()


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
    """The cache that belongs to these weights, this program and these images."""
    side = config.data.image_size
    lowered = encode.lower(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), encoder),
        jax.ShapeDtypeStruct((1, side, side, 3), np.uint8),
    )
    looked_at = np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).astype(int))
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
            [load_image(source[int(i)], config=config.data, rng=None) for i in looked_at]
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
