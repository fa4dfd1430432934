"""Trials: measurements in fresh processes, interleaved, repeated, written down after each.

A trial is one run of a script of workers/ with its settings as JSON. Every trial of a benchmark gets the same machine.
One that runs out of memory or time, or fails, is recorded with the reason and not tried again in later rounds, and the
benchmark goes on.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from harness.machine import BENCHMARKS, Machine
from reports.results import Row

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "MemoryError", "Cannot allocate memory")
Result = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One measurement with given settings in one round."""

    settings: dict[str, Any]
    round: int = 0
    script: str = "one_step.py"

    def describe(self) -> str:
        """Variant, ranks, length and round, for the progress bar."""
        ranks = f" x {self.settings['ranks']}" if "ranks" in self.settings else ""
        return f"{self.settings.get('variant', self.script)}{ranks} {self.settings['length']} round {self.round + 1}"


Run = Callable[[Trial, Machine], Result]


class Store:
    """The trials that are done, in a JSON file that is whole at any moment."""

    def __init__(self, path: Path, *, resume: bool, about: dict[str, Any]) -> None:
        """Begin anew, or go on with the trials of the file that did not fail."""
        self.path, self.about = path, about
        found = json.loads(path.read_text(encoding="utf-8"))["trials"] if resume and path.is_file() else []
        self.rows: list[Row] = [row for row in found if "failed" not in row["result"]]

    def find(self, trial: Trial) -> Result | None:
        """The result of this trial, or the failure of the same settings in an earlier round."""
        same = [row for row in self.rows if row["script"] == trial.script and row["settings"] == trial.settings]
        here = [row["result"] for row in same if row["round"] == trial.round or "failed" in row["result"]]
        return here[0] if here else None

    def rows_of(self, plan: Sequence[Trial]) -> list[Row]:
        """The trials of a plan that are done, in its order."""
        found = [(trial, self.find(trial)) for trial in plan]
        return [make_row(trial, result) for trial, result in found if result is not None]

    def add(self, trial: Trial, result: Result) -> None:
        """Add a result and write the file."""
        self.rows.append(make_row(trial, result))
        write_json(self.path, {**self.about, "trials": self.rows})


def make_row(trial: Trial, result: Result) -> Row:
    """A trial and its result as they stand in the file."""
    return {"script": trial.script, "round": trial.round, "settings": trial.settings, "result": result}


def write_json(path: Path, content: dict[str, Any], *, indent: int = 1) -> None:
    """Write a file at once: whoever reads it meanwhile finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".json.part")
    draft.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")
    draft.replace(path)


def run(
    trial: Trial, machine: Machine, *, show_stderr: bool = False, environment: Mapping[str, str] | None = None
) -> Result:
    """The result of a trial from a fresh process; `{"failed": reason}` where there is none."""
    command = [sys.executable, str(BENCHMARKS / "workers" / trial.script), json.dumps(trial.settings)]
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
    plan: Sequence[Trial], machine: Machine, store: Store, *, after_each: Callable[[], None], run: Run = run
) -> None:
    """Run the trials in their order, except those that `store` has; call `after_each` after both kinds."""
    with tqdm(total=len(plan), unit="trial") as bar:
        for trial in plan:
            bar.set_description(trial.describe())
            if store.find(trial) is None:
                result = run(trial, machine)
                store.add(trial, result)
                bar.write(f"{trial.describe()}: {result.get('failed') or _numbers(result)}", file=sys.stderr)
            after_each()
            bar.update()


def _reason(code: int, stderr: str) -> str:
    """Why a process that ended with this code has no result."""
    if code == -signal.SIGKILL or any(words in stderr for words in OUT_OF_MEMORY):
        return "out of memory"
    lines = stderr.strip().splitlines()
    return f"exit code {code}: {lines[-1][:200]}" if lines else f"exit code {code}"


def _numbers(result: Result) -> str:
    """The plain numbers of a result, on one line."""
    return ", ".join(f"{name} {value:.6g}" for name, value in result.items() if isinstance(value, float | int))
