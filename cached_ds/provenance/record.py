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


def recorded_reading(folder: Path) -> dict[str, Any]:
    """How the run of a folder, or of a checkpoint, reads documents: `CachedConfig.reading` and prefixes."""
    return dict(read_record(folder).get("reading", {}))


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the run whose folder this is, or whose checkpoint; empty if there is none.

    Raises:
        ValueError: a record that is not JSON; the message names the file.
    """
    places = (folder, folder.parent) if folder.name.startswith("checkpoint-") else (folder,)
    path = next((place / RECORD for place in places if (place / RECORD).is_file()), None)
    try:
        return {} if path is None else dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; it is what launch/train.py has written, or it may be taken away") from error
