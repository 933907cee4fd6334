"""`jaxcap score`: score captions of any source against references."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from jaxcap.files import same_file
from jaxcap.messages.errors import InputError, counted, one_line
from jaxcap.messages.progress import PlainConsole, print_out

if TYPE_CHECKING:
    import numpy as np

    from jaxcap.scoring.pairing import Pairing
    from jaxcap.scoring.score_tables import Result
    from jaxcap.scoring.statistics import Statistics

THESE = "these captions"
OTHERS = "the other captions"
PEOPLE = "people"

_REPORT = Path("report.html")


@dataclass(frozen=True)
class ScoreArguments:
    """Score a file of captions as papers do.

    The metrics are BLEU, ROUGE-L and CIDEr-D, following coco-caption. Predictions: COCO
    results, {image: caption}, JSON lines (also of jaxcap caption --json), CSV or TSV.
    References: COCO annotations, Karpathy's dataset_*.json, a Flickr token file, {image:
    [captions]}, JSON lines, CSV or TSV. The content determines the format. Or NAME:SPLIT, a
    split of a data set built by jaxcap prepare.

        jaxcap score predictions.json references.json
        jaxcap score predictions.jsonl mine:test --bootstrap
        jaxcap score ours.json references.json --against theirs.json
    """

    predictions: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PREDICTIONS")]
    """Captions to score, one per image."""
    references: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="REFERENCES")]
    """Human captions, one or more per image: a file, or NAME:SPLIT."""
    against: Path | None = None
    """Other predictions for the same images, to compare by paired bootstrap."""
    units: Literal["words", "characters"] = "words"
    """Units that scores count: words, as in papers on English, or characters, for scripts without
    spaces between words. The signature names them."""
    split: str | None = None
    """Split of references that have splits, such as Karpathy's: test, val, train+restval, …"""
    image_list: Path | None = None
    """Text file with the images to score, one per line, such as Flickr_8k.testImages.txt."""
    data_dir: Path | None = None
    """Folder of the prepared data sets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    bootstrap: bool = False
    """Print 95 % bootstrap intervals over images."""
    resamples: int = 1000
    """Number of bootstrap samples."""
    seed: int = 0
    """Seed of the bootstrap."""
    baselines: bool = False
    """Also score people (each reference against the others) and the best constant caption."""
    train: Path | None = None
    """Training captions to count novel captions: a file in any format of references, or NAME:SPLIT.
    """
    train_split: str | None = None
    """Split of --train; default train, plus restval if there is one."""
    train_list: Path | None = None
    """Text file with the training images in --train."""
    java: bool = False
    """Also compute METEOR and SPICE, which need Java and jaxcap[java] and take minutes."""
    per_image: Path | None = None
    """Write the scores of every image to this file (.csv or .jsonl)."""
    images: Path | None = None
    """Folder of the images, for a page with images, captions and scores."""
    report: Path | None = None
    """File of that page, default report.html; without --images, it has no images. With --against,
    it shows both captions and how their scores differ."""
    link_images: bool = False
    """Link the images in the report instead of embedding small copies."""
    allow_missing: bool = False
    """Score the captioned images even if others have no caption."""
    allow_duplicates: bool = False
    """Score the first caption of an image that has several."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class _Scored:
    """The captions of one model with their scores.

    Attributes:
      words: the tokens of the captions.
      corpus: metric to the score of the whole set, ×100.
      alone: metric to the scores of the individual images, `[I]`.
      unavailable: metrics without a score, with the reason.
    """

    pairing: Pairing
    words: list[list[str]]
    statistics: Statistics
    corpus: dict[str, float]
    alone: dict[str, np.ndarray]
    unavailable: dict[str, str]


