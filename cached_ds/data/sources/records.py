"""Local files as a stream of records, one document each, with the place of every record for error messages.

JSON Lines and CSV are read line by line and Parquet in small batches: only a few documents are in memory at a time.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

Record = tuple[str, dict[str, Any]]
_PARQUET_BATCH = 16


def read_records(path: Path) -> Iterator[Record]:
    """Yield `(place, record)` for every row of a file; the place is such as `line 3` or `row 3`, counted from 1."""
    return _READERS[path.suffix](path)


def _read_json_lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"line {number}", _parse_json(line, where=f"{path}, line {number}")


def _parse_json(line: bytes, *, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: not valid JSON ({error}); a file has one JSON object per line") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a JSON {type(record).__name__}; a file has one JSON object per line")
    return record


def _read_csv(path: Path) -> Iterator[Record]:
    with _fields_of_any_length(), path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        start = 2
        try:
            for record in reader:
                yield f"line {start}", record
                start = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, line {start}: not valid CSV in UTF-8 ({error})") from error


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Lift the csv module's limit of 128 KiB per field, which a book exceeds, and put it back afterwards."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from error
    with file:
        row = 0
        for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
            for record in batch.to_pylist():
                row += 1
                yield f"row {row}", record


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".json": _read_json_lines,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
