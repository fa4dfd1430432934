"""Data: from flags to batches of whole documents.

    DataArguments -> load_splits -> tokenize_splits -> (keep_prefixes) -> WholeDocumentCollator

`pysource` and `keyfacts` are embedded data sets that need no download; `train_tokenizer` serves runs without a
pretrained model.
"""

from __future__ import annotations

from cached_ds.settings.extras import needed_by

with needed_by(__name__):
    from cached_ds.data.arguments import DataArguments
    from cached_ds.data.collator import WholeDocumentCollator
    from cached_ds.data.kept_prefix import keep_prefixes
    from cached_ds.data.sources.keyfacts import KeyFactsConfig, exact_match
    from cached_ds.data.sources.load import load_splits
    from cached_ds.data.tokenization import tokenize_splits
    from cached_ds.data.tokenizer_training import train_tokenizer

__all__ = [
    "DataArguments",
    "KeyFactsConfig",
    "WholeDocumentCollator",
    "exact_match",
    "keep_prefixes",
    "load_splits",
    "tokenize_splits",
    "train_tokenizer",
]
