"""Write the scores of each image to a CSV or JSON lines file."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcap.caption_files.text_files import harmless
from jaxcap.files import check_target, write_text
from jaxcap.messages.errors import InputError

SUFFIXES = (".csv", ".jsonl")


def check_writable(path: Path, option: str, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raise `InputError` early if a file could not be written later."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{option} {path}: expected a file that ends in {' or '.join(suffixes)}.")
    check_target(path, option)


def write_per_image(
    path: Path,
    names: Sequence[str],
    captions: Mapping[str, Sequence[str]],
    scores: Mapping[str, np.ndarray],
) -> None:
    """Write one row per image: its id, its captions and its scores ×100.

    Args:
      path: the file; its suffix, .csv or .jsonl, decides the format.
      names: the ids of the I images.
      captions: column to a caption for each image.
      scores: column to a score for each image, `[I]`.

    Raises:
      InputError: the file cannot be written.
    """
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        texts = {column: values[i] for column, values in captions.items()}
        numbers = {column: _number(values[i]) for column, values in scores.items()}
        rows.append({"image": name} | texts | numbers)
    out = io.StringIO()
    if path.suffix.lower() == ".jsonl":
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: harmless(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows
        )
    write_text(path, out.getvalue())


def _number(value: float) -> float | None:
    """Round a score; None, an empty cell, if SPICE is nan for lack of propositions."""
    return round(float(value), 4) if math.isfinite(value) else None