def run(arguments: ScoreArguments, console: Console) -> int:
    """Print scores to standard output, and warnings to the console."""
    from jaxcap.metrics import splitter
    from jaxcap.scoring.per_image import write_per_image
    from jaxcap.scoring.score_tables import Result
    from jaxcap.scoring.signature import signature

    _check(arguments)
    ours, theirs, warnings = _read(arguments)
    pictures = _pictures(arguments, ours, console)
    split = splitter(arguments.units)
    targets = [[split(text) for text in each] for each in ours.references]
    scored = _score(ours, targets, arguments)
    other = None if theirs is None else _score(theirs, targets, arguments)
    result = Result(
        predictions=str(arguments.predictions),
        references=str(arguments.references),
        signature=signature(
            targets,
            metrics=list(scored.corpus),
            of=ours.of,
            split=arguments.split,
            units=arguments.units,
        ),
        matched=ours.rule,
        scores=scored.corpus,
        unavailable=scored.unavailable,
        diversity={},
        warnings=warnings,
    )
    columns, alone = {"caption": ours.captions}, scored.alone
    if other is not None:
        result.other, result.against = str(arguments.against), other.corpus
        columns["other caption"] = other.pairing.captions
        alone = alone | {f"other {name}": scores for name, scores in other.alone.items()}
    _add_bootstrap(result, arguments, scored, other)
    _add_diversity(result, arguments, scored, other, targets)
    if arguments.baselines:
        _add_baselines(result, arguments, scored.words, targets)

    for warning in result.warnings:
        console.print(one_line(f"warning: {warning}"), style="yellow", soft_wrap=True)
    _print(result, as_json=arguments.json)
    if arguments.per_image is not None:
        write_per_image(arguments.per_image, ours.names, columns, alone)
        console.print(f"wrote {arguments.per_image}", soft_wrap=True)
    if (page := _page(arguments)) is not None:
        _write_report(page, arguments, result, scored, other, pictures)
        console.print(f"wrote {page}", soft_wrap=True)
    return 0


def _check(arguments: ScoreArguments) -> None:
    """Refuse faulty options, and options without effect, before the work starts."""
    from jaxcap.scoring.per_image import check_writable

    if arguments.java and arguments.units != "words":
        raise InputError(
            f"--java: METEOR and SPICE score English words only; leave out --java or --units "
            f"{arguments.units}."
        )
    if arguments.seed < 0:
        raise InputError(f"--seed is {arguments.seed}; it must be at least 0.")
    if arguments.per_image is not None:
        check_writable(arguments.per_image, "--per-image")
    if (page := _page(arguments)) is not None:
        check_writable(page, "--report", (".html", ".htm"))
    _check_inputs_stay(arguments)
    if page is not None:
        from jaxcap.report.assets import check_page

        check_page(page, "--report")
    if arguments.train is None and (arguments.train_split or arguments.train_list):
        raise InputError("--train-split and --train-list select a part of --train; give --train.")


def _check_inputs_stay(arguments: ScoreArguments) -> None:
    """Refuse to write over a file that is read."""
    for option, target in (("--per-image", arguments.per_image), ("--report", _page(arguments))):
        for name in ("predictions", "references", "against", "image_list", "train", "train_list"):
            path = getattr(arguments, name)
            if target is not None and path is not None and same_file(path, target):
                raise InputError(
                    f"{option} {target}: this would replace the {name.replace('_', ' ')}; give "
                    "another file."
                )


def _page(arguments: ScoreArguments) -> Path | None:
    """Return the file of the page, if there is one to write."""
    wanted = arguments.images is not None or arguments.report is not None
    return arguments.report or (_REPORT if wanted else None)


