"""Train an image captioner on drawn scenes and caption new ones: the whole idea on one page.

    python examples/one_page.py

The program draws coloured shapes, trains a small convolutional network and an attention LSTM
end to end from random parameters, and captions scenes whose pairs of objects never appeared
together in training. It uses the library's pure functions and nothing else: no data set on
disk, no configuration file, no training loop but its own.

    B images   N captions of each   T tokens   S image side   P positions   V vocabulary
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, UInt8

from jaxcap.config import Config, DecoderConfig, EncoderConfig
from jaxcap.data.batch import Batch
from jaxcap.datasets import shapes
from jaxcap.model.captioner import Captioner, create_captioner, init_variables
from jaxcap.search import Ranking, SearchResult, beam_search
from jaxcap.text.vocabulary import PAD, Vocabulary
from jaxcap.training.step.losses import cross_entropy
from jaxcap.training.step.state import TrainState
from jaxcap.training.step.train_step import train_step

LONGEST = 18  # tokens of the longest caption, with <bos> and <eos>


def draw_scenes(
    count: int, rng: np.random.Generator, *, held_out: bool
) -> tuple[list[shapes.Scene], UInt8[np.ndarray, "B S S 3"], list[list[list[str]]]]:
    """Draw scenes: their geometry, their pixels and five captions of each, split into words."""
    scenes = [shapes.sample_scene(rng, held_out) for _ in range(count)]
    pixels = np.stack([shapes.draw(scene, rng) for scene in scenes])
    words = [[text.split() for text in shapes.captions(scene, rng)] for scene in scenes]
    return scenes, pixels, words


def encode_captions(captions: list[list[list[str]]], vocabulary: Vocabulary) -> np.ndarray:
    """Turn captions into ids [B, N, T], padded on the right."""
    tokens = np.full((len(captions), 5, LONGEST), PAD, np.int32)
    for image, texts in enumerate(captions):
        for n, words in enumerate(texts):
            ids = vocabulary.encode(words, max_length=LONGEST)
            tokens[image, n, : len(ids)] = ids
    return tokens


@functools.partial(jax.jit, static_argnums=0)
def caption(
    model: Captioner, variables: dict[str, Any], images: UInt8[Array, "B S S 3"]
) -> SearchResult:
    """Find the likeliest caption of each image by beam search."""
    features = model.apply(variables, images, method="encode")  # (B, P, D)
    carry, context = model.apply(variables, features, method="start")  # carry: (B, 1, …)

    def step(carry: Any, tokens: Array) -> Any:
        # One word further for each beam: tokens (B, N) -> logits (B, N, V)
        return model.apply(variables, carry, tokens, context, method="step")

    return beam_search(step, carry, beam_size=3, max_length=LONGEST, ranking=Ranking(n_best=1))


def main(*, steps: int, scenes: int, seed: int = 0) -> float:
    """Train, caption 200 new scenes, print some, and return the share of true captions."""
    rng = np.random.default_rng(seed)
    _, pixels, words = draw_scenes(scenes, rng, held_out=False)
    vocabulary = Vocabulary.from_captions([w for texts in words for w in texts], min_count=1)
    tokens = encode_captions(words, vocabulary)
    print(f"{scenes} scenes drawn; {len(vocabulary)} words")

    config = Config(
        encoder=EncoderConfig(name="resnet_small"),
        decoder=DecoderConfig(
            hidden_size=128,
            embedding_size=64,
            attention_size=128,
            scoring="dot",
            output_dropout=0.0,
        ),
    )
    model = create_captioner(config, len(vocabulary))
    variables = init_variables(model, jax.random.key(seed), image_size=shapes.IMAGE_SIZE)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 20 + 1, steps + 1)
    tx = optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(schedule))
    state = TrainState.create(variables, tx)
    step = jax.jit(
        functools.partial(train_step, model=model, tx=tx, objective=cross_entropy),
        donate_argnums=0,
    )

    for i in range(steps):
        rows = rng.choice(scenes, size=16, replace=False)
        state, metrics = step(state, Batch(tokens[rows], pixels[rows]), jax.random.key(seed))
        if i % 250 == 0 or i == steps - 1:
            print(f"step {i:4d}: {float(metrics.loss / metrics.words):.3f} nats per word")

    new_scenes, new_pixels, _ = draw_scenes(200, rng, held_out=True)
    result = caption(model, state.variables, new_pixels)
    texts = [vocabulary.decode(ids) for ids in np.asarray(result.tokens)[:, 0].tolist()]
    true = [shapes.is_true_and_complete(*pair) for pair in zip(texts, new_scenes, strict=True)]
    for text, scene, is_true in list(zip(texts, new_scenes, true, strict=True))[:5]:
        a, b = scene.objects
        print(f"\nscene:   {' '.join(a.words)} ({shapes.relation(a, b)}), {' '.join(b.words)}")
        print(f"caption: {text}  [{'true' if is_true else 'wrong'}]")
    share = float(np.mean(true))
    print(f"\n{share:.1%} of {len(true)} captions are true and complete")
    return share


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps")
    parser.add_argument("--scenes", type=int, default=4000, help="scenes to train on")
    arguments = parser.parse_args()
    main(steps=arguments.steps, scenes=arguments.scenes)
