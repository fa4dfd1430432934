"""Local files of documents and summaries: checked from end to end, then turned into memory-mapped Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, NamedSplit, Value
from datasets.fingerprint import Hasher

from cached_ds.data.columns import Columns
from cached_ds.data.sources.records import read_records

_WRITER_BATCH = 16


def file_columns(path: Path) -> list[str]:
    """The names of a file's columns: those of its first row."""
    for _, record in read_records(path):
        return list(record)
    raise ValueError(f"{path}: the file is empty; it must hold at least one document")


def check_file(path: Path, columns: Columns) -> None:
    """Read the file once and refuse the first row that cannot be trained on, by file, line or row, and column."""
    for place, record in read_records(path):
        for role, column in columns.roles().items():
            _check_value(record, column, role=role, where=f"{path}, {place}")


def load_file(path: Path, columns: Columns, *, split: str) -> Dataset:
    """The checked file as an Arrow data set in the cache of `datasets`, which a change of the file renews."""
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
