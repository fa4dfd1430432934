"""The longest document: one full training step on 524,288 tokens, and the same step again in another way.

    make longest      # or: .venv/bin/python benchmarks/longest.py [--tokens 8192] [--parallel]

The same weights and document in two fresh processes: window by window, and with another grouping and H and its gradient
in a memory-mapped file. The two must agree in every gradient, and each must stay within
4 GiB above model, gradients and optimizer's states. Prints the table and PASS or FAIL, writes longest.md and
longest.json; exits with 1 where a promise is broken. `--parallel` runs both at once, each on its own cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import cells
from harness.cells import Cell, Machine
from reports.results import Limit, markdown
from safetensors import safe_open

TOKENS = 524288
RUNS: dict[str, dict[str, Any]] = {
    "one window per pass": {"windows_per_pass": 1, "recompute": "all"},
    "3 windows per pass, H and G on disk": {"windows_per_pass": 3, "recompute": "all", "offload": "disk"},
}
BUDGET, TOLERANCE = 4.0, 1e-5  # GiB; float32 sums of half a million tokens in another order
NEGLIGIBLE = 1e-6  # of the whole gradient: parameters whose gradient is mathematically zero (biases of keys)


def run_both(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """The results of both runs, which leave their gradients in `folder`."""
    machine, jobs = cells.machine_of(arguments), []
    for number, (name, fields) in enumerate(RUNS.items()):
        gradients = str(folder / f"{number}.safetensors")
        settings = {"length": arguments.tokens, "fields": fields | arguments.cached_fields, "shape": arguments.shape}
        jobs.append(
            (name, Cell(settings | {"gradients": gradients}, script="longest_step.py"), _cores(machine, number))
        )
    with ThreadPoolExecutor(2 if arguments.parallel else 1) as pool:
        found = pool.map(
            lambda job: cells.run(job[1], job[2] if arguments.parallel else machine, show_stderr=True), jobs
        )
        return dict(zip(RUNS, found, strict=True))


def _cores(machine: Machine, number: int) -> Machine:
    """The machine of one of two runs at once: its own cores."""
    first = number * machine.threads
    return dataclasses.replace(machine, cores=tuple(range(first, first + machine.threads)))


def worst_error(first: Path, second: Path) -> tuple[float, str]:
    """The worst relative error of a parameter's gradient, and its name; one tensor in memory at a time."""
    with safe_open(first, "pt") as ours, safe_open(second, "pt") as theirs:
        assert set(ours.keys()) == set(theirs.keys())
        norms = {name: ours.get_tensor(name).double().norm().item() for name in ours.keys()}  # noqa: SIM118 (no dict)
        whole = math.sqrt(sum(norm**2 for norm in norms.values()))
        gaps = {name: (ours.get_tensor(name).double() - theirs.get_tensor(name)).norm().item() for name in norms}
    return max((gap / max(norms[name], NEGLIGIBLE * whole), name) for name, gap in gaps.items())


def table(found: dict[str, dict[str, Any]], tokens: int) -> str:
    """A line per run."""
    header = (
        f"one step, {tokens:,} tokens",
        "GiB above model, gradients, optimizer",
        "processor minutes",
        "ms/token",
        "loss",
    )
    return markdown(header, [[name, *_line(result, tokens)] for name, result in found.items()])


def _line(result: dict[str, Any], tokens: int) -> list[str]:
    if "failed" in result:
        return [result["failed"], "–", "–", "–"]
    seconds = result["cpu_seconds"]
    shown = [f"{result['peak_bytes'] / 2**30:.2f}", f"{seconds / 60:.1f}", f"{1000 * seconds / tokens:.2f}"]
    return [*shown, f"{result['loss']:.6f}"]


def limits(found: dict[str, dict[str, Any]], error: float) -> list[Limit]:
    """The promises of `make longest`."""
    peaks = [
        Limit(f"{name}: GiB above model, gradients, optimizer", result.get("peak_bytes", math.inf) / 2**30, BUDGET)
        for name, result in found.items()
    ]
    return [*peaks, Limit("worst relative difference of a gradient between the two runs", error, TOLERANCE)]


def main() -> int:
    """Run, compare, print, write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"length of the document (default: {TOKENS})")
    parser.add_argument("--parallel", action="store_true", help="both runs at once, each on its own cores")
    cells.add_flags(parser)
    parser.set_defaults(timeout=4 * 3600)
    arguments = parser.parse_args()
    folder = arguments.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    store = cells.Store(folder / "longest.json", resume=False, about=cells.about(cells.machine_of(arguments)))
    with tempfile.TemporaryDirectory() as name:
        found = run_both(arguments, Path(name))
        failed = any("failed" in result for result in found.values())
        error, where = (math.inf, "") if failed else worst_error(*sorted(Path(name).iterdir()))
    text = table(found, arguments.tokens)
    if not failed:
        text += f"\nThe gradients of the two runs differ by at most {error:.1e} of a parameter's (`{where}`).\n"
    (folder / "longest.md").write_text(text, encoding="utf-8")
    for name, result in found.items():
        settings = {"length": arguments.tokens, "run": name, "fields": RUNS[name], "shape": arguments.shape}
        store.add(Cell(settings, script="longest_step.py"), result | {"worst_difference": None if failed else error})
    promises = limits(found, error)
    print(text, *(promise.line() for promise in promises), sep="\n")
    return int(not all(promise.passed for promise in promises))


if __name__ == "__main__":
    sys.exit(main())