def _read(arguments: ScoreArguments) -> tuple[Pairing, Pairing | None, list[str]]:
    """Read the captions of one or two models with their references; also return warnings."""
    from jaxcap.caption_files.reading import read_captions
    from jaxcap.datasets.caption_file import read_references
    from jaxcap.scoring import inputs, pitfalls
    from jaxcap.scoring.pairing import Allowed, check_roles, common, pair

    predictions = read_captions(arguments.predictions)
    references = read_references(arguments.references, arguments.data_dir)
    # Check for swapped files before asking for a split, which only real references have.
    check_roles(predictions, references)
    references, warnings = inputs.references_of(
        references, split=arguments.split, image_list=arguments.image_list
    )
    allowed = Allowed(missing=arguments.allow_missing, duplicates=arguments.allow_duplicates)
    ours, theirs = pair(predictions, references, allowed=allowed), None
    if arguments.against is not None:
        theirs = pair(read_captions(arguments.against), references, allowed=allowed)
        ours, theirs = common(ours, theirs)
        if not ours.names:
            raise InputError(
                f"{arguments.predictions} and {arguments.against} have no image in common."
            )
    for pairing, path in ((ours, arguments.predictions), (theirs, arguments.against)):
        if pairing is not None:
            warnings += [*pairing.warnings, *pitfalls.of_captions(pairing.captions, str(path))]
    warnings += pitfalls.of_references(
        ours.references, str(arguments.references), tokenised=references.tokenised
    )
    if arguments.units == "words":
        warnings += pitfalls.of_letters([*ours.captions, *itertools.chain(*ours.references)])
    return ours, theirs, warnings


def _score(
    pairing: Pairing, targets: Sequence[Sequence[Sequence[str]]], arguments: ScoreArguments
) -> _Scored:
    import numpy as np

    from jaxcap.metrics import Measured, java_scores, splitter
    from jaxcap.scoring.statistics import collect

    words = list(map(splitter(arguments.units), pairing.captions))
    statistics = collect(words, targets)
    corpus, alone = statistics.corpus(), statistics.per_image()
    reason = "with --java" if arguments.units == "words" else "for English words only"
    unavailable = dict.fromkeys(("METEOR", "SPICE"), reason)
    if arguments.java:
        captions = dict(enumerate(pairing.captions))
        found = java_scores(captions, dict(enumerate(pairing.references)))
        unavailable = {}
        for name, each in found.items():
            if isinstance(each, Measured):
                corpus[name] = each.corpus
                alone[name] = np.array([each.per_image[i] for i in captions])
            else:
                unavailable[name] = each.reason
    return _Scored(pairing, words, statistics, corpus, alone, unavailable)


def _add_bootstrap(
    result: Result, arguments: ScoreArguments, scored: _Scored, other: _Scored | None
) -> None:
    from jaxcap.scoring import bootstrap

    if not arguments.bootstrap and other is None:
        return
    draws = {"number": arguments.resamples, "seed": arguments.seed}
    result.intervals = bootstrap.intervals(scored.statistics, **draws)
    result.protocol |= {
        "resamples": arguments.resamples,
        "seed": arguments.seed,
        "interval": "percentiles 2.5 and 97.5 over images drawn with replacement",
        "document frequencies": "held at those of all images",
    }
    if other is not None:
        result.comparison = bootstrap.compare(scored.statistics, other.statistics, **draws)


def _add_diversity(
    result: Result,
    arguments: ScoreArguments,
    scored: _Scored,
    other: _Scored | None,
    targets: Sequence[Sequence[Sequence[str]]],
) -> None:
    from jaxcap.datasets.caption_file import read_references
    from jaxcap.scoring import diversity, inputs

    training = None
    if arguments.train is not None:
        training = inputs.training_captions(
            read_references(arguments.train, arguments.data_dir),
            split=arguments.train_split,
            image_list=arguments.train_list,
            references=arguments.references,
            units=arguments.units,
        )
    result.diversity[THESE] = diversity.measure(scored.words, training)
    if other is not None:
        result.diversity[OTHERS] = diversity.measure(other.words, training)
    result.diversity[f"{PEOPLE}, one each"] = diversity.measure([r[0] for r in targets], training)


def _add_baselines(
    result: Result,
    arguments: ScoreArguments,
    words: Sequence[Sequence[str]],
    targets: Sequence[Sequence[Sequence[str]]],
) -> None:
    from jaxcap.metrics import joined
    from jaxcap.scoring.baselines import best_constant, people

    if max(len(each) for each in targets) > 1:
        found = people(words, targets)
        low, high = min(map(len, targets)), max(map(len, targets))
        fewer = str(high - 1) if low == high else "one fewer"
        result.baselines = {
            f"{PEOPLE}, against {fewer}": found.people,
            f"{THESE}, against {fewer}": found.captions,
        }
        result.protocol["people"] = {"images": found.images, "references": fewer}
    else:
        result.warnings.append("people cannot be scored: every image has only one reference")
    for metric in ("CIDEr-D", "BLEU-4"):
        best = best_constant(targets, metric)
        result.baselines[f"best constant for {metric}"] = best.scores
        result.constants[metric] = joined(best.caption, arguments.units)


