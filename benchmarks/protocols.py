"""Show how deviations from the protocol change the scores of the same captions.

    python benchmarks/protocols.py runs/flickr8k/predictions-dev.json \\
        DIR/Flickr8k.token.txt --image-list DIR/Flickr_8k.devImages.txt \\
        --train-list DIR/Flickr_8k.trainImages.txt

Print BLEU-1, BLEU-4, and CIDEr-D as a Markdown table: by coco-caption's protocol, and with one
change at a time. docs/scores.md has this table.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxcap.caption_files.reading import read_captions
from jaxcap.metrics import tokenize
from jaxcap.scoring.baselines import best_constant
from jaxcap.scoring.pairing import in_list, pair
from jaxcap.scoring.statistics import Statistics, collect

RARE = 5
"""Vocabularies often omit words with fewer occurrences in the training captions."""


@dataclass(frozen=True)
class Arguments:
    """Score the same captions by the protocol and by common deviations."""

    predictions: tyro.conf.Positional[Path]
    references: tyro.conf.Positional[Path]
    """Lists of the images to score and of the training images."""
    image_list: Path
    train_list: Path


def main(arguments: Arguments) -> None:
    everything = read_captions(arguments.references)
    found = pair(read_captions(arguments.predictions), in_list(everything, arguments.image_list))
    captions = [tokenize(text) for text in found.captions]
    references = [[tokenize(text) for text in each] for each in found.references]
    training = in_list(everything, arguments.train_list)
    seen = Counter(
        w for image in training.images for text in image.captions for w in tokenize(text)
    )

    def row(name: str, scored: Statistics) -> None:
        scores = scored.corpus()
        cells = " | ".join(f"{scores[metric]:.1f}" for metric in ("BLEU-1", "BLEU-4", "CIDEr-D"))
        print(f"| {name} | {cells} |")

    print("| protocol | BLEU-1 | BLEU-4 | CIDEr-D |\n|---|---|---|---|")
    right = collect(captions, references)
    row("coco-caption's", right)
    ended = [[[*reference, "<end>"] for reference in each] for each in references]
    row("end token scored as a word", collect([[*c, "<end>"] for c in captions], ended))
    stopped = [
        [
            tokens + ["."] * raw.rstrip().endswith(".")
            for tokens, raw in zip(words, texts, strict=True)
        ]
        for words, texts in zip(references, found.references, strict=True)
    ]
    row("full stop kept, and written by the model", collect([[*c, "."] for c in captions], stopped))
    known = [
        [[word if seen[word] >= RARE else "<unk>" for word in r] for r in each]
        for each in references
    ]
    row(f"words rarer than {RARE} replaced in the references", collect(captions, known))
    split = [[text.split() for text in each] for each in found.references]
    row("split at spaces instead of tokenised", collect([c.split() for c in found.captions], split))
    most = max(len(each) for each in references)
    for count in range(most - 1, 0, -1):
        fewer = collect(captions, [each[:count] for each in references])
        row(f"{count} of {most} references", fewer)
    alone = right.per_image()["BLEU-4"].mean()
    print(f"| mean of the images' own BLEU-4 | | {alone:.1f} | |")
    for metric in ("CIDEr-D", "BLEU-4"):
        best = best_constant(references, metric)
        same = collect([best.caption] * len(references), references)
        row(f"one sentence for every image, the best for {metric}", same)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
