"""Which images are captioned together, by a model that takes no time."""

from __future__ import annotations

import io
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from jaxcap.captioning.image_reading import ReadImage
from jaxcap.captioning.loaded_model import LoadedModel
from jaxcap.captioning.results import Caption, Captioned
from jaxcap.serving.batching import Batcher, batch_size
from jaxcap.serving.searches import Program, Search


class Fake(LoadedModel):
    """Captions an image with its own bytes, once `gate` is open, and remembers the batches."""

    def __init__(self) -> None:
        super().__init__(())
        vars(self).update(gate=threading.Event(), batches=[], started=threading.Event())

    def read(self, image: Any, number: int = 0, **options: Any) -> ReadImage:
        return ReadImage(image.decode())

    def caption_batch(
        self, images: Sequence[ReadImage], *, batch_size: int, attention: bool = True
    ) -> list[Captioned]:
        vars(self)["started"].set()
        vars(self)["gate"].wait()
        vars(self)["batches"].append(([image.name for image in images], batch_size, attention))
        captions = (Caption("first", 0.0), Caption("second", -1.0))
        return [Captioned(image.name, captions) for image in images]


def program(*sizes: int) -> tuple[Program, Any]:
    model = Fake()
    return Program(model, sizes), vars(model)


@pytest.mark.parametrize(
    ("waiting", "sizes", "expected"),
    [
        (1, (1, 2, 4, 8), 1),
        (3, (1, 2, 4, 8), 4),
        (5, (1, 2, 4, 8), 8),
        (9, (1, 2, 4, 8), 8),
        (8, (1, 16), 1),  # half of it would be padding
        (9, (1, 16), 16),
        (2, (4,), 4),
    ],
)
def test_at_most_half_of_a_batch_is_padding(
    waiting: int, sizes: tuple[int, ...], expected: int
) -> None:
    assert batch_size(waiting, sizes) == expected


def test_what_waits_together_is_captioned_together_by_program() -> None:
    (one, model), (other, others) = program(1, 4), program(1, 4)
    batcher = Batcher(window=0.0, threads=1, max_pixels=None)
    futures = [batcher.submit(b"0", 1, Search(one, None, attention=False))]
    model["started"].wait()
    for name, search in (
        (b"1", Search(one, 1, attention=False)),
        (b"2", Search(other, None, attention=False)),
        (b"3", Search(one, None, attention=True)),
        (b"4", Search(one, None, attention=False)),
    ):
        futures.append(batcher.submit(name, 1, search))
    cancelled = batcher.submit(b"5", 1, Search(one, None, attention=False))
    assert cancelled.cancel()
    model["gate"].set()
    others["gate"].set()
    batcher.close()
    assert [future.result().name for future in futures] == ["0", "1", "2", "3", "4"]
    assert model["batches"] == [(["0"], 1, False), (["1", "3", "4"], 4, True)]
    assert others["batches"] == [(["2"], 1, False)]
    assert [len(future.result().captions) for future in futures] == [2, 1, 2, 2, 2]


def test_requests_that_have_left_keep_no_memory() -> None:
    one, model = program(1)
    reading, gate = threading.Event(), threading.Event()

    def read(image: Any, number: int, **options: Any) -> ReadImage:
        reading.set()
        gate.wait()
        return ReadImage("0")

    model.update(read=read)
    model["gate"].set()
    batcher = Batcher(window=0.0, threads=1, max_pixels=None)
    first = batcher.submit(b"0", 1, Search(one, None, attention=False))
    reading.wait()
    image = io.BytesIO(b"1")
    alive = weakref.ref(image)
    left = batcher.submit(image, 1, Search(one, None, attention=False))
    del image
    assert alive() is not None
    assert left.cancel()
    assert alive() is None
    gate.set()
    batcher.close()
    assert first.result().name == "0"


def test_a_program_that_waits_longer_comes_first() -> None:
    (busy, model), (other, others) = program(1), program(1)
    batcher = Batcher(window=0.0, threads=1, max_pixels=None)
    others["gate"].set()
    futures = [batcher.submit(b"0", 1, Search(busy, None, attention=False))]
    model["started"].wait()
    futures += [batcher.submit(b"%d" % n, 1, Search(busy, None, attention=False)) for n in (1, 2)]
    late = batcher.submit(b"late", 1, Search(other, None, attention=False))
    order: list[str] = []
    for future in [*futures, late]:
        future.add_done_callback(lambda done: order.append(done.result().name))
    model["gate"].set()
    batcher.close()
    assert order == ["0", "1", "late", "2"]
