"""The record of a run: what it was told and by which versions, in a file of its folder that outlives the command line.

`launch/train.py` writes it when training begins; the model card of an export says what stands there, and no more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD = "run.json"


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a run into its folder, at once; values that JSON does not know are written as text."""
    text = json.dumps(record, indent=2, ensure_ascii=False, default=str)
    aside = folder / f".{RECORD}"
    aside.write_text(f"{text}\n", encoding="utf-8")
    aside.replace(folder / RECORD)


def recorded_run(folder: Path) -> str | None:
    """Which run began last in a folder; None: not known."""
    is_there = (folder / RECORD).is_file()
    return read_record(folder).get("run") if is_there else None


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the run whose folder this is, or whose checkpoint; empty if there is none."""
    for place in (folder, folder.parent):
        if (place / RECORD).is_file():
            return dict(json.loads((place / RECORD).read_text(encoding="utf-8")))
    return {}
