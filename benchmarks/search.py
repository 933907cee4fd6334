"""Measure beam search from features to words, against PyTorch.

    pip install -e '.[parity]'
    python benchmarks/search.py
    python benchmarks/search.py --vocabulary 10000 --beams 5 --scoring dot

One process runs jaxcap, another PyTorch. They hold the same attention decoder and the same features
and alternate on the same images, so that other load affects both. PyTorch comes in the forms of
`pytorch_search.py`: the tutorials' loop over images, the same loop without its redundant work, and
batches, eager and compiled, of which the faster counts. All return words, scores, and attention of
all beams. The captions must be equal. An image may differ only if two candidates are nearly
equally likely, within `TIE` in log p or score, when PyTorch searches it in float64; such images
are counted.

Untrained weights never end a caption, or end all at once. Here one LSTM unit counts words and
makes `<eos>` likelier over time, and the logits of other words spread as widely as a trained
captioner's. Captions then end after about 11 words, as on Flickr8k, some earlier and some later.
With `--run` the weights are those of a trained run; the features are still random.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from workers import Worker

from jaxcap.config import DecoderConfig

PAD, BOS, EOS = range(3)
TIE = 1e-4
LOOPS = ("one by one", "tutorial")
# For the untrained weights: standard deviation of the logits of words and of <eos>; increment of
# the counting unit per word; mean time at which <eos> is as likely as all words together, and the
# slope there.
SPREAD, NOISE, STEP, MIDDLE, SLOPE, LOOK = 4.0, 2.0, 0.1, 13, 16.0, 3.0
Weights = dict[str, np.ndarray]
Captions = tuple[np.ndarray, np.ndarray]
"""Tokens `[B, K, T]` and scores `[B, K]`."""


@dataclass(frozen=True)
class Arguments:
    """Time beam search of jaxcap and PyTorch on the same weights and features."""

    vocabulary: tuple[int, ...] = (3000, 10000)
    beams: tuple[int, ...] = (1, 3, 5, 10)
    images: int = 1000
    loop_images: int = 40
    """Images for the loop forms; their speed does not depend on the number."""
    turns: int = 4
    """Turns of each form, each on another part of the images; medians are reported."""
    batch_size: int = 50
    max_length: int = 25
    """Longest caption in tokens, including the end token."""
    scoring: Literal["additive", "dot"] = "additive"
    positions: int = 49
    width: int = 1280
    torch_compile: bool = True
    """Also time `torch.compile`, which needs a C++ compiler."""
    run: Path | None = None
    """Trained run with the vocabulary and weights to use."""


@dataclass(frozen=True)
class Task:
    """The task of both processes: everything that determines the captions."""

    weights: Weights
    scoring: str
    beam_size: int
    max_length: int
    batch_size: int
    forms: tuple[str, ...]
    """Forms of PyTorch."""


def main(arguments: Arguments) -> None:
    """Print a Markdown line per vocabulary and beam."""
    if arguments.images % arguments.turns:
        raise SystemExit(
            f"--images {arguments.images} does not divide into --turns {arguments.turns}; give "
            f"--images {-(-arguments.images // arguments.turns) * arguments.turns}."
        )
    if arguments.loop_images < arguments.turns:
        raise SystemExit(
            f"--loop-images {arguments.loop_images} leaves a turn without an image; give "
            f"--loop-images {arguments.turns} or more."
        )
    features = random_features(arguments)
    with Worker(_Jaxcap) as ours, Worker(_PyTorch) as theirs:
        print(
            f"{arguments.images} images, {arguments.positions} positions × {arguments.width}, "
            f"{arguments.scoring} attention, batches of {arguments.batch_size}, at most "
            f"{arguments.max_length} tokens; images a second, medians of {arguments.turns} turns\n"
            "\n| V | beam | jaxcap | PyTorch | form | ratio | one by one | ratio "
            "| tutorial | ratio | tokens | ties |\n" + 12 * "|---" + "|"
        )
        for size in arguments.vocabulary if arguments.run is None else (0,):
            weights, scoring = ours.ask("weights", size, arguments)
            for beam_size in arguments.beams:
                task = Task(
                    weights,
                    scoring,
                    beam_size,
                    arguments.max_length,
                    arguments.batch_size,
                    (*LOOPS, "batched", *(["compiled"] if arguments.torch_compile else [])),
                )
                _compare(ours, theirs, task, features, arguments)


def _compare(
    ours: Worker, theirs: Worker, task: Task, features: np.ndarray, arguments: Arguments
) -> None:
    parts = np.split(features, arguments.turns)
    forms = [
        (worker, form)
        for worker in (ours, theirs)
        for form in worker.ask("build", task, parts[0][: arguments.batch_size])
    ]
    few = arguments.loop_images // arguments.turns
    rates: dict[str, list[float]] = {form: [] for _, form in forms}
    lengths: list[int] = []
    ties = 0
    for turn, part in enumerate(parts):
        found: dict[str, Captions] = {}
        for worker, form in forms[turn % len(forms) :] + forms[: turn % len(forms)]:
            given = part[:few] if form in LOOPS else part
            seconds, found[form] = worker.ask("turn", form, given)
            rates[form].append(len(given) / seconds)
        different = {i for form in rates for i in _different(found["jaxcap"], found[form])}
        if different:
            images = sorted(different)
            gaps = theirs.ask("gaps", part[images])
            wrong = [i for i, gap in zip(images, gaps, strict=True) if gap > TIE]
            assert not wrong, f"captions differ, and are no ties: images {wrong} of turn {turn}"
        ties += len(different)
        lengths += np.count_nonzero(found["jaxcap"][0][:, 0] != PAD, axis=-1).tolist()
    rate = {form: statistics.median(r) for form, r in rates.items()}
    batched = max((f for f in rate if f not in (*LOOPS, "jaxcap")), key=rate.__getitem__)
    cells = [f"{rate['jaxcap']:.0f}", f"{rate[batched]:.0f}", batched, _ratio(rate, batched)]
    for form in LOOPS:
        cells += [f"{rate[form]:.1f}", _ratio(rate, form)]
    size = len(task.weights["word_embed/embedding"])
    cells += [f"{statistics.mean(lengths):.1f} ± {statistics.pstdev(lengths):.1f}", str(ties)]
    print("|", " | ".join([str(size), str(task.beam_size), *cells]), "|", flush=True)
    for form, r in rates.items():
        print(f"  {form}: {', '.join(f'{x:.1f}' for x in r)}", file=sys.stderr, flush=True)


def _ratio(rate: dict[str, float], form: str) -> str:
    return f"{rate['jaxcap'] / rate[form]:.2f}"


def _different(one: Captions, other: Captions) -> list[int]:
    """Return the images whose captions or their order differ."""
    n = min(len(one[0]), len(other[0]))
    same = (one[0][:n] == other[0][:n]).all(axis=(1, 2))
    np.testing.assert_allclose(one[1][:n][same], other[1][:n][same], rtol=1e-4, atol=1e-4)
    return np.flatnonzero(~same).tolist()


def random_features(arguments: Arguments) -> np.ndarray:
    """Return features like those of an encoder with relu6: images and positions differ."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((arguments.images, 1, arguments.width), np.float32)
    shape = (arguments.images, arguments.positions, arguments.width)
    return np.clip(image + rng.standard_normal(shape, np.float32), 0, 6)