def _print(result: Result, *, as_json: bool) -> None:
    from jaxcap.scoring.score_tables import as_lines, as_object, as_tables

    if as_json:
        print_out(json.dumps(as_object(result), indent=1, ensure_ascii=False, allow_nan=False))
        return
    if not sys.stdout.isatty():
        print_out("\n".join(as_lines(result)))
        return
    out = PlainConsole()
    for table in as_tables(result):
        out.print(table)
    for name, reason in result.unavailable.items():
        out.print(f"– {name}: {reason}", soft_wrap=True)
    for metric, caption in result.constants.items():
        out.print(f"best constant for {metric}: {caption}", soft_wrap=True)
    out.print(f"images matched: {result.matched}", soft_wrap=True)
    out.print(result.signature, soft_wrap=True)


def _write_report(
    page: Path,
    arguments: ScoreArguments,
    result: Result,
    scored: _Scored,
    other: _Scored | None,
    pictures: Sequence[Path | None],
) -> None:
    from jaxcap.report import OtherCaption, OtherScores, ReportCaption, ReportRow, write_report

    pairing = scored.pairing
    title, name = arguments.predictions.stem, ""
    if arguments.against is not None:
        ours, theirs = arguments.predictions, arguments.against
        alike = ours.stem == theirs.stem
        name = str(theirs) if alike else theirs.stem
        title = f"{ours if alike else ours.stem} against {name}"

    def scores_of(scored: _Scored, i: int) -> dict[str, float]:
        return {name: float(scores[i]) for name, scores in scored.alone.items()}

    def row(i: int) -> ReportRow:
        best: Sequence[tuple[str, float | None]]
        best = pairing.n_best[i] or [(pairing.captions[i], None)]
        against = None
        if other is not None:
            against = OtherCaption(name, other.pairing.captions[i], scores_of(other, i))
        return ReportRow(
            image_id=pairing.names[i],
            image=pictures[i],
            captions=[ReportCaption(" ".join(text.split()), log_prob) for text, log_prob in best],
            references=pairing.references[i],
            scores=scores_of(scored, i),
            other=against,
        )

    facts = {"predictions": result.predictions, "references": result.references}
    if result.other is not None:
        facts["against"] = result.other
    facts |= {"images matched": result.matched} | {
        f"warning {n}": text for n, text in enumerate(result.warnings, start=1)
    }
    write_report(
        page,
        title=title,
        rows=map(row, range(len(pairing.names))),
        count=len(pairing.names),
        scores=result.scores,
        intervals={name: (each.low, each.high) for name, each in result.intervals.items()},
        against=None
        if other is None
        else OtherScores(
            result.against,
            {
                name: (each.difference, each.interval.low, each.interval.high)
                for name, each in result.comparison.items()
            },
        ),
        signature=result.signature,
        facts=facts,
        images="link" if arguments.link_images else "embed",
    )


def _pictures(
    arguments: ScoreArguments, pairing: Pairing, console: Console
) -> Sequence[Path | None]:
    """Return the file of each image; print how many are missing."""
    from jaxcap.caption_files.image_lookup import pictures_of

    if arguments.images is None:
        return [None] * len(pairing.names)
    located = pictures_of(pairing.ids, arguments.images)
    pictures = located.paths
    if located.rule:
        console.print(f"image files found by the rule {located.rule}", soft_wrap=True)
    if absent := [i for i, picture in enumerate(pictures) if picture is None]:
        where = f"of {counted(len(pictures), 'image')} in {arguments.images}"
        first = f"the first is {pairing.names[absent[0]]}{located.reason(absent[0])}"
        missing = f"no image file for {len(absent)} {where}; {first}"
        console.print(one_line(missing), soft_wrap=True)
    return pictures
