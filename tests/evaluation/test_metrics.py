"""ROUGE as `run_summarization.py` reports it."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score import rouge_scorer
from transformers import AutoTokenizer, EvalPrediction

from cached_ds.evaluation.metrics import one_sentence_a_line, rouge, summary_metrics
from lab import workshop


def test_rouge_of_equal_and_disjoint_texts():
    assert rouge(["the cat sat. it slept."], ["the cat sat. it slept."]) == {
        name: pytest.approx(100) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")
    }
    assert set(rouge(["alpha"], ["omega"]).values()) == {0}


def test_rouge_is_the_mean_over_documents_and_stemmed():
    assert rouge(["cats", "dog"], ["cat", "bird"])["rouge1"] == pytest.approx(50)


def test_lsum_sees_sentences():
    prediction, reference = "b b b. a a a.", "a a a. b b b."
    scorer = rouge_scorer.RougeScorer(["rougeLsum"])
    by_hand = scorer.score(reference.replace(". ", ".\n"), prediction.replace(". ", ".\n"))["rougeLsum"].fmeasure
    scores = rouge([prediction], [reference])
    assert scores["rougeLsum"] == pytest.approx(100 * by_hand)
    assert scores["rougeLsum"] > scores["rougeL"]


def test_sentences_stand_on_lines():
    assert one_sentence_a_line(" One. Two?  Three! 3.5 is no end ") == "One.\nTwo?\nThree!\n3.5 is no end"


def test_padding_does_not_count(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(workshop.build(tmp_path) / "model")
    words = tokenizer("word1 word2")["input_ids"]
    padded = np.array([[*words, tokenizer.pad_token_id, -100]])
    scores = summary_metrics(tokenizer)(EvalPrediction(predictions=padded, label_ids=padded))
    assert scores["rouge1"] == 100 and scores["gen_len"] == len(words)


def test_facts_are_counted_where_they_stand(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(workshop.build(tmp_path) / "model")
    found, wanted = (np.array([tokenizer(text)["input_ids"]]) for text in ("word1 word2 word3", "word1 word5 word3"))
    scores = summary_metrics(tokenizer, facts=True)(EvalPrediction(predictions=found, label_ids=wanted))
    assert scores["facts"] == pytest.approx(200 / 3, abs=1e-3)
