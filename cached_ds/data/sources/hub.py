"""Hub: data sets of the Hugging Face hub, in one shape for all; the layouts of long-document benchmarks are known.

Rows without a document, a summary or a prefix are left out, because a user cannot mend them; their number is logged.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import DatasetDict, load_dataset, load_from_disk

from cached_ds.data.arguments import FILE_FIELDS, DataArguments
from cached_ds.data.cells import NoText
from cached_ds.data.columns import choose_columns
from cached_ds.data.rows import Columns

logger = logging.getLogger(__name__)
PARQUET_EXPORT = "refs/convert/parquet"
_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class HubLayout:
    """How a data set on the hub is laid out.

    Attributes:
        columns: those of the document and of the summary, and how the document's is read.
        exported: whether the hub's own Parquet export is read: the data set is a script, which `datasets` no longer
            runs.
    """

    columns: Columns
    exported: bool = False


HUB_LAYOUTS = {
    "ccdv/govreport-summarization": HubLayout(columns=Columns(text="report", summary="summary")),
    "YuanPJ/summ_screen": HubLayout(
        columns=Columns(text="Transcript", summary="Recap[0]", text_lists="join"), exported=True
    ),
    "rohitsaxena/qmsum": HubLayout(columns=Columns(text="src", summary="tgt", prefix_separator="</s>")),
    "rohitsaxena/MENSA": HubLayout(columns=Columns(text="scenes", summary="summary", text_lists="windows")),
    "rohitsaxena/booksum2": HubLayout(columns=Columns(text="text", summary="summary")),
    "ubaada/booksum-complete-cleaned": HubLayout(columns=Columns(text="text", summary="summary[0].text")),
    "kmfoda/booksum": HubLayout(columns=Columns(text="chapter", summary="summary_text")),
    "tau/scrolls": HubLayout(columns=Columns(text="input", summary="output")),
}


def load_hub(arguments: DataArguments) -> DatasetDict:
    """Download a data set (or take it from the cache) and reduce it to text, summary and prefix.

    Raises:
        ValueError: the data set cannot be loaded, has no known split, or lacks a column.
    """
    name = str(arguments.dataset_name)
    layout = HUB_LAYOUTS.get(name)
    splits = _download(name, arguments.dataset_config_name, exported=layout is not None and layout.exported)
    known = {split: splits[split] for split in FILE_FIELDS if split in splits}
    if not known:
        raise ValueError(f"{name}: none of the splits {', '.join(FILE_FIELDS)}; the splits are {', '.join(splits)}")
    return DatasetDict({split: _reduce(rows, arguments, layout, f"{name}, {split}") for split, rows in known.items()})


def _download(name: str, config_name: str | None, *, exported: bool) -> DatasetDict:
    if any(Path(name, file).is_file() for file in ("dataset_dict.json", "state.json")):
        return _from_disk(name)
    place = {"data_dir": config_name, "revision": PARQUET_EXPORT} if exported else {"name": config_name}
    try:
        return load_dataset(name, **place)
    except (FileNotFoundError, ConnectionError, RuntimeError) as error:
        raise ValueError(
            f"dataset_name={name!r}: {error}. The embedded data sets pysource and keyfacts and local files need no "
            "download"
        ) from error


def _from_disk(folder: str) -> DatasetDict:
    """The data set in a folder that `save_to_disk` wrote; a single split is the training documents."""
    found = load_from_disk(folder)
    return found if isinstance(found, DatasetDict) else DatasetDict({"train": found})


def _reduce(rows: Any, arguments: DataArguments, layout: HubLayout | None, where: str) -> Any:
    known = layout.columns if layout else None
    columns = choose_columns(arguments, available=rows.column_names, where=where, known=known)
    read = rows.map(
        _read,
        with_indices=True,
        fn_kwargs={"columns": columns, "where": where},
        remove_columns=rows.column_names,
        features=columns.features(),
        writer_batch_size=_BATCH,
        desc=f"Reading {where}",
    )
    return _drop_empty(read, where)


def _read(row: dict[str, Any], number: int, *, columns: Columns, where: str) -> dict[str, Any]:
    """The row's texts, or nothing where one is missing."""
    try:
        return columns.read(row, where=f"{where}, row {number + 1}")
    except NoText:
        return dict.fromkeys(columns.features())


def _drop_empty(rows: Any, where: str) -> Any:
    full = rows.filter(_has_summary, input_columns=["summary"], batch_size=_BATCH, writer_batch_size=_BATCH)
    if len(full) < len(rows):
        logger.warning("%s: left out %d rows in which a text is missing", where, len(rows) - len(full))
    return full


def _has_summary(summary: str | None) -> bool:
    return summary is not None
