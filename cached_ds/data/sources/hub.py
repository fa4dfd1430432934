"""Hub: data sets of the Hugging Face hub, in one shape for all; the layouts of long-document benchmarks are known.

A cell may be a list of strings (the scenes of a screenplay, the lines of a transcript): its parts are joined by line
breaks. Rows without a document or a summary are left out, because a user cannot mend them; their number is logged.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import DatasetDict, Features, LargeList, List, Value, load_dataset, load_from_disk

from cached_ds.data.arguments import FILE_FIELDS, DataArguments
from cached_ds.data.columns import Columns, choose_columns

logger = logging.getLogger(__name__)
TEXTS = ("string", "large_string", "string_view", "null")
PARQUET_EXPORT = "refs/convert/parquet"
_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class HubLayout:
    """How a data set on the hub is laid out.

    Attributes:
        columns: the columns of the document and of the summary.
        exported: whether the hub's own Parquet export is read: the data set is a script, which `datasets` no longer
            runs.
        packed_query: whether the document column reads `<s> query</s> document`; the query is the document's prefix.
    """

    columns: Columns
    exported: bool = False
    packed_query: bool = False


HUB_LAYOUTS = {
    "ccdv/govreport-summarization": HubLayout(columns=Columns(text="report", summary="summary")),
    "YuanPJ/summ_screen": HubLayout(columns=Columns(text="Transcript", summary="Recap"), exported=True),
    "rohitsaxena/qmsum": HubLayout(columns=Columns(text="src", summary="tgt"), packed_query=True),
    "rohitsaxena/MENSA": HubLayout(columns=Columns(text="scenes", summary="summary")),
    "rohitsaxena/booksum2": HubLayout(columns=Columns(text="text", summary="summary")),
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
    for role, column in columns.roles().items():
        _check_type(rows.features[column], column, f"{where}: the {role}")
    packed = layout is not None and layout.packed_query and columns.text == layout.columns.text
    packed = packed and arguments.prefix_column is None and arguments.source_prefix is None
    names = [*columns.roles(), *(["prefix"] if packed else [])]
    reduced = rows.map(
        _to_text,
        fn_kwargs={"roles": columns.roles(), "packed": packed},
        remove_columns=rows.column_names,
        features=Features({name: Value("string") for name in names}),
        writer_batch_size=_BATCH,
        desc=f"Reading {where}",
    )
    return _drop_empty(reduced, where)


def _check_type(feature: Any, column: str, where: str) -> None:
    """Refuse a column that holds anything but text, or lists of it."""
    inner = feature.feature if isinstance(feature, List | LargeList) else feature
    if not (isinstance(inner, Value) and inner.dtype in TEXTS):
        raise ValueError(f"{where}, column {column!r}, must hold text or lists of text, not {feature}")


def _to_text(row: dict[str, Any], *, roles: dict[str, str], packed: bool) -> dict[str, str]:
    texts = {role: _as_text(row[column]) for role, column in roles.items()}
    if packed:
        texts["prefix"], texts["text"] = unpack_query(texts["text"])
    return texts


def _as_text(cell: str | list[str] | None) -> str:
    if cell is None:
        return ""
    return cell if isinstance(cell, str) else "\n".join(part for part in cell if part is not None)


def unpack_query(packed: str) -> tuple[str, str]:
    """Query and document from the text `<s> query</s> document`.

    Raises:
        ValueError: the text has no `</s>`.
    """
    query, end, document = packed.partition("</s>")
    if not end:
        raise ValueError(f"expected '<s> query</s> document', found {packed[:60]!r}")
    return query.removeprefix("<s>").strip(), document.strip()


def _drop_empty(rows: Any, where: str) -> Any:
    full = rows.filter(_has_both, input_columns=["text", "summary"], batch_size=_BATCH, writer_batch_size=_BATCH)
    if len(full) < len(rows):
        logger.warning("%s: left out %d rows without a document or a summary", where, len(rows) - len(full))
    return full


def _has_both(text: str, summary: str) -> bool:
    return bool(text.strip() and summary.strip())
