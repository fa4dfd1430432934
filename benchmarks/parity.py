"""The parity table: every family under every engine against full backpropagation through the whole documents.

    make parity        # or: .venv/bin/python benchmarks/parity.py [--output_dir docs/measured]

Two ranks, one with documents of 1 window and one with 37, two padded documents per batch, accumulation 3, clipping,
three steps, dropout off and on. An entry is the worst relative error of any parameter (or loss) after the three steps.
Prints the table and PASS or FAIL, writes parity.md and parity.json, exits with 1 above 1e-5.

This script borrows from tests/, as stages/checks.py does: its engines, its oracle, its tiny models and its pool of
ranks, so that the table shows the very comparison that the parity tests make. tests/ is no package, hence the change of
sys.path.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from harness.benchmark import Benchmark, flag_parser
from harness.trials import write_json
from reports.results import Promise, Row, markdown

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import engines, tiny  # noqa: E402
from helpers.rank_pool import RankPool  # noqa: E402

BOUND = 1e-5  # float32: a wrong gradient moves some weight by 1e-3
DROPOUTS = (0.0, 0.1)
NAMES = {"plain": "plain", "ddp": "DDP", "fsdp2": "FSDP2"} | {f"zero{stage}": f"ZeRO-{stage}" for stage in range(4)}
TITLES = {  # a family that is not here goes by its model type
    "bart": "BART",
    "mbart": "mBART",
    "pegasus": "PEGASUS",
    "led": "LED",
    "t5": "T5",
    "mt5": "mT5",
}


def measure() -> list[Row]:
    """A row per family and dropout, with the worst error under each engine."""
    pool, rows = RankPool(), []
    settings = list(itertools.product(tiny.FAMILIES, DROPOUTS))
    with tqdm(total=len(settings) * len(NAMES), unit="run") as bar:
        for family, dropout in settings:
            errors = {}
            for engine in NAMES:
                found = pool.run(engines.parity, timeout=300, family=family, engine=engine, dropout=dropout)
                errors[engine] = max(found)
                bar.update()
            rows.append({"title": f"{TITLES.get(family, family)}, dropout {dropout:g}", "errors": errors})
    pool.stop()
    return rows


def table(rows: list[Row]) -> str:
    """A line per family and dropout, a column per engine."""
    lines = [[row["title"], *(f"{row['errors'][name]:.1e}" for name in NAMES)] for row in rows]
    return markdown(["family", *NAMES.values()], lines)


def promises(rows: list[Row]) -> list[Promise]:
    """The bound of the worst entry."""
    worst = max(error for row in rows for error in row["errors"].values())
    return [Promise("worst relative error of a parameter or loss", worst, BOUND)]


def parse() -> argparse.Namespace:
    """Read the command line."""
    return flag_parser(__doc__).parse_args()


def main() -> int:
    """Measure, write, print; returns the exit code."""
    folder = parse().output_dir
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    rows = measure()
    errors = {row["title"]: row["errors"] for row in rows}
    content = {"torch": torch.__version__.split("+")[0], "limit": BOUND, "worst_relative_error": errors}
    write_json(folder / "parity.json", content, indent=2)
    return Benchmark(name="parity", table=table, promises=promises).report(rows, folder)


if __name__ == "__main__":
    sys.exit(main())
