"""BERTScore: bert-score's own figures by a model that is named, refused before work where they cannot be had."""

from __future__ import annotations

import pytest
import torch
from bert_score import BERTScorer
from transformers import AutoTokenizer, BartConfig, BartModel, EvalPrediction

from cached_ds.evaluation.bertscore import BERTSCORES, BertScore
from cached_ds.evaluation.metrics import SummaryMetrics
from lab import workshop

PREDICTIONS, REFERENCES = ["word1 word2 word3", "word4", "word5 word6"], ["word1 word2 word9", "word4", "word7 word8"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(workshop.build(tmp_path_factory.mktemp("workshop")) / "model")


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    """A small encoder with a tokenizer that does not say how much the model reads."""
    folder = str(tmp_path_factory.mktemp("bertscore"))
    sides = ("encoder", "decoder")
    sizes = {f"{side}_{name}": 2 for side in sides for name in ("layers", "attention_heads")}
    torch.manual_seed(0)
    config = BartConfig(vocab_size=len(tokenizer), d_model=16, max_position_embeddings=16, **sizes)
    BartModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_figures_are_those_of_bert_score(model):
    scorer = BERTScorer(model_type=model, num_layers=1, device="cpu")
    scorer._tokenizer.model_max_length = 14
    expected = torch.stack(scorer.score(PREDICTIONS, REFERENCES), dim=1)
    found = BertScore(model, num_layers=1).each(PREDICTIONS, REFERENCES)
    torch.testing.assert_close(torch.tensor([[each[name] for name in BERTSCORES] for each in found]), 100 * expected)
    assert found[1]["bertscore_f1"] == pytest.approx(100, abs=1e-3)
    assert found[2]["bertscore_f1"] < 99
    assert BertScore(model, num_layers=1).each([], []) == []


def test_texts_longer_than_the_models_positions_are_cut(model):
    assert len(BertScore(model, num_layers=1).each(["word1 " * 100], ["word2 " * 50])) == 1


def test_it_stands_beside_rouge_with_the_models_name(model, tokenizer):
    scorer = BertScore(model, num_layers=2)
    metrics = SummaryMetrics(tokenizer, scorers=[scorer])
    ids = tokenizer(PREDICTIONS[:1], return_tensors="np")["input_ids"]
    assert metrics(EvalPrediction(predictions=ids, label_ids=ids))["bertscore_f1"] == pytest.approx(100, abs=1e-3)
    assert metrics.settings == {"bertscore_model": model, "bertscore_num_layers": 2}


@pytest.mark.parametrize("layers", [None, 0, 3])
def test_a_layer_that_is_not_there(model, layers):
    with pytest.raises(ValueError, match=f"--bertscore_num_layers {layers} is refused for .*; allowed .* 1 to 2"):
        BertScore(model, num_layers=layers)


def test_a_model_that_is_not_there():
    with pytest.raises(ValueError, match="--bertscore_model /no/such: no such folder"):
        BertScore("/no/such", num_layers=1)