class _Jaxcap:
    """The process that runs jaxcap."""

    def weights(self, size: int, arguments: Arguments) -> tuple[Weights, str]:
        """Return the decoder's weights by name, and its scoring."""
        from flax import traverse_util

        if arguments.run is None:
            params, scoring = _untrained(size, arguments), arguments.scoring
        else:
            from jaxcap.captioning.loaded_model import load

            run = load(arguments.run)
            params, scoring = run.variables["params"]["decoder"], run.config.decoder.scoring
        flat = traverse_util.flatten_dict(params, sep="/")
        return {name: np.asarray(array) for name, array in flat.items()}, scoring

    def build(self, task: Task, features: np.ndarray) -> list[str]:
        """Compiles; returns the names of the forms."""
        import jax
        from flax import traverse_util

        from jaxcap.model.decoders import create_decoder
        from jaxcap.search import beam_search

        params = traverse_util.unflatten_dict(task.weights, sep="/")
        size, embedding_size = params["word_embed"]["embedding"].shape
        config = DecoderConfig(
            hidden_size=params["init_h"]["bias"].size,
            embedding_size=embedding_size,
            attention_size=params["key"]["bias"].size,
            scoring=task.scoring,
        )
        decoder = create_decoder(config, size)

        @jax.jit
        def search(params: Any, features: Any) -> Any:
            variables = {"params": params}
            carry, context = decoder.apply(variables, features, train=False, method="start")
            return beam_search(
                lambda carry, tokens: decoder.apply(
                    variables, carry, tokens, context, method="step"
                ),
                carry,
                beam_size=task.beam_size,
                max_length=task.max_length,
            )

        self._task, self._search, self._params = task, search, jax.device_put(params)
        self.turn("jaxcap", features)
        return ["jaxcap"]

    def turn(self, form: str, features: np.ndarray) -> tuple[float, Captions]:
        """Searches the features in batches; the seconds do not count their way to the device."""
        import jax

        batches = [jax.device_put(part) for part in _batches(features, self._task.batch_size)]
        jax.block_until_ready(batches)
        began = time.perf_counter()
        found = jax.block_until_ready([self._search(self._params, batch) for batch in batches])
        seconds = time.perf_counter() - began
        tokens = np.concatenate([result.tokens for result in found])
        return seconds, (tokens, np.concatenate([result.scores for result in found]))


