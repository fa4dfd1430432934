"""Data: from flags to batches of whole documents.

    DataArguments -> load_splits -> tokenize_splits -> WholeDocumentCollator

`pysource` and `keyfacts` are embedded data sets that need no download; `train_tokenizer` serves runs without a
pretrained model.
"""

from __future__ import annotations

from .arguments import DataArguments
from .collator import WholeDocumentCollator
from .keyfacts import KeyFactsConfig, exact_match
from .sources import load_splits
from .tokenization import tokenize_splits
from .tokenizer import train_tokenizer

__all__ = [
    "DataArguments",
    "KeyFactsConfig",
    "WholeDocumentCollator",
    "exact_match",
    "load_splits",
    "tokenize_splits",
    "train_tokenizer",
]
