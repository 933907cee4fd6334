"""Evaluate a split: caption every image, score the captions, and write the results."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxcap.captioning.calibration import Calibration
from jaxcap.captioning.decoding import Decode, describe
from jaxcap.captioning.loaded_model import LoadedModel
from jaxcap.captioning.results import Caption
from jaxcap.captioning.stream import NO_CAPTION, caption_batches
from jaxcap.config import Config, to_dict
from jaxcap.data.feature_cache import EncodedImages
from jaxcap.data.pipeline import Source, evaluation_batches
from jaxcap.datasets import shapes
from jaxcap.devices import hosts
from jaxcap.devices.parallel import round_up
from jaxcap.files import check_target, read_bytes, write_text
from jaxcap.files.json_data import parse_json
from jaxcap.messages.errors import InputError
from jaxcap.messages.progress import Report
from jaxcap.metrics import ScoringUnits, evaluate_captions, splitter
from jaxcap.model.cost import check_captioning
from jaxcap.report import ReportCaption, ReportRow, scale_attention, write_report
from jaxcap.scoring import bootstrap
from jaxcap.scoring.signature import signature
from jaxcap.scoring.statistics import Statistics, collect
from jaxcap.text.vocabulary import Vocabulary

TRUE = "true and complete"
"""Name of the score that only a data set of drawn scenes has: the share, in percent, of
captions that are true of their scene and leave nothing out."""

LogLine = dict[str, int | float]
"""A line of `metrics.jsonl`."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MAX_LOG = 1 << 27  # bytes; room for 500,000 lines


@dataclass(frozen=True)
class Evaluation:
    """Captions and scores of one split.

    Attributes:
      captions: image id to its captions, best first, in the order of the split.
      references: image id to the captions that people wrote.
      corpus: score of the whole split, by name, ×100.
      per_image: the same for each image.
      verdicts: for drawn scenes, whether each caption is true and complete; else empty.
    """

    captions: dict[str, tuple[Caption, ...]]
    references: dict[str, list[str]]
    corpus: dict[str, float]
    per_image: dict[str, dict[str, float]]
    verdicts: dict[str, bool]

    def statistics(self, units: ScoringUnits) -> Statistics:
        """Return the statistics of the best captions, to resample or compare them."""
        split = splitter(units)
        return collect(
            [split(captions[0].text) for captions in self.captions.values()],
            [[split(text) for text in self.references[name]] for name in self.captions],
        )


def score_names(source: Source) -> tuple[str, ...]:
    """Return the names of `Evaluation.corpus`, before anything is evaluated."""
    names = tuple(evaluate_captions({"": ""}, {"": ["a"]}).corpus)
    return (*names, TRUE) if "scene" in source[0] else names


def scoring_units(config: Config) -> ScoringUnits:
    """Return the units that the scores of a run count."""
    if config.evaluation.units is not None:
        return config.evaluation.units
    return "characters" if config.data.units == "characters" else "words"


def evaluate_source(
    source: Source,
    *,
    decode: Decode,
    variables: dict[str, Any],
    vocabulary: Vocabulary,
    config: Config,
    report: Report,
    features: EncodedImages | None = None,
    attention: bool = False,
    calibration: Calibration | None = None,
) -> Evaluation:
    """Caption every image of `source` once, and score the best caption of each.

    Several processes share the images, and each gets the whole result.

    Args:
      features: the encoded images, if they were computed earlier.
      report: called with the number of images done.
      attention: keep where the model looked while it chose the words of the best captions, a
        byte for each word and position.
      calibration: how the model judges its captions, for their confidence in the report.
    """
    process, processes = hosts.share()
    numbers = np.array_split(np.arange(len(source)), processes)[process]
    few = -(-max(1, len(numbers)) // 8) * 8  # in eights, so that small splits share programs
    batch_size = round_up(min(config.evaluation.batch_size, few))
    check_captioning(config, len(vocabulary), batch_size=batch_size)
    batches = evaluation_batches(
        source,
        config=config.data,
        batch_size=batch_size,
        numbers=numbers,
        features=features,
    )
    found: dict[int, tuple[Caption, ...]] = {}
    for number, result in caption_batches(
        decode, (variables,), batches, vocabulary, attention=attention
    ):
        judged = result if calibration is None else calibration.apply(result)
        found[number] = tuple(map(_smaller, judged.captions))
        if len(found) % batch_size == 0 or len(found) == len(numbers):
            report(min(len(source), len(found) * processes), "")
    if processes > 1:
        found = _of_all_processes(found)
    captions: dict[str, tuple[Caption, ...]] = {}
    references: dict[str, list[str]] = {}
    verdicts: dict[str, bool] = {}
    for number in range(len(source)):
        record = source[number]
        name = record["image_id"]
        while name in captions:  # data sets of other programs may repeat names
            name += f" (record {number})"
        if not found[number]:
            raise InputError(f"image {name}: {NO_CAPTION}.")
        captions[name], references[name] = found[number], record["captions"]
        if "scene" in record:
            scene = shapes.scene_from_json(record["scene"])
            verdicts[name] = shapes.is_true_and_complete(found[number][0].text, scene)
    scores = evaluate_captions(
        {name: c[0].text for name, c in captions.items()}, references, units=scoring_units(config)
    )
    corpus = dict(scores.corpus)
    if verdicts:
        corpus[TRUE] = 100 * sum(verdicts.values()) / len(verdicts)
    return Evaluation(captions, references, corpus, scores.per_image, verdicts)


def _of_all_processes(found: dict[int, tuple[Caption, ...]]) -> dict[int, tuple[Caption, ...]]:
    """Gather the captions of all processes."""
    mine = [
        [number, [_fields(caption) for caption in captions]] for number, captions in found.items()
    ]
    return {
        number: tuple(_caption(fields) for fields in captions)
        for share in hosts.gather(mine)
        for number, captions in share
    }


def _fields(caption: Caption) -> dict[str, Any]:
    """Return a caption as JSON values."""
    fields, weights = asdict(replace(caption, attention=None)), caption.attention
    if weights is not None:
        fields["attention"] = [*weights.shape, base64.b64encode(weights.tobytes()).decode("ascii")]
    return fields


def _caption(fields: dict[str, Any]) -> Caption:
    lists: dict[str, Any] = {
        name: tuple(value) for name, value in fields.items() if isinstance(value, list)
    }
    if weights := lists.get("attention"):
        *shape, text = weights
        lists["attention"] = np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape)
    return Caption(**(fields | lists))


