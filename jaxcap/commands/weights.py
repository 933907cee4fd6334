"""`jaxcap weights`: what a weight file holds, and which encoder it fits."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from jaxcap.errors import InputError

if TYPE_CHECKING:
    from jaxcap.model.encoders.weights.weight_files import WeightFile


@dataclass(frozen=True)
class WeightsArguments:
    """Tells what a weight file holds and which encoder it fits; converts it if wanted.

    Keras .h5, .weights.h5 and .keras files, PyTorch .pth files and .safetensors files are
    known by their content. No program that may lie in them is run.
    """

    file: tyro.conf.Positional[str]
    """The file, or the name of an installed package that carries one."""
    to: Path | None = None
    """Write what the encoder uses of it to this .safetensors file, in float32."""
    force: bool = False
    """Let --to replace a file."""


def run(arguments: WeightsArguments, console: Console) -> int:
    """Prints a few lines; status 1, and the reasons on `console`, if the file fits no encoder."""
    _check_target(arguments)
    from jaxcap.model.encoders.weights import export_weights, fill, misfit, weights_file
    from jaxcap.model.encoders.weights.fitting import encoder_shapes, identify
    from jaxcap.model.encoders.weights.weight_files import read_weight_file

    if arguments.file == "imagenet":
        raise InputError("weights 'imagenet' are those of each encoder; give a file or a package.")
    path = weights_file(arguments.file, encoder_name="")
    file = read_weight_file(path)
    print(_summary(file))
    best, *_ = identify(file)
    if not best.is_exact:
        console.print(f"{path}: fits no encoder that jaxcap knows.", soft_wrap=True)
        if best.likeness > 0:
            console.print(f"It is most like '{best.encoder}', but:{misfit(best)}", soft_wrap=True)
        return 1
    try:
        variables = fill(file, best, encoder_shapes(best.encoder))
    except InputError as error:
        console.print(f"{error}", soft_wrap=True)
        return 1
    print(f"fits: {best.encoder}, by the names of {best.layout}")
    if arguments.to is not None:
        about = {"source": path.name, "format": file.format}
        export_weights(arguments.to, best.encoder, variables, about)
        console.print(f"wrote {arguments.to}", soft_wrap=True)
    given = arguments.file if arguments.to is None else str(arguments.to)
    print(f"use:  --encoder.name {best.encoder} --encoder.weights {shlex.quote(given)}")
    return 0


def _check_target(arguments: WeightsArguments) -> None:
    target = arguments.to
    if target is None:
        return
    if target.suffix != ".safetensors":
        raise InputError(f"--to {target}: only .safetensors is written; let the name end so.")
    if target.is_dir() or not target.parent.is_dir():
        raise InputError(f"--to {target}: a folder is there, or none to write into.")
    if target.exists() and not arguments.force:
        raise InputError(f"--to {target}: the file exists; --force replaces it.")


def _summary(file: WeightFile) -> str:
    tensors = {**file.tensors, **file.classifier}
    types = Counter(str(tensor.dtype) for tensor in tensors.values())
    lines = [
        f"file: {file.path}",
        f"is:   {file.format}",
        f"has:  {len(tensors)} tensors, {sum(tensor.size for tensor in tensors.values()):,} numbers"
        f" ({', '.join(types)})",
    ]
    if file.classifier:
        size = sum(tensor.size for tensor in file.classifier.values())
        names = list(file.classifier)
        some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        lines.append(f"skip: the classifier, {size:,} numbers ({some})")
    return "\n".join(lines)
