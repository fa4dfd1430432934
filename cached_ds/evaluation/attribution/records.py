"""Records: the attributions of many documents in a file, one a line, as `summarize` and a run write them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cached_ds.settings.config_files import read_text

RECORDS = "attribution.jsonl"
NEEDED = {"document", "tokens", "spans", "texts", "sentences"}  # by the page


def write_records(path: Path, records: Iterable[Mapping[str, Any]], *, append: bool = False) -> None:
    """Write records, in the place of what the file holds or behind it."""
    with path.open("a" if append else "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a file.

    Raises:
        ValueError: a line that is no record, or a file without any.
    """
    records = [
        _record(line, where=f"{path}, line {number}")
        for number, line in enumerate(read_text(path).split("\n"), start=1)
        if line.strip()
    ]
    if not records:
        raise ValueError(f"{path}: the file is empty")
    return records


def _record(line: str, *, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        record = None
    if not isinstance(record, dict) or not record.keys() >= NEEDED:
        raise ValueError(f"{where}: no record of where sentences come from, as --attribution writes them")
    return record
