"""Run the short forms of the benchmarks, and compare them with the last run on this machine.

    python benchmarks/short.py          # make bench

Only ratios and exponents are compared: they depend less on other load than times do. Each run
replaces the figures of the last one, which lie in `$XDG_CACHE_HOME/jaxcap/benchmarks`, by machine.
A benchmark that needs PyTorch is left out where PyTorch is not installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from jaxcap.files import cache_dir, write_text

HERE = Path(__file__).parent
SECONDS = 100
"""For each benchmark; what it has printed until then still counts."""

# Each command; how many cells name a row; the heading of the figure; whether it needs PyTorch.
BENCHMARKS = (
    ("growth.py --short --turns 2", 2, "exponent of time", False),
    (
        "encoders.py --arch efficientnet_lite0 resnet50 --modes forward --batch-size 4"
        " --rounds 3 --steps 1 --no-torch-compile",
        2,
        "ratio",
        True,
    ),
    (
        "search.py --vocabulary 3000 --beams 5 --images 100 --turns 2 --loop-images 2"
        " --no-torch-compile",
        2,
        "ratio",
        True,
    ),
)


def figures(output: str, name_cells: int, heading: str) -> dict[str, float]:
    """Return the figure under `heading` in each row of a Markdown table, by the row's name."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in output.splitlines()
        if line.startswith("|") and not re.fullmatch(r"[|\s-]+", line)
    ]
    if not rows:
        return {}
    heads, *others = rows
    place = heads.index(heading)
    return {
        " ".join(row[:name_cells]): float(row[place]) for row in others if len(row) == len(heads)
    }


def main() -> int:
    """Print a Markdown table; return 1 if a benchmark failed."""
    directory = cache_dir("benchmarks")
    machine = re.sub(r"\W+", "-", f"{platform.node()} {platform.processor()} {os.cpu_count()}")
    record = None if directory is None else directory / f"{machine}.json"
    last = json.loads(record.read_text()) if record is not None and record.exists() else {}
    found: dict[str, float] = {}
    failed = False
    print("| benchmark | figure | now | last | now / last |\n|---|---|---|---|---|", flush=True)
    for command, name_cells, heading, needs_torch in BENCHMARKS:
        script, *options = command.split()
        if needs_torch and importlib.util.find_spec("torch") is None:
            print(f"| {script} | needs PyTorch: pip install -e '.[parity]' | | | |", flush=True)
            continue
        try:
            done = subprocess.run(
                [sys.executable, str(HERE / script), *options],
                stdout=subprocess.PIPE,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            output, failed = done.stdout, failed or done.returncode != 0
        except subprocess.TimeoutExpired as error:
            output = error.stdout.decode() if isinstance(error.stdout, bytes) else ""
        for name, figure in figures(output, name_cells, heading).items():
            key = f"{script} {name}"
            found[key], before = figure, last.get(key)
            compared = "| |" if before is None else f"{before:.2f} | {figure / before:.2f} |"
            print(f"| {key} | {heading} | {figure:.2f} | {compared}", flush=True)
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps(last | found, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
