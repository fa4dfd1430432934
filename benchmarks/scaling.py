"""Scaling over ranks: every engine against as many independent processes at once, and its collectives and memory.

    make scaling                                                     # 1, 2, 4 ... ranks on this machine's cores
    torchrun --nproc_per_node 8 benchmarks/scaling.py --resume       # as many as the launcher starts; any launcher

A step is forward, backward, clipping and AdamW. Weak scaling: a document per rank; strong: the same `--documents` dealt
over the ranks. In every round, one after another and in fresh processes with a core each: one process alone, so many
independent processes at once (the machine's own limit), and every engine. Ratios are medians of ratios within one
round. Collectives, bytes and memory are counted in an untimed step; past this machine in one process with torch's fake
process group ("counted, not timed"). Prints tables and PASS or FAIL, writes scaling.md, scaling.json, scaling.png;
exits with 1 where a promise is broken. Under a launcher it measures that number of ranks, rank 0 writes, and --resume
adds to the file.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from harness import cells
from harness.cells import Cell, Machine
from harness.crew import Crew, discover, make_crew
from reports import scaling_plots
from reports.results import Row
from reports.scaling_report import failures, limits, table
from reports.scaling_results import Scaling
from subjects.engines import ALONE, ENGINES
from subjects.shape import Shape

from cached_ds import leaving

SCRIPT = "scaling_step.py"
SHORT = 64  # tokens of a document whose step is counted: collectives do not depend on its length
TINY = {"vocabulary": 64, "width": 32, "encoder_layers": 2, "decoder_layers": 2, "heads": 2, "feed_forward": 64}
TINY |= {"window": 16, "target": 6}
TWO_LENGTHS = [16, Shape(**TINY).length_of(windows=20)]


def plan(arguments: argparse.Namespace) -> list[Cell]:
    """All cells: what is only counted, then round by round everything that is timed."""
    counted = [
        *(_two_lengths(arguments, variant) for variant in arguments.engines if max(arguments.ranks) > 1),
        *(
            _counted(arguments, variant, ranks)
            for ranks in sorted({*arguments.counted, *arguments.ranks} - {1})
            for variant in arguments.engines
        ),
    ]
    return counted + [cell for number in range(arguments.rounds) for cell in _round(arguments, number)]


def _round(arguments: argparse.Namespace, number: int) -> list[Cell]:
    """Every number of ranks with a document per rank and with `--documents` in all."""
    found = [_timed(arguments, ALONE, 1, documents, number) for documents in sorted({1, arguments.documents})]
    for ranks in arguments.ranks:
        if ranks > 1:
            found.append(_timed(arguments, ALONE, ranks, ranks, number))
            for documents in sorted({ranks, arguments.documents}):
                found += [_timed(arguments, variant, ranks, documents, number) for variant in arguments.engines]
    return found


def _timed(arguments: argparse.Namespace, variant: str, ranks: int, documents: int, number: int) -> Cell:
    counted = [] if variant == ALONE else [SHORT]
    return Cell(_settings(arguments, variant, ranks) | {"documents": documents, "counted": counted}, number, SCRIPT)


def _counted(arguments: argparse.Namespace, variant: str, ranks: int) -> Cell:
    """One process that takes itself for a rank of `ranks`."""
    own = {"steps": 0, "length": SHORT, "counted": [SHORT], "fake": True}
    return Cell(_settings(arguments, variant, ranks) | own, 0, SCRIPT)


def _two_lengths(arguments: argparse.Namespace, variant: str) -> Cell:
    """A tiny model on real ranks, with a document of one window and one of twenty."""
    own = {"steps": 0, "length": max(TWO_LENGTHS), "counted": TWO_LENGTHS, "shape": TINY, "probe": "lengths"}
    return Cell(_settings(arguments, variant, max(arguments.ranks)) | own, 0, SCRIPT)


def _settings(arguments: argparse.Namespace, variant: str, ranks: int) -> dict[str, Any]:
    """What all cells have; one document per rank."""
    common = {"length": arguments.length, "steps": arguments.steps, "shape": arguments.shape}
    own = {"variant": variant, "ranks": ranks, "documents": ranks, "fake": False, "probe": "scaling"}
    return common | own | {"fields": arguments.cached_fields}


def parse(launched: int) -> argparse.Namespace:
    """The flags; `launched` is the number of ranks that a launcher started, 0 without one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ranks", type=int, nargs="+", help="numbers of ranks (default: 1, 2, 4 ... while each has cores of its own)")
    add("--length", type=int, default=16384, help="tokens of every document (default: 16384)")
    add("--documents", type=int, help="documents per step of strong scaling (default: the largest number of ranks)")
    add("--rounds", type=int, default=3, help="rounds (default: 3)")
    add("--steps", type=int, default=1, help="timed steps per cell (default: 1)")
    add("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES), help="what to compare")
    add("--counted", type=int, nargs="*", default=[8, 64, 512], help="ranks to count only (default: 8 64 512)")
    cells.add_flags(parser)
    return _checked(parser, parser.parse_args(), launched)


def _checked(parser: argparse.ArgumentParser, arguments: argparse.Namespace, launched: int) -> argparse.Namespace:
    """Defaults that depend on the machine, and what cannot be."""
    if launched and arguments.ranks not in (None, [launched]):
        parser.error(f"--ranks {arguments.ranks}: a launcher started {launched} ranks; leave the flag out")
    arguments.cores = arguments.cores or sorted(os.sched_getaffinity(0))
    room = launched or len(arguments.cores) // arguments.threads
    arguments.ranks = [launched] if launched else arguments.ranks or [2**power for power in range(room.bit_length())]
    arguments.documents = arguments.documents or max(arguments.ranks)
    if not arguments.ranks or any(arguments.documents % ranks for ranks in arguments.ranks):
        parser.error(f"--documents {arguments.documents} cannot be dealt evenly over --ranks {arguments.ranks}")
    return arguments


def main() -> int:
    """Measure, print, write; returns the exit code."""
    try:
        place = discover()
    except ValueError as error:
        print(f"scaling.py: error: {error}", file=sys.stderr)
        return 2
    arguments = parse(place.world if place else 0)
    machine, crew = cells.machine_of(arguments), make_crew(place, timeout=arguments.timeout)
    if crew.leads:
        code = lead(arguments, machine, crew)
        crew.dismiss(code)
    else:
        code = crew.serve(machine)
    if code == 0:
        leaving.leave()  # returns where no launcher started this
    return code


def lead(arguments: argparse.Namespace, machine: Machine, crew: Crew) -> int:
    """What rank 0 does."""
    folder = arguments.output_dir
    store = cells.Store(folder / "scaling.json", resume=arguments.resume, about=cells.about(machine))

    def write(rows: list[Row]) -> None:
        (folder / "scaling.md").write_text(table(rows), encoding="utf-8")

    cells.run_all(plan(arguments), machine, store, after_each=write, run=crew.run)
    scaling_plots.draw(Scaling(store.rows), folder / "scaling.png")
    promises = limits(store.rows)
    print(table(store.rows), *failures(store.rows), *(promise.line() for promise in promises), sep="\n")
    return int(not all(promise.passed for promise in promises))


if __name__ == "__main__":
    sys.exit(main())
