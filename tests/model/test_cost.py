"""What cannot fit into memory is refused before it is built; what fits is not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from configurations import changed

from jaxcap.config import Config, validate
from jaxcap.messages.errors import InputError
from jaxcap.model import cost
from jaxcap.model.cost import check_captioning, check_training, memory_bytes


def test_the_machine_has_memory() -> None:
    found = memory_bytes()
    assert found is not None
    assert 2**28 < found < 2**50


def test_the_largest_searches_are_refused_and_usual_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost, "memory_bytes", lambda: 2**34)
    check_captioning(Config(), 10_000, batch_size=32)
    config = validate(changed(Config(), search__beam_size=1000, search__max_length=4096))
    # 64 x 1000 captions of 4096 words, with 7 x 7 weights each: 51.4 GB; the logits: 2.6 GB.
    with pytest.raises(
        InputError,
        match=r"^captioning 64 images at once .*1,000 captions of up to 4096 words each\) takes at "
        r"least 54\.0 GB of memory, but only 17\.2 GB are available\. Give a smaller batch",
    ):
        check_captioning(config, 10_000, batch_size=64)


def test_training_counts_state_pixels_and_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "memory_bytes", lambda: 2**34)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    state = {"w": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)}  # 4 MB
    check_training(Config(), state, 10_000)
    for options, gigabytes in {
        # 65,536 images of 2048 x 2048 x 3 bytes: 824.6 GB; logits of 5 captions of 2 words each
        # over 1000 words: 2.6 GB.
        (("data__image_size", 2048), ("data__length_buckets", (3,))): "827.3",
        # 15 words each: 19.7 GB; pixels of 224 x 224 x 3: 9.9 GB.
        (): "29.5",
        # No pixels, and the logits of a tenth of the images: too little to refuse.
        (("encoder__cache_features", True), ("train__accumulate", 8)): None,
        (("train__objective", "word_detection"),): None,
        (("train__objective", "word_detection"), ("data__image_size", 512)): "51.5",
        (("train__objective", "self_critical"), ("train__samples", 50)): "23.0",
    }.items():
        config = changed(Config(), train__batch_size=65_536, **dict(options))
        if gigabytes is None:
            check_training(config, state, 1000)
            continue
        with pytest.raises(
            InputError,
            match=rf"^training \(parameters and optimizer: 0\.0 GB; 65,536 images at once, .*, "
            rf"1000 words to choose from\) takes at least {gigabytes} GB of memory, but only "
            r"17\.2 GB",
        ):
            check_training(config, state, 1000)


def test_training_counts_a_copy_of_the_state_on_each_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost, "memory_bytes", lambda: 10**10)
    state = {"w": jax.ShapeDtypeStruct((10**9,), jnp.float32)}
    config = changed(Config(), train__batch_size=1)
    for devices, is_refused in {1: False, 2: False, 3: True}.items():
        monkeypatch.setattr(jax, "local_device_count", lambda n=devices: n)
        if is_refused:
            with pytest.raises(InputError, match=r"optimizer: 12\.0 GB; 1 image "):
                check_training(config, state, 1000)
        else:
            check_training(config, state, 1000)
