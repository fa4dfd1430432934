"""Local files of documents and summaries: checked from end to end, then turned into memory-mapped Arrow.

JSON Lines and CSV are read line by line and Parquet in small batches: only a few documents are in memory at a time.
Each record comes with its location, for error messages.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from datasets import Dataset, Features, NamedSplit, Value
from datasets.fingerprint import Hasher

from cached_ds.data.columns import Columns

_WRITER_BATCH = 16
Record = tuple[str, dict[str, Any]]
_PARQUET_BATCH = 16


def file_columns(path: Path) -> list[str]:
    """The names of a file's columns: those of its first row.

    Raises:
        ValueError: the file is empty, or `read_records` refuses it.
    """
    for _, record in read_records(path):
        return list(record)
    raise ValueError(f"{path}: the file is empty; it must hold at least one document")


def check_file(path: Path, columns: Columns) -> None:
    """Read the file once, from end to end.

    Raises:
        ValueError: the first row that cannot be trained on, by file, line or row, and column.
    """
    for location, record in read_records(path):
        for role, column in columns.roles().items():
            _check_value(record, column, role=role, where=f"{path}, {location}")


def load_file(path: Path, columns: Columns, *, split: str) -> Dataset:
    """The checked file as an Arrow data set in the cache of `datasets`; it is made again when the file changes."""
    status = path.stat()
    identity = (str(path.resolve()), status.st_size, status.st_mtime_ns, split, sorted(columns.roles().items()))
    return Dataset.from_generator(
        _documents,
        features=Features({role: Value("string") for role in columns.roles()}),
        gen_kwargs={"path": path, "roles": columns.roles()},
        split=NamedSplit(split),
        fingerprint=Hasher.hash(identity),
        writer_batch_size=_WRITER_BATCH,
    )


def _documents(path: Path, roles: Mapping[str, str]) -> Iterator[dict[str, str]]:
    for _, record in read_records(path):
        yield {role: record[column] for role, column in roles.items()}


def _check_value(record: Mapping[str, Any], column: str, *, role: str, where: str) -> None:
    if column not in record:
        raise ValueError(f"{where}: no column {column!r} for the {role}; the columns are {_listed(list(record))}")
    value = record[column]
    if not isinstance(value, str):
        raise ValueError(f"{where}: column {column!r} must hold text, not {type(value).__name__}")
    if role != "prefix" and not value.strip():
        raise ValueError(f"{where}: column {column!r} is empty; every document and every summary must have text")


def _listed(names: Sequence[object]) -> str:
    return ", ".join(str(name) for name in names)


def read_records(path: Path) -> Iterator[Record]:
    """Yield `(location, record)` for every row of a file; the location is `line 3` or `row 3`, counted from 1.

    Raises:
        ValueError: the file, or a line of it, is not valid JSON, CSV or Parquet.
    """
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
