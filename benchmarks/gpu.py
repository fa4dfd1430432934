"""Everything that needs a GPU, in one command of at most nine minutes.

    make gpu      # or, where torch, transformers, accelerate and pytest are: python benchmarks/gpu.py [--rehearse]

In order, each stage in a process of its own with a limit of time: the tests of a GPU; every family's gradients in
float64, float32 and bfloat16 against full backpropagation; dropout replayed; states offloaded, with real streams;
memory by length, up to the longest document that memory and time allow; steps of BART-base and BART-large in bfloat16
against every peer, as tokens per second and as a share of the device's matmul peak; generation by beams. A stage that
fails or takes too long does not stop those after it, and what it leaves of its time goes to them.

Writes every result at once into gpu.json, tables into gpu.md, a plot into gpu.png where matplotlib is installed, what
the stages say into gpu.log; prints the tables and PASS or FAIL for every promise; exits with 1 where one is broken.
`--rehearse` takes tiny sizes on the CPU: it shows that the stages run, and no figure of it means anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from harness import timetable
from harness.benchmark import Benchmark
from harness.machine import BENCHMARKS, Machine, all_cores
from harness.timetable import Stage
from harness.trials import Store
from reports import gpu_report
from reports.gpu_promises import LENGTHS, promises
from reports.results import Row
from subjects.shape import BART_LARGE

FOLDER = BENCHMARKS.parent / "gpu_results"
PATIENCE = 4
THREADS = 8  # at most, for what runs on the host
FAMILIES = ["bart", "mbart", "pegasus", "led", "t5", "mt5"]
BASE = {"target": 512}
LARGE = {**BART_LARGE, "target": 512}
TINY = {"vocabulary": 64, "width": 32, "heads": 2, "feed_forward": 64, "encoder_layers": 2, "decoder_layers": 2}
TINY |= {"window": 16, "target": 8}
TOGETHER = {"together": 32}  # windows at once for the peers that can: as cached_ds takes on a GPU
VARIANTS: dict[str, dict[str, Any]] = {
    "full": TOGETHER,
    "checkpointing": TOGETHER,
    "two_phase": TOGETHER,
    "published": {},
    "cached": {},
    "cached_auto": {"recompute": "auto"},
}
MEMORY: dict[str, dict[str, Any]] = {"cached_cpu": {"offload": "cpu"}, "cached": {}}
OFFLOADED = {"width": 512, "heads": 8, "feed_forward": 1024, "encoder_layers": 2, "decoder_layers": 2}


def plan(*, rehearse: bool) -> list[Stage]:
    """The stages, and seconds for each: 510 in all; a rehearsal is patient, on processors that others may use."""
    common = {"device": "cpu" if rehearse else "cuda", "dtype": "bfloat16", "steps": 1 if rehearse else 5}
    families = {"families": FAMILIES[:1] if rehearse else FAMILIES}
    checks = {name: {**common, **families, "check": name, "repeats": 1 if rehearse else 3} for name in CHECKS}
    checks["offload"] |= {"shape": TINY, "length": 200, "tile": 32} if rehearse else OFFLOADED_LONG
    base = common | {"model": "BART-base", "shape": TINY if rehearse else BASE}
    large = common | {"model": "BART-large", "shape": TINY if rehearse else LARGE}
    speed = {"lengths": [48, 96] if rehearse else list(LENGTHS), "grow": False, "rounds": 2, "variants": VARIANTS}
    speed["matmuls"] = [64] if rehearse else [4096, 8192, 16384]
    memory = {"lengths": [64, 128] if rehearse else [65536, 262144, 524288], "grow": not rehearse, "rounds": 1}
    memory |= {"variants": MEMORY, "matmuls": []}
    writes = {"length": 100, "beams": 4, "tokens": 4, "repeats": 1} if rehearse else GENERATION
    stages = [
        Stage("tests", "suite.py", {}, 70),
        Stage("parity", "checks.py", checks["parity"], 60),
        Stage("dropout", "checks.py", checks["dropout"], 30),
        Stage("offload", "checks.py", checks["offload"], 40),
        Stage("memory", "steps.py", base | memory, 65),
        Stage("speed, BART-base", "steps.py", base | speed, 75),
        Stage("speed, BART-large", "steps.py", large | speed, 125),
        Stage("generation", "generation.py", large | writes, 45),
    ]
    return [replace(stage, limit=PATIENCE * stage.limit) for stage in stages] if rehearse else stages


CHECKS = ("parity", "dropout", "offload")
OFFLOADED_LONG = {"shape": OFFLOADED, "length": 131072, "tile": 4096}
GENERATION = {"length": 65536, "beams": 4, "tokens": 64, "repeats": 2}


def plotter() -> Callable[[list[Row], Path], None] | None:
    """What draws the plot; None without matplotlib."""
    if find_spec("matplotlib") is None:
        return None
    from reports import gpu_plots

    return gpu_plots.draw


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output_dir", type=Path, default=FOLDER, help="where the results go (default: gpu_results)")
    add("--rehearse", action="store_true", help="tiny sizes on the CPU")
    add("--stages", nargs="+", help="only the stages whose names begin so (default: all)")
    return parser.parse_args()


def main() -> int:
    """Run the stages, write, print; returns the exit code."""
    arguments = parse()
    if not arguments.rehearse and not torch.cuda.is_available():
        print("gpu.py: torch finds no CUDA device here; --rehearse runs tiny sizes on the CPU", file=sys.stderr)
        return 2
    stages = [
        stage
        for stage in plan(rehearse=arguments.rehearse)
        if arguments.stages is None or any(map(stage.name.startswith, arguments.stages))
    ]
    threads = 1 if arguments.rehearse else min(THREADS, len(all_cores()))
    machine = Machine(threads=threads, cores=tuple(all_cores()), memory_gib=None)
    about = {**machine.describe(), "cuda": torch.version.cuda, "rehearsal": arguments.rehearse}
    store = Store(arguments.output_dir / "gpu.json", resume=False, about=about)
    benchmark = Benchmark(name="gpu", table=gpu_report.table, promises=promises, plot=plotter(), notes=gpu_report.notes)

    def write() -> None:
        benchmark.write_table(store.rows, arguments.output_dir)

    timetable.run_all(stages, machine, store, log=arguments.output_dir / "gpu.log", after_each=write)
    return benchmark.report(store.rows, arguments.output_dir)


if __name__ == "__main__":
    sys.exit(main())
