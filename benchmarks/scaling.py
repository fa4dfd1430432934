"""Scaling over ranks: every engine against as many independent processes at once, and its collectives and memory.

    make scaling                                                     # 1, 2, 4 ... ranks on this machine's cores
    torchrun --nproc_per_node 8 benchmarks/scaling.py --resume       # as many as the launcher starts; any launcher

A step is forward, backward, clipping and AdamW. Weak scaling: a document per rank; strong: the same `--documents` dealt
over the ranks. In every round, one after another and in fresh processes with a core each: one process alone, so many
independent processes at once (the machine's own limit), every engine, and ZeRO-2's peer, which does without cached_ds:
plain two-phase caching, its gradients reduced once by DeepSpeed's `coalesce_grad_reduction`. Ratios are medians of
ratios within one round. Collectives, bytes and memory are counted in an untimed step; past this machine in one process
with torch's fake process group ("counted, not timed"). Prints tables and PASS or FAIL, writes scaling.md, scaling.json,
scaling.png; exits with 1 where a promise is broken. Under a launcher it measures that number of ranks, rank 0 writes,
and --resume adds to the file.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from cached_ds import leaving
from harness.benchmark import Benchmark, add_trial_flags, flag_parser
from harness.machine import Machine, all_cores
from harness.runners import discover, make_runner
from harness.trials import Trial
from reports import scaling_plots, scaling_report
from subjects.shape import Shape
from subjects.trainers import ALONE, COMPARED, PEER

SCRIPT = "scaling_step.py"
SHORT = 64  # tokens of a document whose step is counted: collectives do not depend on its length
TINY = {"vocabulary": 64, "width": 32, "encoder_layers": 2, "decoder_layers": 2, "heads": 2, "feed_forward": 64}
TINY |= {"window": 16, "target": 6}
TWO_LENGTHS = [16, Shape(**TINY).length_of(windows=20)]


def plan(arguments: argparse.Namespace) -> list[Trial]:
    """All trials: what is only counted, then round by round everything that is timed."""
    engines = [variant for variant in arguments.engines if variant != PEER]
    counted = [
        *(_two_lengths(arguments, variant) for variant in engines if max(arguments.ranks) > 1),
        *(
            _counted(arguments, variant, ranks)
            for ranks in sorted({*arguments.counted, *arguments.ranks} - {1})
            for variant in engines
        ),
    ]
    return counted + [trial for number in range(arguments.rounds) for trial in _round(arguments, number)]


def _round(arguments: argparse.Namespace, number: int) -> list[Trial]:
    """Every number of ranks with a document per rank and with `--documents` in all."""
    found = [_timed(arguments, ALONE, 1, documents, number) for documents in sorted({1, arguments.documents})]
    for ranks in arguments.ranks:
        if ranks > 1:
            found.append(_timed(arguments, ALONE, ranks, ranks, number))
            for documents in sorted({ranks, arguments.documents}):
                found += [_timed(arguments, variant, ranks, documents, number) for variant in arguments.engines]
    return found


def _timed(arguments: argparse.Namespace, variant: str, ranks: int, documents: int, number: int) -> Trial:
    counted = [] if variant == ALONE else [SHORT]
    return Trial(_settings(arguments, variant, ranks) | {"documents": documents, "counted": counted}, number, SCRIPT)


def _counted(arguments: argparse.Namespace, variant: str, ranks: int) -> Trial:
    """One process that takes itself for a rank of `ranks`."""
    own = {"steps": 0, "length": SHORT, "counted": [SHORT], "fake": True}
    return Trial(_settings(arguments, variant, ranks) | own, 0, SCRIPT)


def _two_lengths(arguments: argparse.Namespace, variant: str) -> Trial:
    """A tiny model on real ranks, with a document of one window and one of twenty."""
    own = {"steps": 0, "length": max(TWO_LENGTHS), "counted": TWO_LENGTHS, "shape": TINY, "probe": "lengths"}
    return Trial(_settings(arguments, variant, max(arguments.ranks)) | own, 0, SCRIPT)


def _settings(arguments: argparse.Namespace, variant: str, ranks: int) -> dict[str, Any]:
    """The settings that all trials have, with one document per rank."""
    common = {"length": arguments.length, "steps": arguments.steps, "shape": arguments.shape}
    own = {"variant": variant, "ranks": ranks, "documents": ranks, "fake": False, "probe": "scaling"}
    return common | own | {"fields": arguments.cached_fields}


def parse(*, launched: int) -> argparse.Namespace:
    """Read the command line; `launched` is the number of ranks that a launcher started, 0 without one."""
    parser = flag_parser(__doc__)
    add = parser.add_argument
    add("--ranks", type=int, nargs="+", help="numbers of ranks (default: 1, 2, 4 ... while each has cores of its own)")
    add("--length", type=int, default=16384, help="tokens of every document (default: 16384)")
    add("--documents", type=int, help="documents per step of strong scaling (default: the largest number of ranks)")
    add("--rounds", type=int, default=3, help="rounds (default: 3)")
    add("--steps", type=int, default=1, help="timed steps per trial (default: 1)")
    engines = [*COMPARED, PEER]
    add("--engines", nargs="+", choices=engines, default=engines, help="what to compare")
    add("--counted", type=int, nargs="*", default=[8, 64, 512], help="ranks to count only (default: 8 64 512)")
    add_trial_flags(parser)
    arguments = parser.parse_args()
    try:
        set_defaults(arguments, launched=launched)
        check(arguments, launched=launched)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def set_defaults(arguments: argparse.Namespace, *, launched: int) -> None:
    """Set what was not given: cores and ranks by the machine or the launcher, documents by the ranks."""
    if arguments.cores is None:
        arguments.cores = all_cores()
    if arguments.ranks is None:
        most = len(arguments.cores) // arguments.threads
        arguments.ranks = [launched] if launched else [2**power for power in range(most.bit_length())]
    if arguments.documents is None:
        arguments.documents = max(arguments.ranks, default=0)


def check(arguments: argparse.Namespace, *, launched: int) -> None:
    """Refuse numbers of ranks that cannot be.

    Raises:
        ValueError: a launcher started another number; there are fewer cores than threads; some rank would get more
            documents than another.
    """
    ranks, documents = arguments.ranks, arguments.documents
    if launched and ranks != [launched]:
        raise ValueError(f"--ranks {ranks}: a launcher started {launched} ranks; leave the flag out")
    if not ranks:
        raise ValueError(f"--threads {arguments.threads} is more than the cores {arguments.cores}; give --ranks")
    if documents < 1 or any(documents % each for each in ranks):
        raise ValueError(f"--documents {documents} cannot be dealt evenly over --ranks {ranks}")


def main() -> int:
    """Measure, write, print; returns the exit code."""
    try:
        info = discover()
    except ValueError as error:
        print(f"scaling.py: error: {error}", file=sys.stderr)
        return 2
    arguments = parse(launched=info.world_size if info else 0)
    runner = make_runner(info, timeout=arguments.timeout)
    if runner.is_lead:
        benchmark = Benchmark(
            name="scaling",
            plan=plan(arguments),
            table=scaling_report.table,
            notes=scaling_report.failures,
            promises=scaling_report.promises,
            plot=scaling_plots.draw,
        )
        code = benchmark.measure(arguments, run=runner.run)
        runner.finish(code)
    else:
        code = runner.serve(Machine.from_flags(arguments))
    if code == 0:
        leaving.leave()  # returns where no launcher started this
    return code


if __name__ == "__main__":
    sys.exit(main())
