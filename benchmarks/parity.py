"""The parity table: every family under every engine against full backpropagation through the whole documents.

    make parity        # or: .venv/bin/python benchmarks/parity.py [--output_dir docs/measured]

Two ranks, one with documents of 1 window and one with 37, two padded documents per batch, accumulation 3, clipping,
three steps, dropout off and on. A cell is the worst relative error of any parameter (or loss) after the three steps.
The oracle is the one of the tests. Prints the table, writes parity.md and parity.json, exits with 1 above 1e-5.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "docs" / "measured"
sys.path.insert(0, str(ROOT / "tests"))

from helpers import engines, tiny  # noqa: E402
from helpers.rank_pool import Ranks  # noqa: E402

LIMIT = 1e-5  # float32: a wrong gradient moves some weight by 1e-3
DROPOUTS = (0.0, 0.1)
NAMES = {"plain": "plain", "ddp": "DDP", "fsdp2": "FSDP2"} | {f"zero{stage}": f"ZeRO-{stage}" for stage in range(4)}
TITLES = {"bart": "BART", "mbart": "mBART", "pegasus": "PEGASUS", "led": "LED", "t5": "T5", "mt5": "mT5"}


def measure() -> dict[str, dict[str, float]]:
    """Worst error of every cell: row (family and dropout) -> engine -> error."""
    pool = Ranks()
    rows = [(family, dropout) for family in tiny.FAMILIES for dropout in DROPOUTS]
    table: dict[str, dict[str, float]] = {}
    with tqdm(total=len(rows) * len(NAMES), unit="cell") as bar:
        for family, dropout in rows:
            row = table.setdefault(f"{TITLES[family]}, dropout {dropout:g}", {})
            for engine in NAMES:
                errors = pool.run(engines.parity, timeout=300, family=family, engine=engine, dropout=dropout)
                row[engine] = max(errors)
                bar.update()
    pool.stop()
    return table


def as_markdown(table: dict[str, dict[str, float]]) -> str:
    """The table, a row per family and dropout."""
    lines = ["| family | " + " | ".join(NAMES.values()) + " |", "|---" * (len(NAMES) + 1) + "|"]
    lines += [f"| {row} | " + " | ".join(f"{cells[name]:.1e}" for name in NAMES) + " |" for row, cells in table.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=MEASURED,
        help="where the table goes (default: docs/measured)",
    )
    arguments = parser.parse_args()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    table = measure()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (arguments.output_dir / "parity.md").write_text(as_markdown(table), encoding="utf-8")
    report = {"torch": torch.__version__.split("+")[0], "limit": LIMIT, "worst_relative_error": table}
    (arguments.output_dir / "parity.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(as_markdown(table))
    worst = max(error for row in table.values() for error in row.values())
    print(f"worst cell: {worst:.1e} (limit {LIMIT:.0e})")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
