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
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase

from cached_ds.evaluation.attribution.attribute import attribute
from cached_ds.evaluation.attribution.reading import Reading, is_sharded
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
    rank, ranks = (0, 1) if is_sharded(model) else (PartialState().process_index, PartialState().num_processes)
    own = []
    for number in range(rank, len(documents), ranks):
        row, summary = documents[number], _unpadded(predictions[number], tokenizer)
        reading = Reading.of(model, torch.tensor([row["input_ids"]], device=model.device), **_lengths(row))
        found = attribute(
            reading, torch.tensor(summary[None], device=model.device), tokenizer=tokenizer, occlusion=occlusion
        )
        size = {"tokens": len(row["input_ids"]), "windows": len(reading.windows)}
        named = {"document": f"document {number}", "summary": decode(summary[None], tokenizer)[0]}
        own.append((number, named | size | dataclasses.asdict(found)))
    gathered = gather_object(own) if ranks > 1 else own
    return [record for _, record in sorted(gathered, key=lambda pair: pair[0])]


def _lengths(row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What the model is to know of a document's prefix and segments."""
    names = {"prefix_lengths": "prefix_length", "segment_lengths": "segment_lengths"}
    return {name: torch.tensor([row[column]]) for name, column in names.items() if column in row}


def _unpadded(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """A summary without what pads it; its start token may be the same, and one token follows it at least."""
    written = np.flatnonzero((ids >= 0) & (ids != tokenizer.pad_token_id))
    return ids[: max(2, written[-1] + 1 if len(written) else 0)]
