"""Predictions: the attribution of all summaries that a run has predicted, whatever its ranks.

Where each rank has the whole model, a rank takes every so manieth document, and all are gathered. Where ranks gather
parameters together (FSDP2, ZeRO-3), all take every document: the passes of a document depend on its sentences, and
ranks with other documents would wait for each other for ever. So the records are the same for any number of ranks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from cached_ds.data.collator import lengths_of
from cached_ds.evaluation.attribution.attribute import attribute
from cached_ds.evaluation.attribution.reading import Reading, is_sharded
from cached_ds.evaluation.dealing import by_all_ranks
from cached_ds.evaluation.metrics import decode


@torch.no_grad()
def attribute_predictions(
    model: Any,
    documents: Sequence[Mapping[str, Any]],
    predictions: np.ndarray,
    *,
    tokenizer: PreTrainedTokenizerBase,
    occlusion: bool,
) -> list[dict[str, Any]]:
    """The records of all documents, in order, on every rank.

    Args:
        model: the attached model, in evaluation mode.
        documents: tokenized, as `tokenize_splits` gives them.
        predictions: [documents, T] as `generate` gives them, padded with -100 or the pad token.
        tokenizer: decodes both.
        occlusion: as in `attribute`.
    """

    def record(number: int) -> dict[str, Any]:
        row, summary = documents[number], _unpadded(predictions[number], tokenizer)
        ids, written = (torch.as_tensor(each, device=model.device)[None] for each in (row["input_ids"], summary))
        reading = Reading.of(model, ids, **lengths_of([row]))
        found = attribute(reading, written, tokenizer=tokenizer, occlusion=occlusion)
        size = {"tokens": ids.shape[1], "windows": len(reading.windows)}
        named = {"document": f"document {number}", "summary": decode(summary[None], tokenizer)[0]}
        return named | size | dataclasses.asdict(found)

    def records(numbers: range) -> list[dict[str, Any]]:
        return [record(number) for number in numbers]

    return records(range(len(documents))) if is_sharded(model) else by_all_ranks(records, len(documents))


def _unpadded(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """A summary without what pads it; its start token may be the same, and one token follows it at least."""
    written = np.flatnonzero((ids >= 0) & (ids != tokenizer.pad_token_id))
    return ids[: max(2, written[-1] + 1 if len(written) else 0)]
