"""The data flags: parsed by `HfArgumentParser`, and refused before any work where they cannot be right."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from cached_ds.data import DataArguments


def test_parsed_from_a_command_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("{}")
    flags = ["--train_file", str(path), "--text_column", "report", "--max_target_length", "64", "--overwrite_cache"]
    (arguments,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses(flags)
    assert arguments.files() == {"train": path}
    assert (arguments.text_column, arguments.overwrite_cache, arguments.max_target_length) == ("report", True, 64)


def test_documents_are_never_cut_by_default() -> None:
    assert DataArguments(dataset_name="pysource").max_source_length is None


def test_every_flag_has_a_description() -> None:
    assert all(field.metadata["help"] for field in dataclasses.fields(DataArguments))


def test_lengths_and_samples_by_split() -> None:
    arguments = DataArguments(dataset_name="x", max_target_length=9, val_max_target_length=7, max_eval_samples=3)
    assert [arguments.target_length(split) for split in ("train", "validation", "test")] == [9, 7, 7]
    assert [arguments.max_samples(split) for split in ("train", "validation", "test")] == [None, 3, None]
    assert DataArguments(dataset_name="x", max_target_length=9).target_length("test") == 9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "dataset_name, train_file, validation_file and test_file are all missing"),
        ({"train_file": "nowhere.json"}, r"train_file='nowhere.json': there is no such file"),
        ({"dataset_config_name": "fd", "train_file": "nowhere.json"}, "dataset_config_name='fd' without dataset_name"),
        ({"dataset_name": "x", "test_file": "y.csv"}, "dataset_name='x' together with test_file='y.csv'"),
        ({"dataset_name": "x", "source_prefix": "a", "prefix_column": "b"}, "source_prefix='a' together with prefix_c"),
        (
            {"dataset_name": "x", "prefix_column": "a", "prefix_separator": "|"},
            "prefix_column='a' together with prefix_s",
        ),
        ({"dataset_name": "x", "prefix_separator": ""}, "prefix_separator='' is refused; allowed is text that ends"),
        ({"dataset_name": "x", "text_lists": "lines"}, "text_lists='lines' is refused; allowed is join or windows"),
        (
            {"dataset_name": "x", "text_lists": "windows", "prefix_separator": "|"},
            r"text_lists='windows' together with prefix_separator='\|': .* give --text_lists join, or --prefix_column",
        ),
        ({"dataset_name": "x", "text_column": "a", "summary_column": "a"}, "summary_column='a' is the text_column too"),
        ({"dataset_name": "x", "max_source_length": 0}, "max_source_length=0: must be at least 1"),
        ({"dataset_name": "x", "max_target_length": -1}, "max_target_length=-1: must be at least 1"),
        ({"dataset_name": "x", "max_train_samples": -5}, "max_train_samples=-5: must be at least 1"),
        ({"dataset_name": "x", "preprocessing_num_workers": 0}, "preprocessing_num_workers=0: must be at least 1"),
        ({"dataset_name": "x", "pad_to_multiple_of": 0}, "pad_to_multiple_of=0: must be at least 1"),
    ],
)
def test_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataArguments(**flags)


def test_unknown_extension_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("text")
    with pytest.raises(ValueError, match=r"the extension must be one of .json, .jsonl, .csv, .parquet"):
        DataArguments(train_file=str(path))
