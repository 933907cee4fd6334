"""The signature of a protocol: scores are comparable if their signatures are equal.

Modelled on sacreBLEU's (Post 2018, "A Call for Clarity in Reporting BLEU Scores",
https://aclanthology.org/W18-6319).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import jaxcap
from jaxcap.metrics import ScoringUnits
from jaxcap.scoring.pairing import count_range

TOKENIZERS = {"words": "ptb3.4.1", "characters": "graphemes.nfkc"}
"""Penn Treebank tokens of Stanford CoreNLP 3.4.1, like coco-caption; or grapheme clusters in
Unicode normal form KC, without spaces."""


def fingerprint(references: Sequence[Sequence[Sequence[str]]]) -> str:
    """Return eight hexadecimal digits of the tokenised references, regardless of ids and order."""
    images = sorted("\n".join(sorted(" ".join(tokens) for tokens in each)) for each in references)
    return hashlib.sha256("\n\n".join(images).encode(errors="replace")).hexdigest()[:8]


def signature(
    references: Sequence[Sequence[Sequence[str]]],
    *,
    metrics: Sequence[str],
    of: int | None = None,
    split: str | None = None,
    units: ScoringUnits = "words",
) -> str:
    """Return "BLEU|ROUGE-L|CIDEr-D|jaxcap:0.1.0|tok:ptb3.4.1|case:lc|punct:no|images:1000|…".

    Args:
      references: the tokenised references of the scored images.
      metrics: names of the metrics, in order.
      of: the number of images with references, if not all were scored.
      split: the name of the split, if the file of the references names splits.
      units: the units into which the references were split.
    """
    images = len(references)
    low, high = count_range([[" ".join(t) for t in each] for each in references])
    names = dict.fromkeys("BLEU" if name.startswith("BLEU-") else name for name in metrics)
    fields = {
        "jaxcap": jaxcap.__version__,
        "tok": TOKENIZERS[units],
        "case": "lc",
        "punct": "no",
        "split": split,
        "images": f"{images}of{of}" if of is not None and of != images else str(images),
        "refs": str(low) if low == high else f"{low}-{high}",
        "df": f"references({images})",
        "text": fingerprint(references),
    }
    return "|".join([*names, *(f"{k}:{v}" for k, v in fields.items() if v is not None)])
