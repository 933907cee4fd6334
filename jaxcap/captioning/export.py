"""Export a captioner as one program that runs wherever JAX does, without this library.

Encoder and search are traced once, for any number of images, with the parameters inside:
`images uint8 [B, S, S, 3] -> tokens [B, N, T], log p`. The file is what `jax.export` serialises:
a portable StableHLO artifact (https://openxla.org/stablehlo/compatibility). A JSON file beside it
describes inputs and outputs, and holds the vocabulary. `docs/export.md` shows how to run it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

import jaxcap
from jaxcap.captioning.decoding import ImageInput, create_decode
from jaxcap.devices.promotion import standard_promotion
from jaxcap.files import read_bytes, replacing
from jaxcap.messages.errors import InputError
from jaxcap.model.decoders import decoder_class
from jaxcap.model.encoders.conv import written_for
from jaxcap.storage.program_cache import without_source_lines
from jaxcap.storage.published import Precision, stored
from jaxcap.storage.trained import TrainedCaptioner
from jaxcap.text.vocabulary import BOS, EOS, PAD, Vocabulary

SUFFIX = ".stablehlo"
FORMAT = 2
"""Version of the JSON file."""

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""Where a program can run, as JAX calls them."""

_MAX_REPLACED = 1 << 30
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_OUTPUTS = ("tokens", "log_probs", "word_log_probs", "attention")


@standard_promotion()
def export_program(
    captioner: TrainedCaptioner,
    *,
    dtype: Precision = "float32",
    platforms: Sequence[str] = PLATFORMS,
    attention: bool = False,
) -> jax.export.Exported:
    """Export encoder and search as configured in `captioner.config`.

    Each platform gets its own formulation of the convolutions, as in this library. On a CPU
    images are encoded one after the other, since the size of the batch is not known.

    Args:
      dtype: the type in which parameters are stored (see `published.stored`). It does not change
        the type of computation.
      platforms: some of `PLATFORMS`.
      attention: also return the attention weights.

    Returns:
      A program `images uint8 [B, S, S, 3] -> [tokens int32 [B, N, T], log_probs [B, N],
      word_log_probs [B, N, T]]`, with attention `[B, N, T, P]` as a fourth if it is asked for;
      as in `SearchResult`, except that log p of a missing caption is −inf.
    """
    kept = stored(captioner.variables, dtype)
    decode = create_decode([captioner.model], captioner.config.search, captioner.vocabulary)

    def search(variables: Any, images: Any, *, platform: str) -> list[Any]:
        with written_for(platform):
            found = decode((variables,), (ImageInput(images),)).captions
        log_probs = jnp.where(found.exists, found.log_probs, -jnp.inf)
        outputs = [found.tokens, log_probs, found.word_log_probs]
        return [*outputs, found.weights] if attention else outputs

    def program(images: Any) -> Any:
        # By JAX, as a step of the program, so that the file holds what was stored.
        variables = jax.tree.map(
            lambda x, like: jax.lax.convert_element_type(x, like.dtype), kept, captioner.variables
        )
        return jax.lax.platform_dependent(
            variables,
            images,
            cpu=functools.partial(search, platform="cpu"),
            default=functools.partial(search, platform="others"),
        )

    size = captioner.config.data.image_size
    shape = jax.export.symbolic_shape(f"b, {size}, {size}, 3")
    export = jax.export.export(jax.jit(program), platforms=tuple(platforms))
    with without_source_lines():
        return export(jax.ShapeDtypeStruct(shape, np.uint8))


def write_program(
    captioner: TrainedCaptioner,
    path: Path,
    *,
    dtype: Precision = "float32",
    platforms: Sequence[str] = PLATFORMS,
    attention: bool = False,
) -> None:
    """Write the exported program to a file, and its description to `description_path`.

    Either both files are replaced, or neither is.

    Raises:
      InputError: a file cannot be written, the decoder has no attention to return, or a word of
        the vocabulary is a single byte, which is not text by itself.
    """
    name = captioner.config.decoder.name
    if attention and not decoder_class(name).has_attention:
        raise InputError(f"--attention: decoder '{name}' has no attention; leave it out.")
    of_pieces = captioner.vocabulary.units.name == "pieces"
    if of_pieces and (byte := next(filter(_BYTE.fullmatch, captioner.vocabulary.words), None)):
        raise InputError(
            f"{path}: the vocabulary has pieces that are single bytes, such as '{byte}', and the "
            "program is described by the text that each piece adds. Export as .safetensors, which "
            "jaxcap.load reads, or train with pieces without byte fallback."
        )
    exported = export_program(captioner, dtype=dtype, platforms=platforms, attention=attention)
    content, size = bytes(exported.serialize()), captioner.config.data.image_size
    about = {
        "format": FORMAT,
        "program": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "image_size": size,
        "input": {
            "shape": f"b, {size}, {size}, 3",
            "dtype": "uint8",
            "is": "b images, RGB, 0 to 255, upright, each stretched to the square as a whole, "
            "bicubic with antialiasing (Pillow's resize)",
        },
        "outputs": [
            {"name": name, "shape": [int(n) for n in aval.shape[1:]], "dtype": str(aval.dtype)}
            for name, aval in zip(_OUTPUTS, exported.out_avals, strict=False)
        ],
        "platforms": list(exported.platforms),
        "search": dataclasses.asdict(captioner.config.search),
        "origin": {
            "run": captioner.directory.name,
            "step": captioner.step,
            "jaxcap": jaxcap.__version__,
            "jax": jax.__version__,
        },
        "vocabulary": _texts(captioner.vocabulary),
    }
    description = json.dumps(about, ensure_ascii=False, indent=1) + "\n"
    beside = description_path(path)
    before = read_bytes(beside, at_most=_MAX_REPLACED) if beside.exists() else None
    try:
        with replacing(path) as program, replacing(beside) as text:
            program.write_bytes(content)
            text.write_text(description, encoding="utf-8")
    except OSError as error:
        # The program is replaced last; it may have failed after its description was replaced.
        with contextlib.suppress(OSError):
            if before is None:
                beside.unlink()
            elif beside.read_bytes() != before:
                with replacing(beside) as text:
                    text.write_bytes(before)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def description_path(path: Path) -> Path:
    """Return the JSON file beside a program: `captioner.json` for `captioner.stablehlo`."""
    return path.with_suffix(".json")


def _texts(vocabulary: Vocabulary) -> list[str]:
    """Return the text that each id adds to a caption; the caption's first space is dropped."""
    shown = {
        "words": lambda word: f" {word}",
        "characters": lambda character: character,
        "pieces": lambda piece: piece.replace("\u2581", " "),  # SentencePiece's sign for a space
    }[vocabulary.units.name]
    texts = [shown(word) for word in vocabulary.words]
    for silent in (PAD, BOS, EOS):
        texts[silent] = ""
    return texts
