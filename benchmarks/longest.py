"""The longest document: one full training step on 524,288 tokens, and the same step again in another way.

    make longest      # or: .venv/bin/python benchmarks/longest.py [--tokens 8192] [--parallel] [--resume]

The same weights and document in two fresh processes: window by window, and with another grouping and H and its gradient
in a memory-mapped file. The two must agree in every gradient, and each must stay within 4 GiB above model, gradients
and optimizer's states. Prints the table and PASS or FAIL, writes longest.md and longest.json; exits with 1 where a
promise is broken. `--parallel` runs both at once, each on its own cores. `--resume` keeps an earlier run only together
with the other one, since their gradients are compared and not kept.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from harness import trials
from harness.benchmark import Benchmark, add_trial_flags, flag_parser
from harness.machine import Machine, all_cores
from harness.trials import Result, Store, Trial
from reports.results import Promise, Row, markdown

TOKENS = 524288
RUNS: dict[str, dict[str, Any]] = {
    "one window per pass": {"windows_per_pass": 1, "recompute": "all"},
    "3 windows per pass, H and G on disk": {"windows_per_pass": 3, "recompute": "all", "offload": "disk"},
}
BUDGET, TOLERANCE = 4.0, 1e-5  # GiB; float32 sums of half a million tokens in another order
NEGLIGIBLE = 1e-6  # of the whole gradient: parameters whose gradient is mathematically zero (biases of keys)


def plan(arguments: argparse.Namespace) -> list[Trial]:
    """A trial per way of taking the step."""
    planned = []
    for name, fields in RUNS.items():
        settings = {"length": arguments.tokens, "run": name, "fields": fields | arguments.cached_fields}
        planned.append(Trial(settings | {"shape": arguments.shape}, script="longest_step.py"))
    return planned


def measure(arguments: argparse.Namespace) -> list[Row]:
    """The rows of both runs: those of longest.json with `--resume`, if both are there; otherwise of fresh processes."""
    machine, planned = Machine.from_flags(arguments), plan(arguments)
    store = Store(arguments.output_dir / "longest.json", resume=arguments.resume, about=machine.describe())
    if len(rows := store.rows_of(planned)) == len(planned):
        return rows
    store.rows.clear()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.safetensors" for number in range(len(planned))]
        results = run_both(planned, files, machine, parallel=arguments.parallel)
        difference = compare(results, files)
    for trial, result in zip(planned, results, strict=True):
        store.add(trial, result | difference)
    return store.rows


def run_both(planned: list[Trial], files: list[Path], machine: Machine, *, parallel: bool) -> list[Result]:
    """The results of both runs, which leave their gradients in `files`."""

    def run_one(number: int) -> Result:
        trial = replace(planned[number], settings=planned[number].settings | {"gradients": str(files[number])})
        return trials.run(trial, machine.share(number) if parallel else machine, show_stderr=True)

    with ThreadPoolExecutor(2 if parallel else 1) as pool:
        return list(pool.map(run_one, range(len(planned))))


def compare(results: list[Result], files: list[Path]) -> Result:
    """The worst relative difference of a gradient between the runs, and the parameter's name; None if one failed."""
    if any("failed" in result for result in results):
        return {"worst_difference": None, "worst_parameter": None}
    error, name = worst_error(*files)
    return {"worst_difference": error, "worst_parameter": name}


def worst_error(first: Path, second: Path) -> tuple[float, str]:
    """The worst relative error of a parameter's gradient, and its name; one parameter in memory at a time."""
    norms, gaps = {}, {}
    with safe_open(first, "pt") as ours, safe_open(second, "pt") as theirs:
        names = list(ours.keys())
        assert set(names) == set(theirs.keys())
        for name in names:
            gradient, other = ours.get_tensor(name).double(), theirs.get_tensor(name)
            norms[name] = gradient.norm().item()
            gaps[name] = (gradient - other).norm().item()
    whole = math.sqrt(sum(norm**2 for norm in norms.values()))
    errors = {name: gaps[name] / max(norms[name], NEGLIGIBLE * whole) for name in names}
    worst = max(names, key=lambda name: (errors[name], name))
    return errors[worst], worst


def table(rows: list[Row]) -> str:
    """A line per run, and by how much their gradients differ."""
    tokens, found = rows[0]["settings"]["length"], rows[0]["result"]
    columns = ("GiB above model, gradients, optimizer", "processor minutes", "ms/token", "loss")
    text = markdown((f"one step, {tokens:,} tokens", *columns), map(_line, rows))
    if found["worst_difference"] is None:
        return text
    error, name = found["worst_difference"], found["worst_parameter"]
    return f"{text}\nThe gradients of the two runs differ by at most {error:.1e} of a parameter's (`{name}`).\n"


def _line(row: Row) -> list[str]:
    settings, result = row["settings"], row["result"]
    if "failed" in result:
        return [settings["run"], result["failed"], "–", "–", "–"]
    peak, seconds = result["peak_bytes"] / 2**30, result["cpu_seconds"]
    shown = [f"{peak:.2f}", f"{seconds / 60:.1f}", f"{1000 * seconds / settings['length']:.2f}"]
    return [settings["run"], *shown, f"{result['loss']:.6f}"]


def promises(rows: list[Row]) -> list[Promise]:
    """Bounds of both peaks and of the difference of the gradients; a run that failed breaks them."""
    found = []
    for row in rows:
        peak = row["result"].get("peak_bytes", math.inf) / 2**30
        found.append(Promise(f"{row['settings']['run']}: GiB above model, gradients, optimizer", peak, BUDGET))
    error = rows[0]["result"]["worst_difference"]
    what = "worst relative difference of a gradient between the two runs"
    return [*found, Promise(what, math.inf if error is None else error, TOLERANCE)]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = flag_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"length of the document (default: {TOKENS})")
    parser.add_argument("--parallel", action="store_true", help="both runs at once, each on its own cores")
    add_trial_flags(parser)
    parser.set_defaults(timeout=4 * 3600)
    arguments = parser.parse_args()
    if arguments.parallel:
        arguments.cores = arguments.cores or all_cores()
    return arguments


def main() -> int:
    """Measure, write, print; returns the exit code."""
    arguments = parse()
    return Benchmark(name="longest", table=table, promises=promises).report(measure(arguments), arguments.output_dir)


if __name__ == "__main__":
    sys.exit(main())
