"""Local files in every format become the same splits; bad rows are named by file, line and column before any work."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from cached_ds.data import DataArguments, load_splits
from cached_ds.data.sources import local_files as files_module

ROWS = [{"report": f"Document {i}\nwith two lines, NA", "gist": f"Gist {i}", "query": f"Why {i}?"} for i in range(20)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix in (".json", ".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)
    return str(path)


@pytest.mark.parametrize("extension", ["json", "jsonl", "csv", "parquet"])
def test_formats_agree(tmp_path: Path, extension: str) -> None:
    splits = load_splits(
        DataArguments(
            train_file=write(tmp_path / f"train.{extension}", ROWS),
            validation_file=write(tmp_path / f"validation.{extension}", ROWS[:5]),
            test_file=write(tmp_path / f"test.{extension}", ROWS[5:7]),
            prefix_column="query",
        )
    )
    wanted = [{"text": row["report"], "summary": row["gist"], "prefix": row["query"]} for row in ROWS]
    assert {split: rows.to_list() for split, rows in splits.items()} == {
        "train": wanted,
        "validation": wanted[:5],
        "test": wanted[5:7],
    }
    assert all(rows.cache_files for rows in splits.values()), "rows must be memory-mapped, not in memory"


def test_columns_and_number_of_samples_are_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", ROWS)
    splits = load_splits(
        DataArguments(train_file=path, text_column="query", summary_column="report", max_train_samples=3)
    )
    assert splits["train"].to_list() == [{"text": row["query"], "summary": row["report"]} for row in ROWS[:3]]


def test_more_samples_than_rows_means_all_rows(tmp_path: Path) -> None:
    arguments = DataArguments(train_file=write(tmp_path / "train.csv", ROWS), max_train_samples=1_000)
    assert len(load_splits(arguments)["train"]) == len(ROWS)


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
def test_a_book_in_one_row(tmp_path: Path, extension: str) -> None:
    book = "word " * 600_000
    limit = csv.field_size_limit()
    path = write(tmp_path / f"train.{extension}", [{"text": book, "summary": "short"}])
    assert load_splits(DataArguments(train_file=path))["train"][0]["text"] == book
    assert csv.field_size_limit() == limit


def test_other_columns_may_hold_anything(tmp_path: Path) -> None:
    rows = [{"text": "a", "summary": "b", "meta": meta} for meta in (1, "one", [1], {"one": 1}, None)]
    assert len(load_splits(DataArguments(train_file=write(tmp_path / "train.jsonl", rows)))["train"]) == 5


def test_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('\n{"text": "a", "summary": "b"}\n\n{"text": "c", "summary": "d"}')
    assert load_splits(DataArguments(train_file=str(path)))["train"]["text"][:] == ["a", "c"]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    for rows in (ROWS, ROWS[:2]):
        assert len(load_splits(DataArguments(train_file=write(path, rows)))["train"]) == len(rows)


def test_an_unchanged_file_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = DataArguments(train_file=write(tmp_path / "train.jsonl", ROWS))
    before = load_splits(arguments)["train"]
    monkeypatch.setattr(files_module, "_documents", lambda **_: pytest.fail("read the file again"))
    after = load_splits(arguments)["train"]
    assert before.cache_files == after.cache_files and before._fingerprint == after._fingerprint


GOOD = '{"text": "a", "summary": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "flags", "message"),
    [
        ("a.jsonl", "", {}, r"a.jsonl: the file is empty"),
        ("a.csv", "text,summary\n", {}, r"a.csv: the file is empty"),
        ("a.jsonl", GOOD + '{"text": \n', {}, r"a.jsonl, line 2: not valid JSON"),
        ("a.json", GOOD + "[1]\n", {}, r"a.json, line 2: a JSON list; a file has one JSON object per line"),
        ("a.jsonl", GOOD + '{"text": "a"}\n', {}, r"line 2: no column 'summary' for the summary; the columns are text"),
        ("a.jsonl", GOOD + '{"text": 3, "summary": "b"}', {}, r"line 2: column 'text' must hold text, not int"),
        ("a.jsonl", GOOD + '{"text": "a", "summary": null}', {}, r"column 'summary' must hold text, not NoneType"),
        ("a.jsonl", GOOD + '\n{"text": " \\n", "summary": "b"}', {}, r"a.jsonl, line 3: column 'text' is empty"),
        ("a.jsonl", GOOD, {"text_column": "body"}, r"no column 'body' for the text; the columns are text, summary"),
        ("a.jsonl", GOOD, {"prefix_column": "q"}, r"a.jsonl: no column 'q' for the prefix; the columns are text, su"),
        (
            "a.jsonl",
            GOOD,
            {"text_column": "summary"},
            r"column is the summary\? Give --summary_column, one of text",
        ),
        ("a.jsonl", '{"text": "a"}\n', {}, r"a.jsonl: no column is left for the summary; documents"),
        ("a.jsonl", '{"a": "a", "b": "b"}\n', {}, r"which column is the text\? Give --text_column, one of a, b"),
        ("a.jsonl", '{"id": "1", "text": "a", "c": "b"}\n', {}, r"the summary\? Give --summary_column, one of id, c"),
        ("a.jsonl", '{"article": "1", "text": "a", "summary": "b"}\n', {}, r"the text\? .* one of article, text; no"),
        ("a.jsonl", GOOD + '{"text": "a\\ud800", "summary": "b"}', {}, r"line 2: column 'text' holds half a character"),
        ("a.jsonl", GOOD + "[" * 100_000, {}, r"a.jsonl, line 2: not valid JSON"),
        ("a.csv", "text,summary\na,b\nc,d,e\n", {}, r"a.csv, line 3: 3 fields, but the header names 2 columns \(text"),
        ("a.csv", ",text,summary\n0,a,b\n", {}, r"a.csv, line 1: column 1 has no name; if it is an index"),
        ("a.csv", "text,summary,text\na,b,c\n", {}, r"a.csv, line 1: two columns are called 'text'"),
        ("a.csv", 'text,summary\n"a\nb",c\nd,\n', {}, r"a.csv, line 4: column 'summary' is empty"),
        ("a.csv", "text,summary\na\n", {}, r"a.csv, line 2: 1 fields, but the header names 2 columns"),
        ("a.csv", 'text,summary\na,b\n"c', {}, r"a.csv, line 3: not valid CSV"),
        ("a.parquet", "PAR", {}, r"a.parquet: not a Parquet file"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: str, flags: dict[str, Any], message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_splits(DataArguments(train_file=str(path), **flags))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    for name, start in (("a.jsonl", GOOD), ("a.csv", "text,summary\n")):
        path = tmp_path / name
        path.write_bytes(start.encode() + b"\xff\xfe,b\n")
        with pytest.raises(ValueError, match=f"{name}, line 2: not "):
            load_splits(DataArguments(train_file=str(path)))


def test_the_line_that_is_no_text_is_named_and_not_the_one_that_decoding_reads_ahead_of(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,summary\n" + b"a,b\n" * 5_000 + b"\xff,b\n")
    with pytest.raises(ValueError, match="a.csv, line 5002: not UTF-8"):
        load_splits(DataArguments(train_file=str(path)))


@pytest.mark.parametrize(("name", "content"), [("a.csv", "text,summary\na,b\n"), ("a.jsonl", GOOD)])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    splits = load_splits(DataArguments(train_file=str(tmp_path / name), text_column="text"))
    assert splits["train"].to_list() == [{"text": "a", "summary": "b"}]


def test_columns_are_chosen_by_name_wherever_they_stand(tmp_path: Path) -> None:
    rows = [{"text": "a", "summary": "b"}, {"summary": "b", "text": "a"}, {"id": 7, "Summary": "b", "article": "a"}]
    for row in rows:
        splits = load_splits(DataArguments(train_file=write(tmp_path / "train.jsonl", [row])))
        assert [(row["text"], row["summary"]) for row in splits["train"]] == [("a", "b")]


def test_splits_must_have_the_same_columns(tmp_path: Path) -> None:
    one = write(tmp_path / "train.jsonl", [{"text": "a", "summary": "b"}])
    other = write(tmp_path / "dev.jsonl", [{"article": "a", "summary": "b"}])
    with pytest.raises(ValueError, match=r"dev.jsonl: the text would be column 'article', but 'text' in .*train"):
        load_splits(DataArguments(train_file=one, validation_file=other))


def test_bad_parquet_rows_are_named(tmp_path: Path) -> None:
    rows = [{"text": "a", "summary": "b"}] * 20 + [{"text": "a", "summary": ""}]
    with pytest.raises(ValueError, match=r"train.parquet, row 21: column 'summary' is empty"):
        load_splits(DataArguments(train_file=write(tmp_path / "train.parquet", rows)))


def test_every_file_is_checked_before_the_first_is_built(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "train.jsonl", ROWS), write(tmp_path / "test.jsonl", [*ROWS, {"report": 1}])
    with pytest.raises(ValueError, match=r"test.jsonl, line 21"):
        load_splits(DataArguments(train_file=good, test_file=bad))
    assert not (tmp_path / "cache").exists()


def test_embedded_data_sets_refuse_columns() -> None:
    with pytest.raises(ValueError, match=r"text_column='x': the embedded data set 'keyfacts' has the columns"):
        load_splits(DataArguments(dataset_name="keyfacts", text_column="x"))
