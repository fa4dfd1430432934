"""What a model learns from whole documents, against what it learns by cutting corners: quality, not speed.

    make quality       # or: .venv/bin/python benchmarks/quality.py [--data keyfacts] [--seeds 3] [--resume] ...

Each trial is one model that learns from random weights in one of the ways of subjects/learners.py: the same model, the
same documents, the same updates. `keyfacts` documents of 128 words come first and are not scored; then it goes on with
longer ones. Each of their eight facts counts, so a prefix can report no more than it holds. `pysource` are Python
source files, whose summaries are in their docstrings. Scores are percent on documents that were never trained on: the
mean over the seeds, and their range.
Prints the tables and PASS or FAIL for every promise, writes quality.md, quality.json, quality.png; exits with 1 where
a promise is broken.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from harness.benchmark import Benchmark, add_trial_flags, flag_parser
from harness.trials import Trial
from reports.quality import plots, tables
from subjects.learners import LEARNERS

WINDOW, TARGET, DROPOUT = 64, {"keyfacts": 12, "pysource": 32}, 0.1
VALUES = 8  # a fact that is guessed is right once in so many times
FACTS = f"num_facts=8,num_values={VALUES},num_fillers=16"
STAGES: dict[str, list[dict[str, Any]]] = {
    "keyfacts": [
        {"name": length, "config": f"length={length},{FACTS},num_train={updates * batch}", "updates": updates,
         "batch": batch, "every": every, "documents": documents}
        for length, updates, batch, every, documents in (
            (128, 1000, 8, 100, 50), (512, 100, 4, 25, 50), (2048, 50, 2, 25, 20), (8192, 50, 1, 25, 20)
        )
    ],
    "pysource": [
        {"name": "all", "config": "stdlib", "updates": 600, "batch": 1, "every": 100, "documents": 12},
    ],
}  # fmt: skip


def plan(arguments: argparse.Namespace) -> list[Trial]:
    """Seed by seed, every learner with every data set."""
    return [
        Trial(settings_of(data, learner, seed), seed, script="learn.py")
        for seed in range(arguments.seeds)
        for data in arguments.data
        for learner in arguments.learners
    ]


def settings_of(data: str, learner: str, seed: int) -> dict[str, Any]:
    """What the worker is told."""
    how = {"window": WINDOW, "target": TARGET[data], "dropout": DROPOUT, "stages": STAGES[data]}
    return {"variant": learner, "length": STAGES[data][-1]["name"], "data": data, "seed": seed, **how}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = flag_parser(__doc__)
    add_trial_flags(parser)
    add = parser.add_argument
    add("--data", nargs="+", choices=STAGES, default=list(STAGES), help="what to learn (default: %(default)s)")
    add("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS), help="default: all")
    add("--seeds", type=int, default=3, help="models for each learner (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Run what is missing, then report."""
    arguments = parse()
    return Benchmark(
        name="quality",
        plan=plan(arguments),
        table=tables.table,
        promises=partial(tables.promises, window=WINDOW, values=VALUES),
        plot=plots.draw,
    ).measure(arguments)


if __name__ == "__main__":
    sys.exit(main())
