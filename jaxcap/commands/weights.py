"""`jaxcap weights`: inspect a weight file and find the encoder that it fits."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from jaxcap.files import check_target
from jaxcap.messages.errors import InputError, counted, one_line
from jaxcap.messages.progress import print_out

if TYPE_CHECKING:
    from jaxcap.model.encoders.weights.weight_files import WeightFile


@dataclass(frozen=True)
class WeightsArguments:
    """Inspect a weight file: find the encoder that it fits, or convert it.

    Keras .h5, .weights.h5 and .keras files, PyTorch .pth files and .safetensors files are
    recognised by their content. Loading them never runs code inside them.

        jaxcap weights resnet50-0676ba61.pth
        jaxcap weights resnet50-0676ba61.pth --to resnet50.safetensors
    """

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
    """The file, or the name of an installed package with one."""
    to: Path | None = None
    """Write the encoder's weights to this .safetensors file, in float32."""
    force: bool = False
    """Allow --to to replace a file."""


def run(arguments: WeightsArguments, console: Console) -> int:
    """Print a summary; return 1, with the reasons on `console`, if the file fits no encoder."""
    _check_target(arguments)
    from jaxcap.model.encoders.weights.fitting import encoder_shapes, identify
    from jaxcap.model.encoders.weights.loading import export_weights, fill, misfit, weights_file
    from jaxcap.model.encoders.weights.weight_files import read_weight_file

    captioner = _about_captioner(arguments.file)
    if captioner is not None:
        print_out(captioner)
        return 0
    if arguments.file == "imagenet":
        raise InputError("weights 'imagenet' differ for each encoder; give a file or a package.")
    path = weights_file(arguments.file, encoder_name="")
    file = read_weight_file(path)
    print_out(_summary(file))
    best, *_ = identify(file)
    if not best.is_exact:
        console.print(f"{path}: does not fit any jaxcap encoder.", soft_wrap=True)
        if best.likeness > 0:
            nearest = f"The nearest is '{best.encoder}', but:{misfit(best)}"
            console.print(one_line(nearest), soft_wrap=True)
        return 1
    try:
        variables = fill(file, best, encoder_shapes(best.encoder))
    except InputError as error:
        console.print(f"{error}", soft_wrap=True)
        return 1
    print_out(f"fits: {best.encoder}, by the names of {best.layout}")
    if arguments.to is not None:
        about = {"source": path.name, "format": file.format}
        export_weights(arguments.to, best.encoder, variables, about)
        console.print(f"wrote {arguments.to}", soft_wrap=True)
    given = arguments.file if arguments.to is None else str(arguments.to)
    print_out(f"use:  --encoder.name {best.encoder} --encoder.weights {shlex.quote(given)}")
    return 0


def _about_captioner(file: str) -> str | None:
    """Return a description of a captioner that `jaxcap export` wrote; None for other files."""
    from jaxcap.storage.published import describe

    found = describe(Path(file))
    if found is None:
        return None
    return f"{found}\nuse:  jaxcap caption PHOTO.jpg --model {shlex.quote(file)}"


def _check_target(arguments: WeightsArguments) -> None:
    target = arguments.to
    if target is None:
        return
    if target.suffix != ".safetensors":
        raise InputError(
            f"--to {target}: the format is .safetensors; give a name with this suffix."
        )
    check_target(target, "--to", replace=arguments.force)


def _summary(file: WeightFile) -> str:
    tensors = {**file.tensors, **file.classifier}
    types = Counter(str(tensor.dtype) for tensor in tensors.values())
    lines = [
        f"file: {file.path}",
        f"is:   {file.format}",
        f"has:  {counted(len(tensors), 'tensor')}, "
        f"{sum(tensor.size for tensor in tensors.values()):,} numbers ({', '.join(types)})",
    ]
    if file.classifier:
        size = sum(tensor.size for tensor in file.classifier.values())
        names = list(file.classifier)
        some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        lines.append(f"skip: the classifier, {size:,} numbers ({some})")
    return "\n".join(map(one_line, lines))
