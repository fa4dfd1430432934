"""Tokenized splits: whole documents, prefixes that line up, cuts only on demand, and a cache that is used."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from cached_ds.data import DataArguments, tokenization, tokenize_splits, train_tokenizer
from cached_ds.models.token_ids import Frame

TEXTS = [f"Document number {i}: " + "some words of text. " * (10 + i) for i in range(40)]
TOKENIZERS = {name: train_tokenizer(TEXTS, vocab_size=320, model_type=name) for name in ("bart", "mbart", "t5")}
FRAMES = {"bart": ([0], [2]), "mbart": ([], [2, 5]), "t5": ([], [1])}


def splits(**columns: list[Any]) -> DatasetDict:
    rows = {"text": TEXTS, "summary": [f"Summary number {i}" for i in range(40)]} | columns
    return DatasetDict({split: Dataset.from_dict(rows) for split in ("train", "validation")})


def flags(**more: Any) -> DataArguments:
    return DataArguments(dataset_name="pysource", **more)


def plain(family: str, text: str) -> list[int]:
    return TOKENIZERS[family](text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("family", sorted(FRAMES))
def test_documents_are_whole_and_framed(family: str) -> None:
    head, tail = FRAMES[family]
    done = tokenize_splits(splits(), tokenizer=TOKENIZERS[family], arguments=flags())
    assert done["train"].column_names == ["input_ids", "labels", "length"]
    for text, row in zip(TEXTS, done["train"], strict=True):
        assert row["input_ids"] == [*head, *plain(family, text), *tail]
        assert row["length"] == len(row["input_ids"])
        assert row["labels"][-len(tail) :] == tail
    assert done["train"].features["input_ids"].feature.dtype == "int32"


def test_ids_stay() -> None:
    names = [f"document {i}" for i in range(40)]
    done = tokenize_splits(splits(id=names), tokenizer=TOKENIZERS["bart"], arguments=flags())["train"]
    assert list(done["id"]) == names


@pytest.mark.parametrize("longest", [None, 30])
@pytest.mark.parametrize("family", sorted(FRAMES))
def test_every_text_of_a_list_is_a_segment(family: str, longest: int | None) -> None:
    head, tail = FRAMES[family]
    lists = [[text[:25], text[25:], "end"] for text in TEXTS]
    arguments = flags(max_source_length=longest, source_prefix="Why? ")
    done = tokenize_splits(splits(text=lists), tokenizer=TOKENIZERS[family], arguments=arguments)["train"]
    for texts, row in zip(lists, done, strict=True):
        prefix, parts = plain(family, "Why? "), [plain(family, text) for text in texts]
        whole = [*head, *prefix, *(token for part in parts for token in part)]
        assert row["input_ids"] == [*whole[: longest and longest - len(tail)], *tail]
        assert sum(row["segment_lengths"]) == len(row["input_ids"]) - len(head) - len(prefix) - len(tail)
        assert row["segment_lengths"][0] == len(parts[0]) and all(row["segment_lengths"])
        assert longest or row["segment_lengths"] == [len(part) for part in parts]


def test_a_very_long_document_is_never_cut() -> None:
    text = "some words of text. " * 100_000
    long = DatasetDict({"train": Dataset.from_dict({"text": [text], "summary": ["short"]})})
    (row,) = tokenize_splits(long, tokenizer=TOKENIZERS["bart"], arguments=flags())["train"]
    assert TOKENIZERS["bart"].decode(row["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("family", sorted(FRAMES))
def test_prefixes_of_documents_line_up(family: str) -> None:
    head, tail = FRAMES[family]
    prefixes = [f"Why {'really ' * i}? " for i in range(39)] + [""]
    done = tokenize_splits(splits(prefix=prefixes), tokenizer=TOKENIZERS[family], arguments=flags())["train"]
    for prefix, text, row in zip(prefixes, TEXTS, done, strict=True):
        start, stop = len(head), len(head) + row["prefix_length"]
        assert row["input_ids"][start:stop] == plain(family, prefix)
        assert row["input_ids"][stop:] == [*plain(family, text), *tail]


def test_source_prefix_is_the_prefix_of_every_document() -> None:
    done = tokenize_splits(splits(), tokenizer=TOKENIZERS["t5"], arguments=flags(source_prefix="summarize: "))
    prefix = plain("t5", "summarize: ")
    for row in done["validation"]:
        assert row["prefix_length"] == len(prefix) and row["input_ids"][: len(prefix)] == prefix


@pytest.mark.parametrize("family", sorted(FRAMES))
def test_cut_on_demand_with_the_end_token_kept(family: str) -> None:
    head, tail = FRAMES[family]
    arguments = flags(max_source_length=20, source_prefix="Why? ", max_target_length=6, val_max_target_length=5)
    done = tokenize_splits(splits(), tokenizer=TOKENIZERS[family], arguments=arguments)
    for row in done["train"]:
        assert row["length"] == 20 and row["input_ids"][-len(tail) :] == tail
        assert row["input_ids"][: len(head) + row["prefix_length"]] == [*head, *plain(family, "Why? ")]
    for split, length in (("train", 6), ("validation", 5)):
        assert {len(labels) for labels in done[split]["labels"]} == {length}
        assert all(labels[-len(tail) :] == tail for labels in done[split]["labels"])


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (
            {"max_source_length": 4, "source_prefix": "a prefix"},
            r"max_source_length=4: must be more than \d+, which sp",
        ),
        ({"max_target_length": 2}, r"max_target_length=2: must be more than 2, which special tokens and prefix take"),
        ({"val_max_target_length": 1}, r"val_max_target_length=1: must be more than 2"),
    ],
)
def test_no_room_for_content_is_refused(lengths: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenize_splits(splits(), tokenizer=TOKENIZERS["bart"], arguments=flags(**lengths))


def test_no_room_behind_a_document_prefix_is_refused() -> None:
    rows = splits(prefix=["a very long prefix"] * 40)
    with pytest.raises(
        ValueError, match=r"max_source_length=4: no room for the document behind a prefix of \d+ tokens"
    ):
        tokenize_splits(rows, tokenizer=TOKENIZERS["bart"], arguments=flags(max_source_length=4))


def test_text_that_looks_like_a_special_token_is_text() -> None:
    texts = ["a </s> b <pad> <s>"]
    rows = DatasetDict({"train": Dataset.from_dict({"text": texts, "summary": ["</s>"]})})
    (row,) = tokenize_splits(rows, tokenizer=TOKENIZERS["bart"], arguments=flags())["train"]
    assert min(row["input_ids"][1:-1]) > 4 and min(row["labels"][1:-1]) > 4
    assert TOKENIZERS["bart"].decode(row["input_ids"], skip_special_tokens=True) == texts[0]


@given(st.lists(st.integers(9, 99), max_size=30), st.lists(st.integers(9, 99), max_size=5), st.integers(9, 40))
def test_frame_around(content: list[int], prefix: list[int], max_length: int) -> None:
    frame = Frame(head=[0], tail=[2])
    whole = frame.around(content, prefix=prefix)
    assert whole == [0, *prefix, *content, 2]
    cut = frame.around(content, prefix=prefix, max_length=max_length)
    assert cut == (whole if len(whole) <= max_length else [*whole[: max_length - 1], 2])


def stored_splits(tmp_path: Any) -> DatasetDict:
    splits().save_to_disk(tmp_path / "stored")
    return DatasetDict.load_from_disk(tmp_path / "stored")


def test_tokens_come_from_the_cache_unless_it_is_overwritten(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = stored_splits(tmp_path)
    first = tokenize_splits(rows, tokenizer=TOKENIZERS["bart"], arguments=flags())
    again = train_tokenizer(TEXTS, vocab_size=320, model_type="bart")
    monkeypatch.setattr(tokenization, "ids_of", None)
    second = tokenize_splits(rows, tokenizer=again, arguments=flags())
    assert first["train"].cache_files == second["train"].cache_files != []
    with pytest.raises(TypeError):
        tokenize_splits(rows, tokenizer=again, arguments=flags(overwrite_cache=True))


def test_workers_change_nothing(tmp_path: Any) -> None:
    rows = stored_splits(tmp_path)
    alone, together = (
        tokenize_splits(rows, tokenizer=TOKENIZERS["bart"], arguments=flags(preprocessing_num_workers=count))
        for count in (None, 2)
    )
    assert alone["train"].to_list() == together["train"].to_list()
