"""Load: from the flags to splits of documents from embedded data sets, local files or the Hugging Face hub.

Each split has the columns `text`, `summary` and, where documents have a prefix of their own, `prefix`. The rows are
memory-mapped Arrow in the cache of `datasets`. In a run of many processes the first one should go ahead
(`TrainingArguments.main_process_first`): the others then find its cache.
"""

from __future__ import annotations

from typing import Any

from datasets import DatasetDict

from cached_ds.data.arguments import DataArguments
from cached_ds.data.columns import check_same, choose_columns
from cached_ds.data.sources.hub import load_hub
from cached_ds.data.sources.keyfacts import load_keyfacts
from cached_ds.data.sources.local_files import check_file, file_columns, load_file
from cached_ds.data.sources.pysource import load_pysource

EMBEDDED = {"pysource": load_pysource, "keyfacts": load_keyfacts}


def load_splits(arguments: DataArguments) -> DatasetDict:
    """Load the splits that the flags name (of train, validation and test), each cut to its `max_..._samples`.

    Raises:
        ValueError: what the source refuses; columns named for an embedded data set.
    """
    splits = _load_all(arguments)
    return DatasetDict({split: _first(rows, arguments.max_samples(split)) for split, rows in splits.items()})


def _load_all(arguments: DataArguments) -> DatasetDict:
    if arguments.dataset_name is None:
        return _load_files(arguments)
    if arguments.dataset_name in EMBEDDED:
        _refuse_columns(arguments)
        return EMBEDDED[arguments.dataset_name](arguments.dataset_config_name)
    return load_hub(arguments)


def _load_files(arguments: DataArguments) -> DatasetDict:
    files = arguments.files()
    columns = {
        split: choose_columns(arguments, available=file_columns(path), where=str(path)) for split, path in files.items()
    }
    check_same(columns, {split: str(path) for split, path in files.items()})
    for split, path in files.items():
        check_file(path, columns[split])
    return DatasetDict({split: load_file(path, columns[split], split=split) for split, path in files.items()})


def _refuse_columns(arguments: DataArguments) -> None:
    for name in ("text_column", "summary_column", "prefix_column", "text_lists", "prefix_separator"):
        if getattr(arguments, name) is not None:
            raise ValueError(
                f"{name}={getattr(arguments, name)!r}: the embedded data set {arguments.dataset_name!r} has the "
                "columns text and summary only, which need not be named"
            )


def _first(rows: Any, count: int | None) -> Any:
    return rows if count is None else rows.select(range(min(count, len(rows))))
