"""Tokenization: from text to token ids, once. Whole documents are cached as Arrow, and cut only if the flags say so."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, DatasetDict, Features, List, Value
from transformers import PreTrainedTokenizerBase

from cached_ds.data.arguments import DataArguments
from cached_ds.models.token_ids import Frame, ids_of

_BATCH = 16


def tokenize_splits(
    splits: DatasetDict, *, tokenizer: PreTrainedTokenizerBase, arguments: DataArguments
) -> DatasetDict:
    """Tokenize every split into the columns `input_ids`, `labels` and `length`.

    Documents with prefixes also get `prefix_length`, those that are lists of texts `segment_lengths`; an `id` stays.

    Args:
        splits: splits with the columns text, summary and perhaps prefix, as `load_splits` returns them.
        tokenizer: the model's tokenizer.
        arguments: lengths, prefix, number of processes and whether to use the cache.

    Raises:
        ValueError: lengths that special tokens and prefix use up.
    """
    _check_room(tokenizer, arguments)
    return DatasetDict({split: _tokenize_split(rows, split, tokenizer, arguments) for split, rows in splits.items()})


def _check_room(tokenizer: PreTrainedTokenizerBase, arguments: DataArguments) -> None:
    """Refuse lengths that special tokens and the common prefix use up, before anything is tokenized."""
    prefix = 0 if arguments.source_prefix is None else len(ids_of(tokenizer, [arguments.source_prefix])[0])
    target = Frame.of(tokenizer, target=True).size
    taken = {
        "max_source_length": Frame.of(tokenizer).size + prefix,
        "max_target_length": target,
        "val_max_target_length": target,
    }
    for name, tokens in taken.items():
        length = getattr(arguments, name)
        if length is not None and length <= tokens:
            raise ValueError(f"{name}={length}: must be more than {tokens}, which special tokens and prefix take")


def _tokenize_split(rows: Any, split: str, tokenizer: PreTrainedTokenizerBase, arguments: DataArguments) -> Dataset:
    has_prefix = arguments.source_prefix is not None or "prefix" in rows.column_names
    workers = min(arguments.preprocessing_num_workers or 1, len(rows))
    return rows.map(
        _tokenize_batch,
        batched=True,
        batch_size=_BATCH,
        writer_batch_size=_BATCH,
        remove_columns=[name for name in rows.column_names if name != "id"],
        features=_features(rows.features, has_prefix=has_prefix),
        num_proc=workers if workers > 1 else None,
        load_from_cache_file=not arguments.overwrite_cache,
        fn_kwargs={
            "tokenizer": tokenizer,
            "source_prefix": arguments.source_prefix,
            "max_source_length": arguments.max_source_length,
            "max_target_length": arguments.target_length(split),
        },
        desc=f"Tokenizing {split}",
    )


def _features(given: Features, *, has_prefix: bool) -> Features:
    ids, number = List(Value("int32")), Value("int64")
    columns = {"input_ids": ids, "labels": ids, "length": number}
    columns |= {"prefix_length": number} if has_prefix else {}
    columns |= {"segment_lengths": ids} if isinstance(given["text"], List) else {}
    return Features(columns | {name: given[name] for name in given if name == "id"})


def _tokenize_batch(
    batch: dict[str, list[Any]],
    *,
    tokenizer: PreTrainedTokenizerBase,
    source_prefix: str | None,
    max_source_length: int | None,
    max_target_length: int,
) -> dict[str, list[Any]]:
    segments = _segments(batch["text"], tokenizer)
    given = _prefixes(batch, tokenizer, source_prefix)
    prefixes = given or [[]] * len(segments)
    source, target = Frame.of(tokenizer), Frame.of(tokenizer, target=True)
    documents = [
        source.around(list(itertools.chain(*own)), prefix=prefix, max_length=max_source_length)
        for own, prefix in zip(segments, prefixes, strict=True)
    ]
    summaries = ids_of(tokenizer, batch["summary"], target=True)
    columns: dict[str, list[Any]] = {
        "input_ids": documents,
        "labels": [target.around(summary, max_length=max_target_length) for summary in summaries],
        "length": [len(document) for document in documents],
    }
    if given is not None:
        columns["prefix_length"] = [len(prefix) for prefix in prefixes]
    if isinstance(batch["text"][0], list):
        contents = [len(ids) - source.size - len(prefix) for ids, prefix in zip(documents, prefixes, strict=True)]
        columns["segment_lengths"] = [_cut_lengths(*pair) for pair in zip(segments, contents, strict=True)]
    return columns


def _segments(texts: list[str] | list[list[str]], tokenizer: PreTrainedTokenizerBase) -> list[list[list[int]]]:
    """The ids of each document, text by text."""
    parts = [[text] if isinstance(text, str) else text for text in texts]
    ids = iter(ids_of(tokenizer, list(itertools.chain(*parts))))
    return [[next(ids) for _ in own] for own in parts]


def _cut_lengths(segments: Sequence[list[int]], content: int) -> list[int]:
    """The lengths of the segments within the first `content` tokens."""
    ends = [min(end, content) for end in itertools.accumulate(map(len, segments))]
    return [end - start for start, end in itertools.pairwise([0, *ends]) if end > start]


def _prefixes(
    batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, source_prefix: str | None
) -> list[list[int]] | None:
    if source_prefix is not None:
        return ids_of(tokenizer, [source_prefix]) * len(batch["text"])
    return ids_of(tokenizer, batch["prefix"]) if "prefix" in batch else None
