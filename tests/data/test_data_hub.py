"""Data sets of the hub are brought into one shape; the download itself is replaced, because tests have no network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from cached_ds.data import DataArguments, load_splits
from cached_ds.data.sources import hub as hub_module
from cached_ds.data.sources.hub import HUB_LAYOUTS


class Hub:
    """Stands in for `datasets.load_dataset`: gives the rows and remembers what was asked for."""

    def __init__(self, rows: list[dict[str, Any]] | Exception, splits: tuple[str, ...] = ("train",)) -> None:
        self.rows, self.splits, self.asked = rows, splits, {}

    def __call__(self, path: str, **place: Any) -> DatasetDict:
        self.asked = {"path": path, **place}
        if isinstance(self.rows, Exception):
            raise self.rows
        return DatasetDict({split: Dataset.from_list(self.rows) for split in self.splits})


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch):
    def replace(rows: list[dict[str, Any]] | Exception, *splits: str) -> Hub:
        hub = Hub(rows, splits or ("train",))
        monkeypatch.setattr(hub_module, "load_dataset", hub)
        return hub

    return replace


SUMMARIES = {"Recap[0]": {"Recap": ["gist", "other"]}, "summary[0].text": {"summary": [{"text": "gist"}]}}


@pytest.mark.parametrize("name", sorted(HUB_LAYOUTS))
def test_known_layouts_need_no_column_flags(serve: Any, name: str) -> None:
    columns = HUB_LAYOUTS[name].columns
    text = "<s> why?</s> document" if columns.text_lists is None else ["one", "document"]
    serve([{"id": 1, columns.text: text} | SUMMARIES.get(columns.summary, {columns.summary: "gist"})])
    (row,) = load_splits(DataArguments(dataset_name=name))["train"]
    assert row["summary"] == "gist" and row["text"][-8:] in ("document", ["one", "document"])


def test_unknown_layouts_columns_are_chosen_by_name(serve: Any) -> None:
    hub = serve([{"id": "w", "c": "z", "summary": "y", "article": "x"}], "train", "dev", "test")
    splits = load_splits(DataArguments(dataset_name="some/set", dataset_config_name="v1", prefix_column="c"))
    assert hub.asked == {"path": "some/set", "name": "v1"}
    assert list(splits) == ["train", "test"]
    assert splits["test"].to_list() == [{"text": "x", "summary": "y", "prefix": "z", "id": "w"}]


def test_scripts_are_read_from_the_parquet_export(serve: Any) -> None:
    hub = serve([{"Transcript": ["a: hi", "b: ho"], "Recap": ["They met.", "They talked."]}])
    splits = load_splits(DataArguments(dataset_name="YuanPJ/summ_screen", dataset_config_name="fd"))
    assert hub.asked == {"path": "YuanPJ/summ_screen", "data_dir": "fd", "revision": "refs/convert/parquet"}
    assert splits["train"].to_list() == [{"text": "a: hi b: ho", "summary": "They met."}]


def test_qmsum_queries_become_prefixes(serve: Any) -> None:
    serve([{"src": "<s> What was decided?</s> A: hello", "tgt": "Nothing."}])
    (row,) = load_splits(DataArguments(dataset_name="rohitsaxena/qmsum"))["train"]
    assert row == {"text": "A: hello", "summary": "Nothing.", "prefix": "What was decided?"}
    serve([{"src": "no query", "tgt": "Nothing."}])
    with pytest.raises(ValueError, match=r"qmsum, train, row 1: column 'src' has no '</s>', .* begins with 'no query'"):
        load_splits(DataArguments(dataset_name="rohitsaxena/qmsum"))


def test_a_known_query_gives_way_to_the_flags(serve: Any) -> None:
    serve([{"src": "why?</s> A: hello", "tgt": "Nothing."}])
    splits = load_splits(DataArguments(dataset_name="rohitsaxena/qmsum", source_prefix="summarize: "))
    assert splits["train"].to_list() == [{"text": "why?</s> A: hello", "summary": "Nothing."}]


@pytest.mark.parametrize("cell", [{"one": "a"}, [["a"]], 3, ["a"]])
def test_what_is_no_text_is_refused(serve: Any, cell: Any) -> None:
    serve([{"text": "a", "summary": cell}])
    with pytest.raises(
        ValueError, match="some/set, train, row 1: column 'summary' must hold text, not (dict|list|int)"
    ):
        load_splits(DataArguments(dataset_name="some/set"))


def test_a_folder_that_save_to_disk_wrote_is_loaded(tmp_path: Path) -> None:
    rows = Dataset.from_list([{"text": "a", "summary": "b"}])
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"validation": rows}).save_to_disk(tmp_path / "many")
    for name, split in (("one", "train"), ("many", "validation")):
        splits = load_splits(DataArguments(dataset_name=str(tmp_path / name)))
        assert splits[split].to_list() == rows.to_list()


def test_rows_without_a_summary_are_left_out_and_counted(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    serve([{"text": "a", "summary": "b"}, {"text": "c", "summary": None}, {"text": " ", "summary": "d"}])
    with caplog.at_level(logging.WARNING):
        assert len(load_splits(DataArguments(dataset_name="some/set"))["train"]) == 1
    assert "some/set, train: left out 2 rows" in caplog.text


@pytest.mark.parametrize(
    ("flags", "splits", "message"),
    [
        ({"text_column": "body"}, ("train",), r"some/set, train: no column 'body' for the text; the columns are a, b"),
        ({}, ("dev",), r"some/set: none of the splits train, validation, test; the splits are dev"),
    ],
)
def test_refused(serve: Any, flags: dict[str, Any], splits: tuple[str, ...], message: str) -> None:
    serve([{"a": "x", "b": "y"}], *splits)
    with pytest.raises(ValueError, match=message):
        load_splits(DataArguments(dataset_name="some/set", **flags))


@pytest.mark.parametrize("error", [ConnectionError("no network"), FileNotFoundError("no set"), RuntimeError("script")])
def test_failed_download_says_what_needs_none(serve: Any, error: Exception) -> None:
    serve(error)
    with pytest.raises(ValueError, match=rf"dataset_name='some/set': {error}. The embedded data sets pysource and"):
        load_splits(DataArguments(dataset_name="some/set"))
