"""Cells: measurements in fresh processes, interleaved, repeated, written down after each.

A cell is one run of a script of workers/ with its settings as JSON. Every cell gets the same threads,
cores, allocator settings and memory limit. One that runs out of memory or time, or fails, is recorded with the reason,
is not tried again in later rounds, and the benchmark goes on.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm

PR_SET_PDEATHSIG = 1  # prctl(2)
BENCHMARKS = Path(__file__).parents[1]
MEASURED = BENCHMARKS.parent / "docs" / "measured"
MMAP_THRESHOLD = 1048576  # glibc's default grows with what was freed, and peaks then depend on the order of events
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "MemoryError", "Cannot allocate memory")


@dataclass(frozen=True)
class Machine:
    """What every cell may use."""

    threads: int = 1
    cores: tuple[int, ...] = (0,)
    timeout: float = 3600.0
    memory_gib: float = 20.0

    def environment(self) -> dict[str, str]:
        """The environment of a cell."""
        threads = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        quiet = {"TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}
        own = {"MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD), "PYTHONPATH": str(BENCHMARKS)}
        return {**os.environ, **own, **threads, **quiet}

    def confine(self) -> None:
        """In the child, before Python starts: cores, memory, and the first to go if the machine runs out of memory."""
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a benchmark that is ended leaves no cell behind
        os.sched_setaffinity(0, self.cores)
        limit = int(self.memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


@dataclass(frozen=True)
class Cell:
    """One measurement of one round."""

    settings: dict[str, Any]
    round: int = 0
    script: str = "one_step.py"

    def describe(self) -> str:
        """For the progress bar."""
        ranks = f" x {self.settings['ranks']}" if "ranks" in self.settings else ""
        return f"{self.settings.get('variant', self.script)}{ranks} {self.settings['length']} round {self.round + 1}"


class Store:
    """The cells that are done, in a JSON file that is whole at any moment."""

    def __init__(self, path: Path, *, resume: bool, about: dict[str, Any]) -> None:
        """Begin anew, or go on with the cells of the file that did not fail."""
        self.path, self.about = path, about
        found = json.loads(path.read_text(encoding="utf-8"))["cells"] if resume and path.is_file() else []
        self.rows: list[dict[str, Any]] = [row for row in found if "failed" not in row["result"]]

    def find(self, cell: Cell) -> dict[str, Any] | None:
        """The result of this cell, or the failure of the same settings in an earlier round."""
        same = [row for row in self.rows if row["script"] == cell.script and row["settings"] == cell.settings]
        here = [row["result"] for row in same if row["round"] == cell.round or "failed" in row["result"]]
        return here[0] if here else None

    def add(self, cell: Cell, result: dict[str, Any]) -> None:
        """Note a result and write the file."""
        self.rows.append({"script": cell.script, "round": cell.round, "settings": cell.settings, "result": result})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".json.part")
        draft.write_text(json.dumps({**self.about, "cells": self.rows}, indent=1) + "\n", encoding="utf-8")
        draft.replace(self.path)


def run(
    cell: Cell, machine: Machine, *, show_stderr: bool = False, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The result of a cell from a fresh process; `{"failed": reason}` where there is none."""
    command = [sys.executable, str(BENCHMARKS / "workers" / cell.script), json.dumps(cell.settings)]
    pipe = None if show_stderr else subprocess.PIPE
    try:
        child = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=pipe,
            text=True,
            env={**machine.environment(), **(environment or {})},
            timeout=machine.timeout,
            preexec_fn=machine.confine,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {machine.timeout:g} s"}
    if child.returncode:
        return {"failed": _reason(child.returncode, child.stderr or "")}
    return json.loads(child.stdout.strip().splitlines()[-1])


def run_all(
    cells: Sequence[Cell],
    machine: Machine,
    store: Store,
    *,
    after_each: Callable[[list[dict[str, Any]]], None],
    run: Callable[[Cell, Machine], dict[str, Any]] = run,
) -> None:
    """Run the cells in their order, but those that `store` has; `after_each` gets all rows after every one of both."""
    with tqdm(total=len(cells), unit="cell") as bar:
        for cell in cells:
            bar.set_description(cell.describe())
            if store.find(cell) is None:
                result = run(cell, machine)
                store.add(cell, result)
                bar.write(f"{cell.describe()}: {result.get('failed') or _short(result)}", file=sys.stderr)
            after_each(store.rows)
            bar.update()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that all benchmarks share."""
    add = parser.add_argument
    add("--threads", type=int, default=1, help="threads of every cell (default: 1)")
    add("--cores", type=int, nargs="+", help="cores of every cell (default: the first `threads` of this process)")
    add("--timeout", type=float, default=3600, help="seconds per cell (default: 3600)")
    add("--memory_limit", type=float, default=20, help="GiB per cell (default: 20)")
    add("--shape", type=json.loads, default={}, help='fields of shape.Shape, as JSON: {"decoder_layers": 12}')
    add("--cached_fields", type=json.loads, default={}, help="fields of CachedConfig for every cached variant, as JSON")
    add("--output_dir", type=Path, default=MEASURED, help="where table, JSON and plot go (default: docs/measured)")
    add("--resume", action="store_true", help="keep the cells of an earlier run that had the same settings")


def machine_of(arguments: argparse.Namespace) -> Machine:
    """The machine that the flags ask for."""
    cores = arguments.cores or sorted(os.sched_getaffinity(0))[: arguments.threads]
    return Machine(arguments.threads, tuple(cores), arguments.timeout, arguments.memory_limit)


def about(machine: Machine) -> dict[str, Any]:
    """Where and with what the cells ran."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    environment = {"threads": machine.threads, "memory_limit_gib": machine.memory_gib, "mmap_threshold": MMAP_THRESHOLD}
    return {"processor": models[0] if models else platform.machine(), **versions, **environment}


def _reason(code: int, stderr: str) -> str:
    if code == -signal.SIGKILL or any(words in stderr for words in OUT_OF_MEMORY):
        return "out of memory"
    lines = stderr.strip().splitlines()
    return f"exit code {code}: {lines[-1][:200]}" if lines else f"exit code {code}"


def _short(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in result.items() if isinstance(value, float | int))
