"""The collator: padding on the right sides with the right values, masks, prefix lengths and decoder inputs."""

from __future__ import annotations

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from cached_ds.data import WholeDocumentCollator, train_tokenizer

FEATURES = [
    {"input_ids": [0, 7, 8, 9, 2], "labels": [0, 7, 2], "length": 5},
    {"input_ids": [0, 6, 2], "labels": [0, 5, 6, 2], "length": 3},
]


@pytest.fixture
def tokenizer():
    return train_tokenizer(["a b c"], vocab_size=262, model_type="bart")


def test_padded_on_the_right(tokenizer) -> None:
    batch = WholeDocumentCollator(tokenizer)(FEATURES)
    assert sorted(batch) == ["attention_mask", "input_ids", "labels"]
    assert batch["input_ids"].tolist() == [[0, 7, 8, 9, 2], [0, 6, 2, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[0, 7, 2, -100], [0, 5, 6, 2]]
    assert all(tensor.dtype == torch.long for tensor in batch.values())


def test_padded_on_the_left(tokenizer) -> None:
    tokenizer.padding_side = "left"
    batch = WholeDocumentCollator(tokenizer)(FEATURES)
    assert batch["input_ids"].tolist() == [[0, 7, 8, 9, 2], [1, 1, 0, 6, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert batch["labels"].tolist() == [[0, 7, 2, -100], [0, 5, 6, 2]], "labels stay on the right"


@pytest.mark.parametrize(("multiple", "width"), [(1, 5), (4, 8), (5, 5)])
def test_padded_to_a_multiple(tokenizer, multiple: int, width: int) -> None:
    batch = WholeDocumentCollator(tokenizer, pad_to_multiple_of=multiple)(FEATURES)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, width)
    assert batch["attention_mask"].sum(1).tolist() == [5, 3]


def test_prefix_lengths(tokenizer) -> None:
    features = [feature | {"prefix_length": length} for feature, length in zip(FEATURES, (2, 0), strict=True)]
    assert torch.equal(WholeDocumentCollator(tokenizer)(features)["prefix_lengths"], torch.tensor([2, 0]))


def test_segment_lengths_are_padded_with_zeros(tokenizer) -> None:
    features = [feature | {"segment_lengths": own} for feature, own in zip(FEATURES, ([1, 2], [1]), strict=True)]
    assert WholeDocumentCollator(tokenizer)(features)["segment_lengths"].tolist() == [[1, 2], [1, 0]]


def test_decoder_inputs_of_the_model(tokenizer) -> None:
    config = BartConfig(
        vocab_size=262,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_position_embeddings=16,
    )
    batch = WholeDocumentCollator(tokenizer, model=BartForConditionalGeneration(config))(FEATURES)
    assert batch["decoder_input_ids"].tolist() == [[2, 0, 7, 2], [2, 0, 5, 6]]
