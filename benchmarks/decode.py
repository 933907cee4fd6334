"""How long beam search takes, from features to sentences, encoding not counted.

    python benchmarks/decode.py --run runs/flickr8k

decodes one batch of random feature grids, again and again until it comes to 1,000 images, with
the run's decoder, or without `--run` with that of configs/flickr8k.py and random weights. Random
features are no photographs: with a trained run they ended sooner (21 steps a batch against 24 for
the development split of Flickr8k, which took about a tenth longer).
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro

from jaxcap.captioner import create_captioner, init_variables
from jaxcap.config import load_config_file
from jaxcap.inference import load
from jaxcap.search import beam_search


@dataclass(frozen=True)
class Arguments:
    """Times beam search over features that are already on the device."""

    run: Path | None = None
    images: int = 1000
    batch_size: int = 50
    beam_size: int = 5
    max_length: int = 25
    positions: int = 49
    repeats: int = 3


def main(arguments: Arguments) -> None:
    """Prints the seconds that `arguments.images` images take."""
    if arguments.run is None:
        config = load_config_file(Path(__file__).parent.parent / "configs" / "flickr8k.py")
        model = create_captioner(config, vocabulary_size=2543)
        variables = init_variables(model, jax.random.key(0), image_size=config.data.image_size)
    else:
        run = load(arguments.run)
        model, variables, config = run.model, run.variables, run.config
    size = config.data.image_size
    width = jax.eval_shape(
        lambda: model.apply(
            variables, jax.numpy.zeros((1, size, size, 3), jax.numpy.uint8), method="encode"
        )
    ).shape[-1]

    @jax.jit
    def decode(variables: object, features: jax.Array) -> object:
        carry, context = model.apply(variables, features, method="start")
        return beam_search(
            lambda carry, tokens: model.apply(variables, carry, tokens, context, method="step"),
            carry,
            beam_size=arguments.beam_size,
            max_length=arguments.max_length,
        )

    shape = (arguments.batch_size, arguments.positions, width)
    features = jax.nn.relu6(jax.random.normal(jax.random.key(1), shape))
    began = time.perf_counter()
    jax.block_until_ready(decode(variables, features))
    print(f"compiled and ran once in {time.perf_counter() - began:.1f} s")
    batches = -(-arguments.images // arguments.batch_size)
    seconds = []
    for _ in range(arguments.repeats):
        began = time.perf_counter()
        for _ in range(batches):
            jax.block_until_ready(decode(variables, features))
        seconds.append(time.perf_counter() - began)
    print(
        f"{batches * arguments.batch_size} images, beam {arguments.beam_size}, at most "
        f"{arguments.max_length} tokens: median {statistics.median(seconds):.1f} s "
        f"(of {', '.join(f'{s:.1f}' for s in seconds)})"
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
