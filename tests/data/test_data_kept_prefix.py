"""Kept prefixes: the prefix stands in front of every slice, and each pair fills a window."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from cached_ds import attach
from cached_ds.data import WholeDocumentCollator, keep_prefixes, train_tokenizer
from cached_ds.data.kept_prefix import _repeat
from cached_ds.models.token_ids import Frame
from helpers import oracle, tiny

FRAME = Frame(head=[tiny.BOS], tail=[tiny.EOS])
DOCUMENT = [tiny.BOS, 7, 8, *range(10, 30), tiny.EOS]  # a prefix of two tokens and twenty of content


def kept(row, *, window):
    return _repeat(row, head=1, tail=1, window=window)


def test_the_prefix_stands_in_front_of_every_slice():
    found = kept({"input_ids": DOCUMENT, "prefix_length": 2}, window=12)
    slices = [range(10, 18), range(18, 26), range(26, 30)]
    assert found["input_ids"] == [tiny.BOS, *(token for each in slices for token in (7, 8, *each)), tiny.EOS]
    assert found["segment_lengths"] == [10, 10, 6] and found["length"] == 28


def test_segments_are_cut_one_by_one():
    found = kept({"input_ids": DOCUMENT, "prefix_length": 2, "segment_lengths": [3, 17]}, window=14)
    assert found["segment_lengths"] == [5, 12, 9]
    assert found["input_ids"][1:8] == [7, 8, 10, 11, 12, 7, 8]


@given(st.integers(0, 3), st.lists(st.integers(0, 30), max_size=4), st.integers(6, 20))
def test_no_token_is_lost_and_every_window_has_room(prefix, parts, window):
    ids = [0, *range(100, 100 + prefix), *range(200, 200 + sum(parts)), 2]
    segments = {"segment_lengths": parts} if parts else {}
    found = kept({"input_ids": ids, "prefix_length": prefix} | segments, window=window)
    assert all(length <= window - 2 for length in found["segment_lengths"])
    assert sum(found["segment_lengths"]) == found["length"] - 2
    assert [token for token in found["input_ids"] if token >= 200] == list(range(200, 200 + sum(parts)))


def test_states_of_the_prefix_are_kept_in_every_window():
    rows = {"input_ids": [DOCUMENT], "labels": [[5, 2]], "length": [len(DOCUMENT)], "prefix_length": [2]}
    splits = keep_prefixes(DatasetDict({"train": Dataset.from_dict(rows)}), frame=FRAME, window=tiny.WINDOW)
    (row,) = splits["train"]
    batch = WholeDocumentCollator(train_tokenizer(["a b"], vocab_size=262, model_type="bart"))([row])
    model = attach(tiny.make_model("bart", dtype=torch.float64).eval(), window=tiny.WINDOW)
    plain = tiny.make_model("bart", dtype=torch.float64).eval()
    found = model.get_encoder()(**{name: batch[name] for name in batch if name != "labels"}).last_hidden_state
    windows = [[0, 7, 8, *range(10, 22), 2], [0, 7, 8, *range(22, 30), 2]]
    states = [plain.get_encoder()(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in windows]
    expected = torch.cat([states[0][:-1], states[1][1:]])
    torch.testing.assert_close(found[0], expected, rtol=1e-10, atol=1e-10)
    assert oracle.FRAMES["bart"] == (1, 1), "each window has one token of frame at either end"


def test_documents_without_prefixes_are_refused():
    rows = DatasetDict({"train": Dataset.from_dict({"input_ids": [DOCUMENT], "labels": [[5]], "length": [24]})})
    with pytest.raises(ValueError, match="keep_prefix=True, but documents have no prefix; give --source_prefix, --pre"):
        keep_prefixes(rows, frame=FRAME, window=16)
