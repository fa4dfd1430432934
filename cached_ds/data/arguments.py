"""Data arguments: flags that say which documents to train on, named as in transformers' `run_summarization.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE_EXTENSIONS = (".json", ".jsonl", ".csv", ".parquet")
FILE_FIELDS = {"train": "train_file", "validation": "validation_file", "test": "test_file"}
SAMPLE_FIELDS = {"train": "max_train_samples", "validation": "max_eval_samples", "test": "max_predict_samples"}
_COUNTS = (
    "max_source_length",
    "max_target_length",
    "val_max_target_length",
    "max_train_samples",
    "max_eval_samples",
    "max_predict_samples",
    "preprocessing_num_workers",
    "pad_to_multiple_of",
)
TEXT_LISTS = ("join", "windows")


def flag(description: str, *, default: Any = None) -> Any:
    """A field of a dataclass that `HfArgumentParser` turns into a flag."""
    return field(default=default, metadata={"help": description})


@dataclass(kw_only=True)
class DataArguments:
    """Where documents and summaries come from and how they are cut into tokens (for `HfArgumentParser`).

    Raises:
        ValueError: no documents, settings that contradict each other, a missing file, or a count below 1.
    """

    dataset_name: str | None = flag(
        "A data set on the Hugging Face hub, or one of the embedded ones that need no download: pysource, keyfacts."
    )
    dataset_config_name: str | None = flag(
        "The configuration of the data set. pysource: 'all' or 'stdlib'. keyfacts: 'length=2048,num_facts=8', ..."
    )
    train_file: str | None = flag("Training documents: a JSON Lines (.json, .jsonl), CSV or Parquet file.")
    validation_file: str | None = flag("Validation documents: a JSON Lines (.json, .jsonl), CSV or Parquet file.")
    test_file: str | None = flag("Test documents: a JSON Lines (.json, .jsonl), CSV or Parquet file.")
    text_column: str | None = flag(
        "The column with the documents, or a path into one, such as book[0].text. Default: the one whose name says so, "
        "such as text."
    )
    summary_column: str | None = flag(
        "The column with the summaries, or a path into one, such as Recap[0]. Default: the one whose name says so, "
        "such as summary."
    )
    text_lists: str | None = flag(
        "How a document that is a list of texts is read: join (with a blank between them) or windows (each text begins "
        "a window). Default: lists are refused."
    )
    source_prefix: str | None = flag("A prefix for every document, repeated in front of every window.")
    prefix_column: str | None = flag("The column with each document's own prefix, such as a query.")
    prefix_separator: str | None = flag(
        "Where a document's prefix stands in the same column: what comes before this text, such as </s> in QMSum; a "
        "<s> at the very beginning is dropped."
    )
    keep_prefix: bool = flag(
        "Keep the states of the prefix in every window, as the published code does, and not once. Windows must not "
        "overlap.",
        default=False,
    )
    lang: str | None = flag("The language of documents and summaries, for a tokenizer of several, such as mBART's.")
    source_lang: str | None = flag("The language of the documents, where the summaries' is another.")
    target_lang: str | None = flag("The language of the summaries, where the documents' is another.")
    max_source_length: int | None = flag(
        "Cut documents to this many tokens, special tokens included. Default: documents are never cut."
    )
    max_target_length: int = flag("Cut summaries to this many tokens, special tokens included.", default=128)
    val_max_target_length: int | None = flag("The same for validation and test summaries. Default: max_target_length.")
    max_train_samples: int | None = flag("Train on the first documents only, this many.")
    max_eval_samples: int | None = flag("Evaluate on the first documents only, this many.")
    max_predict_samples: int | None = flag("Predict for the first documents only, this many.")
    preprocessing_num_workers: int | None = flag("Number of processes that tokenize. Default: the process itself.")
    overwrite_cache: bool = flag("Tokenize again even if the tokens are in the cache.", default=False)
    pad_to_multiple_of: int | None = flag("Pad batches of documents to a multiple of this many tokens.")

    @property
    def is_keyfacts(self) -> bool:
        """Whether the documents are the generated ones, whose words are whole and whose facts can be counted."""
        return self.dataset_name == "keyfacts"

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, before anything is read."""
        self._check_source()
        for name in FILE_FIELDS.values():
            _check_file(name, getattr(self, name))
        self._check_columns()
        self._check_languages()
        for name in _COUNTS:
            _check_count(name, getattr(self, name))

    def files(self) -> dict[str, Path]:
        """The local files that were given, by split."""
        given = {split: getattr(self, name) for split, name in FILE_FIELDS.items()}
        return {split: Path(path) for split, path in given.items() if path is not None}

    def max_samples(self, split: str) -> int | None:
        """The number of documents that a split is cut to; None: all of them."""
        samples: int | None = getattr(self, SAMPLE_FIELDS[split])
        return samples

    def target_length(self, split: str) -> int:
        """The number of tokens that a split's summaries are cut to."""
        if split == "train" or self.val_max_target_length is None:
            return self.max_target_length
        return self.val_max_target_length

    def _check_source(self) -> None:
        given = [name for name in FILE_FIELDS.values() if getattr(self, name) is not None]
        if self.dataset_name is None and not given:
            raise ValueError(
                "dataset_name, train_file, validation_file and test_file are all missing: "
                "name a data set or give at least one file"
            )
        if self.dataset_name is not None and given:
            raise ValueError(
                f"dataset_name={self.dataset_name!r} together with {given[0]}={getattr(self, given[0])!r}: "
                "documents come either from a data set or from files, not from both"
            )
        if self.dataset_name is None and self.dataset_config_name is not None:
            raise ValueError(
                f"dataset_config_name={self.dataset_config_name!r} without dataset_name: files have no configuration"
            )

    def languages(self) -> tuple[str | None, str | None]:
        """The language of the documents and that of the summaries, as far as they were given."""
        return self.source_lang or self.lang, self.target_lang or self.lang

    def _check_languages(self) -> None:
        if self.lang is not None and (self.source_lang or self.target_lang) is not None:
            raise ValueError(f"lang={self.lang!r} together with source_lang or target_lang: give lang, or both others")
        if (self.source_lang is None) != (self.target_lang is None):
            raise ValueError("source_lang and target_lang: give both, or lang where they are the same")

    def _check_columns(self) -> None:
        names = ("source_prefix", "prefix_column", "prefix_separator")
        prefixes = [f"{name}={value!r}" for name in names if (value := getattr(self, name)) is not None]
        if len(prefixes) > 1:
            raise ValueError(f"{' together with '.join(prefixes)}: a document has one prefix, give one of them")
        if self.prefix_separator == "":
            raise ValueError("prefix_separator='' is refused; allowed is text that ends the prefix, such as </s>")
        if self.text_lists is not None and self.text_lists not in TEXT_LISTS:
            raise ValueError(f"text_lists={self.text_lists!r} is refused; allowed is {' or '.join(TEXT_LISTS)}")
        if self.text_lists == "windows" and self.prefix_separator is not None:
            raise ValueError(
                f"text_lists='windows' together with {prefixes[0]}: the prefix is looked for in one text; give "
                "--text_lists join, or --prefix_column"
            )
        if self.text_column is not None and self.text_column == self.summary_column:
            raise ValueError(
                f"summary_column={self.summary_column!r} is the text_column too: documents and summaries need a "
                "column each"
            )


def _check_file(name: str, value: str | None) -> None:
    if value is None:
        return
    if not Path(value).is_file():
        raise ValueError(f"{name}={value!r}: there is no such file")
    if Path(value).suffix not in FILE_EXTENSIONS:
        raise ValueError(f"{name}={value!r}: the extension must be one of {', '.join(FILE_EXTENSIONS)}")


def _check_count(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{name}={value}: must be at least 1")
