"""Cells: column paths, lists of texts and prefixes in the document's column, in files and in data sets alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from cached_ds.data import DataArguments, load_splits
from cached_ds.data.cells import column_of

BOOK = {"book": [{"text": "It was a night."}], "summary": [{"text": "Night."}, {"text": "Dark."}], "id": 3}
SCENES = {"scenes": ["INT. HOUSE", " ", "EXT. ROAD", None], "summary": "They drive."}
QUERY = {"src": "<s> What was decided?</s> A: hello </s>", "tgt": "Nothing."}
READ = [
    (BOOK, {"text_column": "book[0].text", "summary_column": "summary[1].text"}, ("It was a night.", "Dark.")),
    (SCENES, {"text_lists": "join"}, ("INT. HOUSE EXT. ROAD", "They drive.")),
    (SCENES, {"text_lists": "windows"}, (["INT. HOUSE", "EXT. ROAD"], "They drive.")),
    (SCENES, {"text_column": "scenes[2]"}, ("EXT. ROAD", "They drive.")),
    (QUERY, {"prefix_separator": "</s>"}, ("A: hello </s>", "Nothing.", "What was decided?")),
    ({"text": "q|a|b", "summary": "c"}, {"prefix_separator": "|"}, ("a|b", "c", "q")),
    ({"text": ["q |", "a"], "summary": "c"}, {"prefix_separator": "|", "text_lists": "join"}, ("a", "c", "q")),
    ({"text[0]": "a", "a.b": {"c": "d"}}, {"text_column": "text[0]", "summary_column": "a.b.c"}, ("a", "d")),
]


def from_file(folder: Path, row: dict[str, Any], flags: dict[str, Any]) -> list[dict[str, Any]]:
    """What is read of a JSON Lines file."""
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return load_splits(DataArguments(train_file=str(path), **flags))["train"].to_list()


def from_disk(folder: Path, row: dict[str, Any], flags: dict[str, Any]) -> list[dict[str, Any]]:
    """What is read of a data set that `save_to_disk` wrote."""
    DatasetDict({"train": Dataset.from_list([row])}).save_to_disk(folder / "saved")
    return load_splits(DataArguments(dataset_name=str(folder / "saved"), **flags))["train"].to_list()


@pytest.mark.parametrize("source", [from_file, from_disk])
@pytest.mark.parametrize(("row", "flags", "texts"), READ, ids=[str(flags) for _, flags, _ in READ])
def test_a_row_is_read_alike_from_files_and_data_sets(tmp_path, source, row, flags, texts):
    wanted = dict(zip(("text", "summary", "prefix"), texts, strict=False))
    assert [{role: each[role] for role in each if role != "id"} for each in source(tmp_path, row, flags)] == [wanted]


@pytest.mark.parametrize("source", [from_file, from_disk])
@pytest.mark.parametrize(("name", "value"), [("id", "a7"), ("ID", 7)])
def test_a_documents_id_is_kept(tmp_path, source, name, value):
    row = {name: value, "text": "a", "summary": "b"}
    assert source(tmp_path, row, {}) == [{"text": "a", "summary": "b", "id": str(value)}]


def test_the_longest_column_is_meant():
    assert column_of("a.b[0].c", ["a", "a.b", "a.b[0].cd"]) == "a.b"
    assert column_of("a.b[x]", ["a", "a.b"]) is None


REFUSED = [
    (SCENES, {}, r"line 2: column 'scenes' holds a list; give --text_lists join or windows, or .* 'scenes\[0\]'"),
    (
        BOOK,
        {"text_column": "book[0].text"},
        r"column 'summary' must hold text, not list; .*--summary_column 'summary\[0\]'",
    ),
    (
        BOOK,
        {"text_column": "book[1].text"},
        r"line 2: column 'book\[1\].text': a list of 1 has no element \[1",
    ),
    (BOOK, {"text_column": "book[0].title"}, r"column 'book\[0\].title' needs a field .title, not the fields text"),
    (BOOK, {"text_column": "book.text"}, r"line 2: column 'book.text' needs a field .text, not list"),
    (BOOK, {"text_column": "id[0]"}, r"line 2: column 'id\[0\]' needs a list for \[0\], not int"),
    (
        BOOK,
        {"text_column": "page[0]"},
        r"rows.jsonl: no column 'page\[0\]' for the text; the columns are book, summary, id",
    ),
    (
        {"text": "a", "summary": "b"},
        {"text_lists": "join"},
        r"line 2: column 'text' holds str, no list; leave --text_lis",
    ),
    ({"text": [" "], "summary": "b"}, {"text_lists": "join"}, r"line 2: column 'text' is empty; every document must"),
    ({"text": ["a", 3], "summary": "b"}, {"text_lists": "join"}, r"line 2: column 'text\[1\]' must hold text, not int"),
    ({"text": None, "summary": "b"}, {"text_lists": "windows"}, r"line 2: column 'text' is empty; every document must"),
    (
        {"text": {"a": None}, "summary": "b"},
        {"text_column": "text.a[0]"},
        r"a list of 0 has no element \[0\]",
    ),
    ({"text": None, "summary": "b"}, {"text_column": "text.a"}, r"column 'text.a': there is nothing with a field .a"),
    (
        QUERY | {"src": "no query"},
        {"prefix_separator": "</s>"},
        r"line 2: column 'src' has no '</s>', which .* 'no query'",
    ),
    (QUERY | {"src": "q</s> "}, {"prefix_separator": "</s>"}, r"line 2: column 'src' has no text behind '</s>'"),
]


@pytest.mark.parametrize(("row", "flags", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_what_cannot_be_read_is_refused_by_line_and_column(tmp_path, row, flags, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"\n{json.dumps(row)}\n")
    with pytest.raises(ValueError, match=message):
        load_splits(DataArguments(train_file=str(path), **flags))


def test_rows_of_a_data_set_without_an_element_are_left_out(tmp_path, caplog):
    rows = [{"text": ["a"], "summary": "b"}, {"text": [], "summary": "b"}, {"text": ["a"], "summary": None}]
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(tmp_path / "saved")
    flags = {"text_column": "text[0]"}
    found = load_splits(DataArguments(dataset_name=str(tmp_path / "saved"), **flags))["train"]
    assert found.to_list() == [{"text": "a", "summary": "b"}]
    assert "train: left out 2 rows in which a text is missing" in caplog.text
