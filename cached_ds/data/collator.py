"""Collator: batches of whole documents, padded to the longest of the batch.

B documents, L source length, T target length, S segments: `input_ids` and `attention_mask` [B, L], `labels` and
`decoder_input_ids` [B, T], `prefix_lengths` [B], `segment_lengths` [B, S]. Documents are padded on the tokenizer's
side, summaries always on the right, where the decoder's shifted inputs need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol

import torch
from torch import LongTensor, Tensor
from transformers import PreTrainedTokenizerBase

IGNORED_LABEL = -100


class ShiftsLabels(Protocol):
    """A model that makes decoder inputs from labels, as the encoder-decoders of transformers do."""

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Shift the labels to the right, behind the decoder's start token."""
        ...


@dataclass
class WholeDocumentCollator:
    """Makes batches of the rows that `tokenize_splits` returns.

    Attributes:
        tokenizer: says which id pads, and on which side.
        model: if given, makes the `decoder_input_ids` from the labels.
        pad_to_multiple_of: documents are padded to a multiple of this many tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    _: KW_ONLY
    model: ShiftsLabels | None = None
    pad_to_multiple_of: int | None = None

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Make one batch: tensors by name, documents and summaries each padded to the longest."""
        documents = [feature["input_ids"] for feature in features]
        batch = {
            "input_ids": self._pad_documents(documents, value=self.tokenizer.pad_token_id),
            "attention_mask": self._pad_documents([[1] * len(document) for document in documents], value=0),
            "labels": pad([feature["labels"] for feature in features], value=IGNORED_LABEL),
        }
        batch |= lengths_of(features)
        if self.model is not None:
            batch["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        return batch

    def _pad_documents(self, rows: Sequence[Sequence[int]], *, value: int) -> Tensor:
        return pad(rows, value=value, side=self.tokenizer.padding_side, multiple=self.pad_to_multiple_of or 1)


def lengths_of(features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """`prefix_lengths` [B] and `segment_lengths` [B, S] of documents that have them."""
    found: dict[str, Tensor] = {}
    if "prefix_length" in features[0]:
        found["prefix_lengths"] = LongTensor([feature["prefix_length"] for feature in features])
    if "segment_lengths" in features[0]:
        found["segment_lengths"] = pad([feature["segment_lengths"] for feature in features], value=0)
    return found


def pad(rows: Sequence[Sequence[int]], *, value: int, side: str = "right", multiple: int = 1) -> Tensor:
    """Rows of ids as one tensor [rows, width], padded on one side to the longest row, rounded up to a `multiple`."""
    width = -(-max(map(len, rows)) // multiple) * multiple
    padded = torch.full((len(rows), width), value, dtype=torch.long)
    for row, ids in zip(padded, rows, strict=True):
        place = slice(0, len(ids)) if side == "right" else slice(width - len(ids), width)
        row[place] = torch.as_tensor(ids)
    return padded
