"""Kept prefixes: documents in which the prefix's states are kept in every window, not once.

The published code keeps a query's states in every window. To the encoder such a document has no prefix: its content
reads `prefix slice prefix slice ...`, each pair is a segment, and each segment fills a window:

    tokenized    <s> P P | a b c d e f g | </s>      window = 8, prefix_length = 2
    here         <s> P P a b c d  P P e f g </s>     segment_lengths = 6, 5

So states, tokens and attention mask line up one to one, as in any other document.
"""

from __future__ import annotations

import itertools
from typing import Any

from datasets import Dataset, DatasetDict, Features, List, Value

from cached_ds.models.token_ids import Frame

_BATCH = 16


def keep_prefixes(splits: DatasetDict, *, frame: Frame, window: int) -> DatasetDict:
    """Repeat each document's prefix in front of every slice of its content; windows must not overlap.

    Args:
        splits: as `tokenize_splits` returns them.
        frame: of the documents.
        window: tokens of a window, in which every prefix leaves room for content.

    Raises:
        ValueError: documents without prefixes.
    """
    return DatasetDict({split: _repeat_in(rows, split, frame, window) for split, rows in splits.items()})


def _repeat_in(rows: Any, split: str, frame: Frame, window: int) -> Dataset:
    if "prefix_length" not in rows.column_names:
        raise ValueError(
            "keep_prefix=True, but documents have no prefix; give --source_prefix, --prefix_column or "
            "--prefix_separator, or leave --keep_prefix out"
        )
    kept = {name: feature for name, feature in rows.features.items() if name != "prefix_length"}
    return rows.map(
        _repeat,
        fn_kwargs={"head": len(frame.head), "tail": len(frame.tail), "window": window},
        remove_columns=["prefix_length"],
        features=Features(kept | {"segment_lengths": List(Value("int32"))}),
        writer_batch_size=_BATCH,
        desc=f"Repeating prefixes of {split}",
    )


def _repeat(row: dict[str, Any], *, head: int, tail: int, window: int) -> dict[str, Any]:
    ids, begin = row["input_ids"], head + row["prefix_length"]
    prefix, content = ids[head:begin], ids[begin : len(ids) - tail]
    room = window - head - len(prefix) - tail
    ends = list(itertools.accumulate(row.get("segment_lengths") or [len(content)]))
    parts = [content[start:end] for start, end in itertools.pairwise([0, *ends])]
    segments = [[*prefix, *part[at : at + room]] for part in parts for at in range(0, max(len(part), 1), room)]
    ids = [*ids[:head], *itertools.chain(*segments), *ids[len(ids) - tail :]]
    return {"input_ids": ids, "length": len(ids), "segment_lengths": [len(segment) for segment in segments]}
