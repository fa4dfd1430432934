"""Local files of documents and summaries: checked from end to end, then turned into memory-mapped Arrow.

JSON Lines and CSV are read line by line and Parquet in small batches: only a few documents are in memory at a time.
Each record comes with its location, for error messages.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from datasets import Dataset, NamedSplit
from datasets.fingerprint import Hasher

from cached_ds.data.rows import Columns

_WRITER_BATCH = 16
Record = tuple[str, dict[str, Any]]
_PARQUET_BATCH = 16


def file_columns(path: Path) -> list[str]:
    """The names of a file's columns: those of its first row.

    Raises:
        ValueError: the file is empty, or `read_records` refuses it.
    """
    for _, record in read_records(path):
        return [str(name) for name in record]
    raise ValueError(f"{path}: the file is empty; it must hold at least one document")


def check_file(path: Path, columns: Columns) -> None:
    """Read the file once, from end to end.

    Raises:
        ValueError: the first row that cannot be trained on, by file, line or row, and column.
    """
    for location, record in read_records(path):
        columns.read(record, where=f"{path}, {location}")


def load_file(path: Path, columns: Columns, *, split: str) -> Dataset:
    """The checked file as an Arrow data set in the cache of `datasets`; it is made again when the file changes."""
    status = path.stat()
    identity = (str(path.resolve()), status.st_size, status.st_mtime_ns, split, dataclasses.astuple(columns))
    return Dataset.from_generator(
        _documents,
        features=columns.features(),
        gen_kwargs={"path": path, "columns": columns},
        split=NamedSplit(split),
        fingerprint=Hasher.hash(identity),
        writer_batch_size=_WRITER_BATCH,
    )


def location_of(path: Path, number: int) -> str:
    """Where the record `number`, counted from 0, is in a file: `line 3` or `row 3`."""
    return next(itertools.islice(read_records(path), number, None))[0]


def _documents(path: Path, columns: Columns) -> Iterator[dict[str, Any]]:
    for location, record in read_records(path):
        yield columns.read(record, where=f"{path}, {location}")


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
        record = json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON ({error}); a file has one JSON object per line") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a JSON {type(record).__name__}; a file has one JSON object per line")
    return record


def _read_csv(path: Path) -> Iterator[Record]:
    with _fields_of_any_length(), path.open(encoding="utf-8-sig", newline="") as lines:
        reader, start = csv.reader(lines, strict=True), 1
        names: list[str] = []
        try:
            for fields in reader:
                where, start = f"line {start}", reader.line_num + 1
                if not names:
                    names = _checked_header(fields, f"{path}, {where}")
                elif fields:
                    yield where, _row(names, fields, f"{path}, {where}")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {_undecodable_line(path)}: not UTF-8 ({error.reason})") from error
        except csv.Error as error:
            raise ValueError(f"{path}, line {start}: not valid CSV ({error})") from error


def _checked_header(names: list[str], where: str) -> list[str]:
    """The names of the columns, of which none is empty or given twice."""
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise ValueError(
                f"{where}: column {number} has no name; if it is an index, write the file without one (index=False)"
            )
        if name in names[: number - 1]:
            raise ValueError(f"{where}: two columns are called {name!r}")
    return names


def _row(names: list[str], fields: list[str], where: str) -> dict[str, str]:
    """The fields by column."""
    if len(fields) != len(names):
        raise ValueError(
            f"{where}: {len(fields)} fields, but the header names {len(names)} columns ({_listed(names)}); text with "
            "commas or line breaks needs quotes around it"
        )
    return dict(zip(names, fields, strict=True))


def _undecodable_line(path: Path) -> int:
    """The first line that is not UTF-8; decoding reads ahead, and so stops at an earlier one."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    raise AssertionError("every line is UTF-8")


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
