"""Measure how time and memory grow with the work, and fit their exponents.

    python benchmarks/growth.py
    python benchmarks/growth.py --short

A row makes one number larger and keeps the others. Time is that of the processor, the least of
`--turns`; memory is the peak of the arrays that are allocated meanwhile, by `tracemalloc` or by
XLA's own account. The exponent is the slope of a line through log(time) and log(size), over the
larger half of the sizes, since small ones measure constant costs. 1 is linear. Where work is linear
in a number, an exponent above 1.05 is a fault.
"""

from __future__ import annotations

import functools
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxcap.config import DataConfig, DecoderConfig
from jaxcap.data.captions import Captions, SplitCaptions, split_captions
from jaxcap.data.pipeline import epoch_order
from jaxcap.metrics import evaluate_captions
from jaxcap.model.decoders import create_decoder
from jaxcap.search import beam_search, length_between
from jaxcap.text.vocabulary import Vocabulary


class Work(NamedTuple):
    """Something to measure.

    Attributes:
      run: does it once.
      bytes: the memory that it takes; None to trace it.
    """

    run: Callable[[], Any]
    bytes: int | None = None


def _texts(images: int, captions: int = 5) -> list[list[str]]:
    """Captions of 6 to 14 words; frequent words are few, as in any language."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 15, images * captions)
    words = iter((rng.zipf(1.3, lengths.sum()) % 20_000).tolist())
    lines = [" ".join(f"w{next(words)}" for _ in range(length)) for length in lengths]
    return [lines[i : i + captions] for i in range(0, len(lines), captions)]


def _split(images: int, captions: int = 5) -> Work:
    texts = _texts(images, captions)
    return Work(lambda: split_captions(texts))


@functools.cache
def _vocabulary() -> Vocabulary:
    return Vocabulary.from_counts({f"w{i}": 9 for i in range(10_000)}, min_count=1)


def _packed(images: int) -> SplitCaptions:
    """The captions of 1,000 images, over and over."""
    few = split_captions(_texts(min(images, 1000)))
    rows, copies = few.rows, -(-images // 1000)
    lengths = np.tile(rows.lengths, copies)
    counts = np.tile(np.diff(rows.images), copies)
    bounds = [np.concatenate([[0], np.cumsum(each)]) for each in (lengths, counts)]
    return SplitCaptions(few.units, type(rows)(np.tile(rows.values, copies), *bounds))


def _encode(images: int) -> Work:
    texts, vocabulary, config = _packed(images), _vocabulary(), DataConfig()
    return Work(lambda: Captions.encode(texts, vocabulary, config=config).longest)


def _order(images: int) -> Work:
    longest = np.random.default_rng(0).integers(8, 16, images)
    return Work(lambda: epoch_order(longest, batch_size=32, seed=0, epoch=0))


def _score(images: int) -> Work:
    references = dict(enumerate(_texts(images)))
    candidates = {image: texts[0] for image, texts in references.items()}
    return Work(lambda: evaluate_captions(candidates, references))


def _search(vocabulary: int = 2000, beam: int = 5, length: int = 12, images: int = 16) -> Work:
    config = DecoderConfig(hidden_size=128, embedding_size=128, attention_size=128)
    decoder = create_decoder(config, vocabulary)
    features = jax.random.normal(jax.random.key(0), (images, 16, 128))
    tokens = jnp.zeros((images, 1, 2), jnp.int32)
    init = jax.jit(lambda key: decoder.init(key, features, tokens, train=False))
    variables = init(jax.random.key(1))

    @jax.jit
    def search(variables: Any, features: Any) -> Any:
        carry, context = decoder.apply(variables, features, train=False, method="start")
        return beam_search(
            lambda carry, tokens: decoder.apply(variables, carry, tokens, context, method="step"),
            carry,
            beam_size=beam,
            max_length=length + 1,
            processors=[length_between(length, length)],
        )

    program = search.lower(variables, features).compile()
    memory = program.memory_analysis()
    return Work(
        lambda: jax.block_until_ready(program(variables, features)),
        memory.temp_size_in_bytes + memory.output_size_in_bytes,
    )


class Row(NamedTuple):
    """A row: what is done, for which numbers of what. `--short` takes the first `short` sizes."""

    what: str
    of: str
    sizes: tuple[int, ...]
    make: Callable[[int], Work]
    short: int


ROWS = (
    Row("split captions", "images", (100, 300, 1000, 10_000, 100_000), _split, 3),
    Row("split captions", "captions", (1, 3, 10, 30), lambda n: _split(100, n), 3),
    Row("encode captions", "images", (1000, 10_000, 100_000, 1_000_000), _encode, 3),
    Row("order an epoch", "images", (1000, 10_000, 100_000, 1_000_000), _order, 3),
    Row("score", "images", (300, 1000, 3000, 10_000, 30_000), _score, 3),
    Row("search", "images", (8, 16, 32, 64, 128), lambda n: _search(images=n), 3),
    Row("search", "vocabulary", (1000, 10_000, 30_000, 100_000), lambda n: _search(n), 3),
    Row("search", "beam", (2, 4, 8, 16, 32), lambda n: _search(beam=n), 3),
    Row("search", "length", (8, 16, 32, 64), lambda n: _search(length=n), 3),
)


def exponent(sizes: list[int], values: list[float]) -> float:
    """Return the slope of log(values) over log(sizes), by least squares over the larger half."""
    half = min(len(sizes) // 2, len(sizes) - 2)
    x, y = np.log(sizes[half:]), np.log(np.maximum(values[half:], 1e-9))
    return float(np.polyfit(x, y, 1)[0])


def measure(work: Work, turns: int) -> tuple[float, float]:
    """Return seconds of the processor, and megabytes."""
    work.run()
    seconds = []
    for _ in range(turns):
        began = time.process_time()
        work.run()
        seconds.append(time.process_time() - began)
    peak = work.bytes
    if peak is None:
        tracemalloc.start()
        work.run()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return min(seconds), peak / 1e6


def main(short: bool = False, turns: int = 3) -> None:
    """Print a Markdown line for each row.

    Args:
      short: measure fewer and smaller sizes.
      turns: how often each size is timed.
    """
    print("| what | against | sizes | seconds | MB | exponent of time | of memory |")
    print("|---|---|---|---|---|---|---|")
    for row in ROWS:
        sizes = list(row.sizes[: row.short] if short else row.sizes)
        seconds, megabytes = zip(*(measure(row.make(n), turns) for n in sizes), strict=True)
        cells = [row.what, row.of, " ".join(f"{n:,}" for n in sizes)]
        cells += [" ".join(f"{x:.3g}" for x in each) for each in (seconds, megabytes)]
        cells += [f"{exponent(sizes, list(each)):.2f}" for each in (seconds, megabytes)]
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