def _smaller(caption: Caption) -> Caption:
    """Reduce attention to one byte per word and position: a split has many captions."""
    if caption.attention is None:
        return caption
    return replace(caption, attention=scale_attention(caption.attention))


def result_files(directory: Path, run: LoadedModel, data: str, split: str) -> list[Path]:
    """Return the files that `write_evaluation` writes.

    Raises:
      InputError: one of them cannot be written.
    """
    label = split if data == run.config.data.name else f"{data}-{split}"
    names = f"predictions-{label}.json", f"metrics-{label}.json", f"report-{label}.html"
    paths = [directory / name for name in names]
    for path in paths:
        check_target(path)
    return paths


def write_evaluation(
    evaluation: Evaluation,
    source: Source,
    run: LoadedModel,
    *,
    split: str,
    command: str,
    data: str | None = None,
    directory: Path | None = None,
) -> list[Path]:
    """Write predictions, scores and a report into `directory`, by default the run's.

    Args:
      data: the data set of `source`; by default the one that the model was trained on. The name of
        any other becomes part of the file names.

    Returns:
      `predictions-SPLIT.json` (COCO results format), `metrics-SPLIT.json` (scores, their 95 %
      bootstrap intervals, the signature and the protocol), `report-SPLIT.html`.
    """
    directory = directory or run.directory
    data = data or run.config.data.name
    paths = result_files(directory, run, data, split)
    protocol: dict[str, str | float] = {
        "data": data,
        "split": split,
        "images": len(evaluation.captions),
        "decoding": describe(run.config.search, run.config.data.units),
        "seed": run.config.train.seed,
        "checkpoint": f"step {run.step}",
        "command": command,
    }
    predictions = [
        {"image_id": name, "caption": captions[0].text}
        for name, captions in evaluation.captions.items()
    ]
    units = scoring_units(run.config)
    split_text = splitter(units)
    references = [
        [split_text(reference) for reference in evaluation.references[name]]
        for name in evaluation.captions
    ]
    intervals = {
        name: (each.low, each.high)
        for name, each in bootstrap.intervals(evaluation.statistics(units)).items()
    }
    line = signature(references, metrics=list(intervals), units=units)
    metrics = {
        "scores": evaluation.corpus,
        "intervals": intervals,
        "signature": line,
        "protocol": protocol,
    }
    for path, content in zip(paths, (predictions, metrics), strict=False):
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_report(
        paths[2],
        title=f"{run.directory.name} on {data} {split}",
        scores=evaluation.corpus,
        intervals=intervals,
        signature=line,
        facts=protocol,
        rows=(
            _row(name, source[number]["image"], evaluation)
            for number, name in enumerate(evaluation.captions)
        ),
        count=len(source),
        curves=read_metrics(run.directory / "metrics.jsonl"),
        step=run.step,
        config=to_dict(run.config),
    )
    return paths


def _row(name: str, image: bytes, evaluation: Evaluation) -> ReportRow:
    return ReportRow(
        image_id=name,
        image=image,
        captions=[ReportCaption.of(caption) for caption in evaluation.captions[name]],
        references=evaluation.references[name],
        scores=evaluation.per_image[name] | _confidence(evaluation.captions[name][0]),
        verdict=evaluation.verdicts.get(name),
    )


def _confidence(caption: Caption) -> dict[str, float]:
    """Return the confidence ×100, by its name, if it is calibrated."""
    return {} if caption.calibrated is None else {"confidence": 100 * caption.calibrated}


def read_metrics(path: Path) -> list[LogLine]:
    """Return the lines of a `metrics.jsonl` without those that are cut off or damaged.

    Raises:
      InputError: it cannot be read, or is too large.
    """
    if not path.is_file():
        return []
    data = read_bytes(path, at_most=_MAX_LOG)
    lines = []
    for text in data.decode("utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            line = parse_json(text)
            if isinstance(line, dict) and all(map(_is_logged, line, line.values())):
                lines.append(line)
    return [line for line in lines if "step" in line]


def _is_logged(name: str, value: Any) -> bool:
    """Return whether a value is a number that can stand under its name, also in TensorBoard."""
    if type(value) not in (int, float) or _FLOAT32_MAX < abs(value) < math.inf:
        return False
    if name == "step":
        return isinstance(value, int) and 0 <= value < 2**63
    return name != "elapsed_s" or 0 <= value < math.inf
