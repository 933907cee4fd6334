"""Estimate from below the memory that captioning and training take, and refuse what cannot fit.

A configuration may come from a stranger and ask for a thousand beams of a thousand words. The
system would end the process without a message once the memory is full. These estimates count only
arrays that must exist at the same time, so nothing that fits is refused.
"""

from __future__ import annotations

from typing import Any

import jax

from jaxcap.config import Config
from jaxcap.config.extensions import is_extension
from jaxcap.files.machine_memory import machine_bytes
from jaxcap.messages.errors import InputError, counted

_FLOAT = 4  # bytes
_STRIDE = 32  # no encoder reduces images further


def check_captioning(config: Config, vocabulary_size: int, *, batch_size: int) -> None:
    """Check that captioning a batch of images fits into memory.

    Raises:
      InputError: it cannot.
    """
    search = config.search
    captions = {"greedy": 1, "sample": search.samples}.get(search.method, search.beam_size)
    at_once = captions // (search.groups if search.method == "diverse" else 1)
    attention = search.max_length * _positions(config)
    numbers = _pixels(config) + captions * attention + at_once * vocabulary_size
    _check(
        batch_size * numbers * _FLOAT,
        f"captioning {counted(batch_size, 'image')} at once (data.image_size "
        f"{config.data.image_size}, {counted(captions, 'caption')} of up to {search.max_length} "
        "words each)",
        "Give a smaller batch, fewer beams or samples, or a lower search.max_length",
    )


def check_training(config: Config, state: Any, vocabulary_size: int) -> None:
    """Check that this process can hold the training state, a batch and its logits.

    Args:
      state: the training state, as arrays or `jax.ShapeDtypeStruct`s. Each device holds a copy.

    Raises:
      InputError: it cannot.
    """
    train, data = config.train, config.data
    images = train.batch_size // jax.process_count()
    # Samples and captions vary in length, so only their fewest words are certain.
    captions, words = {
        "self_critical": (train.samples, 1),
        "word_detection": (0, 0),
    }.get(train.objective, (data.captions_per_image, data.length_buckets[0] - 1))
    logits = images // train.accumulate * captions * words * vocabulary_size * _FLOAT
    pixels = 0 if config.encoder.cache_features else images * _pixels(config)  # uint8
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    kept *= jax.local_device_count()
    _check(
        kept + pixels + logits,
        f"training (parameters and optimizer: {kept / 1e9:,.1f} GB; "
        f"{counted(images, 'image')} at once, data.image_size {data.image_size}, "
        f"{vocabulary_size} words to choose from)",
        "Give a smaller model, another train.optimizer, a lower train.batch_size, or a higher "
        "train.accumulate",
    )


def _pixels(config: Config) -> int:
    return 3 * config.data.image_size**2


def _positions(config: Config) -> int:
    # A user's own encoder may pool its features.
    if config.decoder.name == "lstm" or is_extension(config.encoder.name):
        return 1
    return max(1, config.data.image_size // _STRIDE) ** 2


def _check(needed: int, what: str, way_out: str) -> None:
    available = memory_bytes()
    if available is not None and needed > available:
        raise InputError(
            f"{what} takes at least {needed / 1e9:,.1f} GB of memory, but only "
            f"{available / 1e9:,.1f} GB are available. {way_out}."
        )


def memory_bytes() -> int | None:
    """Return the memory of all local devices, or of the machine or container if they share it.

    None if the system does not report it.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if limits := [each["bytes_limit"] for each in stats if "bytes_limit" in each]:
        return sum(limits)
    return machine_bytes()
