"""A benchmark from its flags to its files and its exit code.

The scripts at the root of benchmarks/ differ in what they plan, tabulate, promise and draw; a `Benchmark` names that.
What is left is the same for all and stands here:

1. `flag_parser` and `add_trial_flags` read the flags.
2. `measure` runs the planned trials, those aside that NAME.json has already (`--resume`), and writes after each.
3. `report` writes NAME.md and NAME.png, prints the table and PASS or FAIL for every promise, and gives the exit code.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import trials
from harness.machine import BENCHMARKS, Machine
from harness.trials import Run, Store, Trial
from reports.results import Promise, Row

MEASURED = BENCHMARKS.parent / "docs" / "measured"
Rows = list[Row]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One script at the root of benchmarks/.

    Attributes:
        name: of the make target and of the files that are written.
        table: rows -> the Markdown tables.
        promises: rows -> the promises, each with its value.
        plot: draws rows into a file.
        notes: rows -> lines to print below the tables.
        plan: the trials, in the order in which they run.
        only_planned: rows are those of the plan, in its order; otherwise all in NAME.json, in the order of the file.
    """

    name: str
    table: Callable[[Rows], str]
    promises: Callable[[Rows], list[Promise]]
    plot: Callable[[Rows, Path], None] | None = None
    notes: Callable[[Rows], list[str]] | None = None
    plan: Sequence[Trial] = ()
    only_planned: bool = False

    def measure(self, arguments: argparse.Namespace, *, run: Run | None = None) -> int:
        """Run the trials of the plan and report; returns the exit code."""
        machine, folder = Machine.from_flags(arguments), arguments.output_dir
        store = Store(folder / f"{self.name}.json", resume=arguments.resume, about=machine.describe())

        def write() -> None:
            self.write_table(self._rows(store), folder)

        trials.run_all(self.plan, machine, store, after_each=write, run=run or trials.run)
        return self.report(self._rows(store), folder)

    def report(self, rows: Rows, folder: Path) -> int:
        """Write table and plot, print table, notes and promises; returns 1 where a promise is broken, else 0."""
        text = self.write_table(rows, folder)
        if self.plot is not None:
            self.plot(rows, folder / f"{self.name}.png")
        notes = self.notes(rows) if self.notes else []
        promises = self.promises(rows)
        print(text, *notes, *(promise.line() for promise in promises), sep="\n")
        return int(not all(promise.passed for promise in promises))

    def _rows(self, store: Store) -> Rows:
        return store.rows_of(self.plan) if self.only_planned else store.rows

    def write_table(self, rows: Rows, folder: Path) -> str:
        """Write NAME.md; returns its text."""
        folder.mkdir(parents=True, exist_ok=True)
        text = self.table(rows)
        (folder / f"{self.name}.md").write_text(text, encoding="utf-8")
        return text


def flag_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring as it stands, with the flag that all scripts have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output_dir", type=Path, default=MEASURED, help="where the results go (default: docs/measured)"
    )
    return parser


def add_trial_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all benchmarks that run trials."""
    add = parser.add_argument
    add("--threads", type=int, default=1, help="threads of every trial (default: 1)")
    add("--cores", type=int, nargs="+", help="cores of every trial (default: the first `threads` of this process)")
    add("--timeout", type=float, default=3600, help="seconds per trial (default: %(default)s)")
    add("--memory_limit", type=float, default=20, help="GiB per trial (default: 20)")
    add("--shape", type=json.loads, default={}, help='fields of shape.Shape, as JSON: {"decoder_layers": 12}')
    add("--cached_fields", type=json.loads, default={}, help="fields of CachedConfig for every cached variant, as JSON")
    add("--resume", action="store_true", help="keep the trials of an earlier run that had the same settings")
