"""What cannot fit into memory is refused before it is built; what fits is not."""

from __future__ import annotations

import pytest
from configurations import changed

from jaxcap.config import Config, validate
from jaxcap.errors import InputError
from jaxcap.model import cost
from jaxcap.model.cost import check_captioning, memory_bytes


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
        match=r"^captioning 64 images at once .*1000 captions of up to 4096 words each\) takes at "
        r"least 54\.0 GB of memory, but only 17\.2 GB are there\. Give a smaller batch",
    ):
        check_captioning(config, 10_000, batch_size=64)