class _PyTorch:
    """The process that runs PyTorch."""

    def build(self, task: Task, features: np.ndarray) -> list[str]:
        """Compiles; returns the names of the forms."""
        import torch
        from pytorch_search import BatchedSearch, Decoder, LoopSearch

        # As JAX does by default: float32 products in TensorFloat-32, if the device has it.
        torch.set_float32_matmul_precision("high")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._task, self._torch = task, torch
        decoder = Decoder(task.weights).to(self._device)
        sizes = {"beam_size": task.beam_size, "max_length": task.max_length}
        every = {
            "one by one": functools.partial(LoopSearch, project_once=True),
            "tutorial": functools.partial(LoopSearch, project_once=False),
            "batched": BatchedSearch,
            "compiled": functools.partial(BatchedSearch, compiled=True),
        }
        self._forms = {form: every[form](decoder, **sizes) for form in task.forms}
        self._exact = BatchedSearch(Decoder(task.weights).double().to(self._device), **sizes)
        for form in list(self._forms):
            try:
                self.turn(form, features[: 2 if form in LOOPS else None])
            except Exception as error:  # whatever the compiler chain dislikes on this machine
                if form != "compiled":
                    raise
                print(f"torch.compile does not work here: {error}", file=sys.stderr)
                del self._forms[form]
        return list(self._forms)

    def turn(self, form: str, features: np.ndarray) -> tuple[float, Captions]:
        """Searches the features, in batches or one by one."""
        batches = [self._to_device(part) for part in _batches(features, self._task.batch_size)]
        self._synchronise()
        began = time.perf_counter()
        found = [self._forms[form](batch) for batch in batches]
        self._synchronise()
        seconds = time.perf_counter() - began
        tokens = np.concatenate([result.tokens.cpu().numpy() for result in found])
        return seconds, (tokens, np.concatenate([result.scores.cpu().numpy() for result in found]))

    def gaps(self, features: np.ndarray) -> list[float]:
        """Return, in float64, how close each image's search came to another result."""
        return self._exact.gaps(self._to_device(features).double()).tolist()

    def _to_device(self, features: np.ndarray) -> Any:
        return self._torch.from_numpy(features).to(self._device)

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.synchronize()


def _batches(features: np.ndarray, size: int) -> list[np.ndarray]:
    return [features[i : i + size] for i in range(0, len(features), size)]


def _untrained(size: int, arguments: Arguments) -> Any:
    """Return untrained parameters that end their captions.

    The constants give captions with lengths like those of a trained captioner on
    Flickr8k (runs of configs/flickr8k.py: 11.2 ± 2.4 tokens with a beam of 5).
    """
    import jax

    from jaxcap.model.decoders import create_decoder

    config = DecoderConfig(scoring=arguments.scoring)
    decoder = create_decoder(config, size)
    features = random_features(dataclasses.replace(arguments, images=20))
    words = np.random.default_rng(1).integers(4, size, (20, 1, 20), np.int32)
    init = jax.jit(lambda key: decoder.init(key, features, words, train=False))
    params = jax.tree.map(np.array, init(jax.random.key(0))["params"])
    # The next word must depend on the last one and on the image.
    params["word_embed"]["embedding"] *= np.sqrt(config.embedding_size)
    params["output_z"]["kernel"] *= LOOK
    logits = jax.jit(lambda p: decoder.apply({"params": p}, features, words, train=False).logits)
    params["output"]["kernel"] *= SPREAD / np.asarray(logits(params)).std()
    total = float(jax.nn.logsumexp(logits(params), axis=-1).mean())
    # Unit 0 of the LSTM holds c = STEP · time and h = tanh(c), and is independent of all others.
    params["init_c"]["kernel"][:, 0] = 0.0
    always = {"i": 10.0, "f": 10.0, "g": np.arctanh(STEP), "o": 10.0}
    for gate, bias in always.items():
        params["cell"][f"i{gate}"]["kernel"][:, 0] = 0.0
        params["cell"][f"h{gate}"]["kernel"][:, 0] = 0.0
        params["cell"][f"h{gate}"]["bias"][0] = bias
    # Input 0 of the output layer is that h, and only the logit of <eos> depends on it.
    params["word_embed"]["embedding"][:, 0] = 0.0
    params["output_z"]["kernel"][:, 0] = 0.0
    params["output_h"]["kernel"][:, 0] = np.eye(config.hidden_size)[0]
    params["output"]["kernel"][0] = 0.0
    params["output"]["kernel"][:, EOS] *= NOISE / SPREAD
    params["output"]["kernel"][0, EOS] = SLOPE
    params["output"]["bias"][EOS] = total - SLOPE * np.tanh(STEP * MIDDLE)
    return params


if __name__ == "__main__":
    main(tyro.cli(Arguments))
