"""One document on several ranks: speed-up against independent processes, bytes sent and held, the longest document.

    make document      # or: .venv/bin/python benchmarks/document.py [--lengths 16384] [--resume]

In every round, one after another and in fresh processes with a core each: one process on a document; so many
independent processes with a document each (the machine's own limit); and the ranks that share the document, under DDP
with document_parallel. A step is forward, backward, clipping and AdamW of a model half as deep as BART-base and a third
as wide, so that it ends: with more work per token the collectives would weigh less. Ratios are taken within a round.

The collectives of a step, those of DDP among them, are counted with a small model on documents of three lengths. The
longest document: of a shallow model, by one process and by ranks that share it, each with `--room`. On paper:
BART-large on 1, 8 and 64 H100 (reports/document/paper.py). Prints tables and PASS or FAIL, writes document.md,
document.json, document.png; exits with 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from harness.benchmark import Benchmark, add_trial_flags, flag_parser
from harness.machine import all_cores
from harness.runners import LocalRunner
from harness.trials import Trial
from reports.document import plots, tables
from subjects.trainers import ALONE

SCRIPT, ENGINE = "document_step.py", "ddp"
NARROW = {"width": 256, "heads": 4, "feed_forward": 1024, "encoder_layers": 3, "decoder_layers": 3}
COUNTED = {"vocabulary": 64, "width": 32, "encoder_layers": 1, "decoder_layers": 2, "heads": 2, "feed_forward": 32}
COUNTED |= {"window": 512, "target": 8}
SHALLOW = {"vocabulary": 512, "width": 128, "heads": 2, "feed_forward": 128, "encoder_layers": 1, "decoder_layers": 1}
SIZES = (16384, 65536, 262144)  # tokens of the documents whose steps are counted
ROOM, LADDER, RUNG = 256, (28, 29, 30, 31), 8192  # MiB of a rank; rungs, of so many tokens a rank


def plan(arguments: argparse.Namespace) -> list[Trial]:
    """What is only counted, then round by round what is timed, then documents that get longer with little room."""
    most = max(arguments.ranks)
    own = {"steps": 0, "length": SIZES[0], "counted": list(SIZES), "shape": COUNTED, "probe": "bytes"}
    counted = Trial(_settings(arguments, most) | own, 0, SCRIPT)
    timed = [trial for number in range(arguments.rounds) for trial in _round(arguments, number)]
    own = {"shape": SHALLOW, "probe": "longest", "room": arguments.room}
    longest = [
        Trial(_settings(arguments, ranks) | own | {"length": each * ranks * RUNG}, 0, SCRIPT)
        for ranks in (1, most)
        for each in arguments.ladder
    ]
    return [counted, *timed, *longest]


def _round(arguments: argparse.Namespace, number: int) -> list[Trial]:
    """Every length: one process, then for every number of ranks independent processes, and ranks that share."""
    found = []
    for length in arguments.lengths:
        found.append(_settings(arguments, 1) | {"length": length})
        for ranks in (ranks for ranks in arguments.ranks if ranks > 1):
            alone = {"variant": ALONE, "documents": ranks, "fields": arguments.cached_fields}
            found.append(_settings(arguments, ranks) | alone | {"length": length})
            found.append(_settings(arguments, ranks) | {"length": length})
    return [Trial(settings, number, SCRIPT) for settings in found]


def _settings(arguments: argparse.Namespace, ranks: int) -> dict[str, Any]:
    """The settings that all trials have: ranks that share one document, or one process alone."""
    common = {"steps": 1, "counted": [], "shape": arguments.shape, "probe": "time", "room": None, "fake": False}
    shared = {"document_parallel": ranks} if ranks > 1 else {}
    own = {"variant": ENGINE if ranks > 1 else ALONE, "ranks": ranks, "documents": 1}
    return common | own | {"fields": arguments.cached_fields | shared}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = flag_parser(__doc__)
    add = parser.add_argument
    add("--ranks", type=int, nargs="+", help="numbers of ranks (default: 1, 2, 4 ... while each has cores of its own)")
    add("--lengths", type=int, nargs="+", default=[16384, 131072], help="tokens of the documents (default: 16K 128K)")
    add("--rounds", type=int, default=3, help="rounds (default: 3)")
    add("--room", type=int, default=ROOM, help=f"MiB of a rank above model and optimizer, for it (default: {ROOM})")
    add(
        "--ladder",
        type=int,
        nargs="+",
        default=list(LADDER),
        help=f"lengths of the longest document, in {RUNG} tokens a rank",
    )
    add_trial_flags(parser)
    parser.set_defaults(shape=NARROW)
    arguments = parser.parse_args()
    arguments.cores = arguments.cores or all_cores()
    if arguments.ranks is None:
        most = len(arguments.cores) // arguments.threads
        arguments.ranks = [2**power for power in range(most.bit_length())]
    if max(arguments.ranks, default=0) < 2:
        parser.error("no document is shared by fewer than 2 ranks; give --ranks, or more --cores")
    return arguments


def main() -> int:
    """Measure, write, print; returns the exit code."""
    arguments = parse()
    return Benchmark(
        name="document",
        plan=plan(arguments),
        only_planned=True,  # failed trials are measured again, and their rows would come last
        table=tables.table,
        promises=tables.promises,
        plot=plots.draw,
    ).measure(arguments, run=LocalRunner().run)


if __name__ == "__main__":
    sys.exit(main())
