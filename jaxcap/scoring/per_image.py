"""A file with the scores of every image, to sort and to search."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcap.errors import InputError
from jaxcap.files import write_text

SUFFIXES = (".csv", ".jsonl")


def check_writable(path: Path, option: str, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raises `InputError` before any work is done for a file that could not be written."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{option} {path}: expected a file that ends in {' or '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}.")
    if path.is_dir():
        raise InputError(f"{option} {path}: this is a folder; expected a file.")


def write_per_image(
    path: Path,
    names: Sequence[str],
    captions: Mapping[str, Sequence[str]],
    scores: Mapping[str, np.ndarray],
) -> None:
    """Writes a row for each image: its id, its captions, its scores ×100.

    Args:
      path: ends in .csv or .jsonl, which decides the format.
      captions: column to a caption for each image.
      scores: column to a score for each image, `[I]`.
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
        writer.writerows(rows)
    write_text(path, out.getvalue())


def _number(value: float) -> float | None:
    """None, an empty cell, for SPICE of captions without a proposition."""
    return round(float(value), 4) if math.isfinite(value) else None
