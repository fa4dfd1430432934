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
    """Write the record of a run into its folder; values that JSON does not know are written as text."""
    text = json.dumps(record, indent=2, ensure_ascii=False, default=str)
    (folder / RECORD).write_text(f"{text}\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the run whose folder this is, or whose checkpoint; empty if there is none."""
    for place in (folder, folder.parent):
        if (place / RECORD).is_file():
            return dict(json.loads((place / RECORD).read_text(encoding="utf-8")))
    return {}
