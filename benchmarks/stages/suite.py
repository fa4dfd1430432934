r"""The tests of a GPU: `pytest -m gpu` on the files that have some, without plugins that need not be installed.

PYTHONPATH=benchmarks:. python benchmarks/stages/suite.py '{"until": 9e9}'
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.rows import Rows, Settings, serve

ROOT = Path(__file__).parents[2]
OPTIONS = ["-m", "gpu", "-o", "addopts=", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-v"]


class Outcomes:
    """A plugin of pytest: counts outcomes and notes what failed."""

    def __init__(self) -> None:
        """Nothing has run."""
        self.counts: Counter[str] = Counter(passed=0, failed=0, skipped=0)
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test once: its call, or what came before or after it and did not pass."""
        if report.when == "call" or not report.passed:
            self.counts[report.outcome] += 1
            self.failed += [report.nodeid] if report.failed else []

    def pytest_collectreport(self, report: Any) -> None:
        """Count a file that cannot be read as a failure."""
        if report.failed:
            self.counts["failed"] += 1
            self.failed.append(report.nodeid)


def files() -> list[Path]:
    """The files with tests of a GPU: others may import what is not installed."""
    return [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]


def run(settings: Settings, rows: Rows) -> None:  # noqa: ARG001 (the limit of the stage is all the time it has)
    """One row: how many tests passed, failed and were skipped, and the names of those that failed."""
    outcomes = Outcomes()
    pytest.main([*OPTIONS, *map(str, files())], plugins=[outcomes])
    found = {"outcomes": outcomes.counts, "names": outcomes.failed, "has_device": torch.cuda.is_available()}
    rows.add({"tests": len(files())}, found)


if __name__ == "__main__":
    serve(run)
