"""`jaxcap export`: write a trained captioner to a file for others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.filesize import decimal

from jaxcap.commands.data_folder import choose_data_dir
from jaxcap.commands.search_options import SearchGroup, SearchOptions, given_search
from jaxcap.files import check_target, hub
from jaxcap.messages.errors import InputError, counted
from jaxcap.messages.progress import Display, print_out

if TYPE_CHECKING:
    import numpy as np

    from jaxcap.captioning.loaded_model import LoadedModel
    from jaxcap.captioning.results import Captioned
    from jaxcap.datasets.records import Records

_TRAINING_PHOTOGRAPHS = 2000
"""How many training photographs familiarity is learned from; about 30 for each component."""
_FORMATS = {".safetensors": "safetensors", ".stablehlo": "stablehlo"}


@dataclass(frozen=True)
class ExportArguments:
    """Write a trained captioner to a file, in one of two formats.

    FILE.safetensors holds the weights and all that the model needs, without the optimizer's state.
    jaxcap loads it like a run: use it to publish a model.

    FILE.stablehlo holds encoder and search as one program for CPU, GPU and TPU and any number of
    images; FILE.json holds its vocabulary. JAX alone runs it.

        jaxcap export runs/NAME model.safetensors --note "research only"
        jaxcap export runs/NAME model.safetensors --to-hub hf:OWNER/NAME
        jaxcap export runs/NAME model.stablehlo --beam-size 5
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Directory of a run, or a captioner in a .safetensors file."""
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """The file to write; its suffix selects the format."""
    average_with: tuple[Path, ...] = ()
    """More runs with the same train.start_from: write the mean of their parameters, which often
    captions better than each of them."""
    format: Literal["safetensors", "stablehlo"] | None = None
    """The format, for names with another suffix."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the stored weights. float32 keeps every bit. bfloat16 halves the file and changes a
    word here and there; it does not change the type of computation."""
    attention: bool = False
    """stablehlo: also return the attention weights of each word."""
    platforms: tuple[Literal["cpu", "cuda", "rocm", "tpu"], ...] = ("cpu", "cuda", "rocm", "tpu")
    """stablehlo: platforms that the program supports."""
    note: str | None = None
    """safetensors: a line for users, such as data and licence; jaxcap caption prints it for the
    model in the package."""
    calibrate: tuple[str, ...] = ()
    """safetensors: fit confidence and familiarity to held-out photographs, as NAME:SPLIT of
    prepared data sets, with the one most like the training data first. Takes a few minutes."""
    data_dir: Path | None = None
    """calibrate: folder of the prepared data sets; default $TFDS_DATA_DIR, else
    ~/tensorflow_datasets."""
    to_hub: Annotated[str | None, tyro.conf.arg(metavar="hf:OWNER/NAME")] = None
    """safetensors: also upload FILE, with a model card, to the Hugging Face Hub. It needs
    jaxcap[hub], and a token (hf auth login)."""
    force: bool = False
    """Replace existing files."""
    search: SearchGroup = field(default_factory=SearchOptions)


def run(arguments: ExportArguments, console: Console) -> int:
    """Write the file, or files, and print their names and sizes."""
    format = arguments.format or _FORMATS.get(arguments.file.suffix)
    if format is None:
        raise InputError(
            f"{arguments.file}: unknown format. Give a name that ends in .safetensors (for jaxcap) "
            "or .stablehlo (for JAX alone), or give --format."
        )
    if format == "safetensors" and arguments.attention:
        raise InputError("--attention is for .stablehlo only; leave it out.")
    if format == "stablehlo" and arguments.note is not None:
        raise InputError("--note is for .safetensors only; leave it out.")
    if format == "stablehlo" and arguments.calibrate:
        raise InputError("--calibrate is for .safetensors only; leave it out.")
    if arguments.to_hub is not None:
        if format == "stablehlo":
            raise InputError("--to-hub is for .safetensors only; leave it out.")
        if not hub.is_reference(arguments.to_hub):
            raise InputError(f"--to-hub {arguments.to_hub}: expected hf:OWNER/NAME.")
    if not arguments.platforms:
        raise InputError("--platforms is empty; give one or more of cpu, cuda, rocm and tpu.")
    files = [arguments.file]
    if format == "stablehlo":
        files.append(arguments.file.with_suffix(".json"))
    if len(set(files)) < len(files):
        raise InputError(
            f"{arguments.file}: the program's description gets this name; give another one."
        )
    for file in files:
        check_target(file, replace=arguments.force)
    from jaxcap.captioning import export
    from jaxcap.captioning.loaded_model import load
    from jaxcap.captioning.model_card import model_card
    from jaxcap.storage import published

    captioner = load(arguments.run, *arguments.average_with).averaged()
    captioner = captioner.with_search(**given_search(arguments.search))
    single = captioner.single
    if arguments.calibrate:
        single = replace(single, calibration=_calibration(captioner, arguments, console))
    if format == "safetensors":
        published.write(single, arguments.file, dtype=arguments.dtype, note=arguments.note)
    else:
        export.write_program(
            single,
            arguments.file,
            dtype=arguments.dtype,
            platforms=arguments.platforms,
            attention=arguments.attention,
        )
    for file in files:
        print_out(f"{file}\t{decimal(file.stat().st_size)}")
    if arguments.to_hub is not None:
        card = model_card(single, arguments.to_hub, note=arguments.note)
        console.print(f"uploading {arguments.file} to {arguments.to_hub}…", soft_wrap=True)
        print_out(hub.publish(arguments.to_hub, arguments.file, card, message="Export of jaxcap"))
    return 0


def _calibration(
    captioner: LoadedModel, arguments: ExportArguments, console: Console
) -> dict[str, np.ndarray]:
    """Fit a calibration and print how well it ranks captions."""
    import numpy as np

    from jaxcap.captioning.calibration import calibrate, to_arrays
    from jaxcap.datasets.prepare import find_dataset, load_source
    from jaxcap.evaluation import scoring_units
    from jaxcap.metrics import evaluate_captions

    data = captioner.config.data
    data_dir = choose_data_dir(arguments.data_dir, data, run=arguments.run)
    held_out = []
    for each in arguments.calibrate:
        name, colon, split = each.partition(":")
        if not colon:
            raise InputError(f"--calibrate {each}: expected NAME:SPLIT, such as flickr8k:dev.")
        held_out.append(load_source(name, split, data_dir))
    training = [
        load_source(name, "train", data_dir)
        for name in data.names
        if not find_dataset(name, data_dir).text_alone
    ]
    share = _TRAINING_PHOTOGRAPHS // len(training)
    total = sum(min(len(source), share) for source in training) + sum(map(len, held_out))
    with Display(console, "calibrating", total=total) as display:
        done = itertools.count(1)

        def caption(source: Records, most: int) -> Iterator[Captioned]:
            rows = np.linspace(0, len(source) - 1, min(len(source), most)).astype(int)
            images = (source[int(row)]["image"] for row in rows)
            for result in captioner.caption(images, batch_size=32, attention=False):
                if result.error is not None:
                    raise InputError(f"--calibrate: {result.error}")
                display.update(next(done), "")
                yield result

        features = [result.features for source in training for result in caption(source, share)]
        results: list[Captioned] = []
        scores: list[float] = []
        for source in held_out:
            found = list(caption(source, len(source)))
            texts = {number: result.captions[0].text for number, result in enumerate(found)}
            references = {number: source[number]["captions"] for number in texts}
            per_image = evaluate_captions(
                texts, references, units=scoring_units(captioner.config)
            ).per_image
            results += found
            scores += [of_image["CIDEr-D"] for of_image in per_image.values()]
    calibration, correlation = calibrate(
        np.stack([np.asarray(each) for each in features]),
        results,
        np.array(scores),
        familiar=len(held_out[0]),
    )
    console.print(
        f"calibrated on {counted(len(results), 'photograph')}; Spearman's correlation of "
        f"confidence and CIDEr-D {correlation:.3f}, by cross-validation",
        soft_wrap=True,
    )
    return to_arrays(calibration)
