"""ROUGE as `run_summarization.py` reports it, and of texts in other scripts."""

from __future__ import annotations

import nltk
import numpy as np
import pytest
from rouge_score import rouge_scorer, scoring
from transformers import AutoTokenizer, EvalPrediction

from cached_ds.evaluation.metrics import SummaryMetrics, intervals, metric_names
from cached_ds.evaluation.rouge import ROUGE_TYPES, Rouge, rouge
from cached_ds.evaluation.sentences import by_rule
from cached_ds.evaluation.words import UnicodeWords
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


# What rouge_score.RougeScorer(use_stemmer=True) 0.1.2 gave for these texts, called by itself.
PINNED = {
    "rouge1": 77.14285714285715,
    "rouge2": 46.2962962962963,
    "rougeL": 47.61904761904762,
    "rougeLsum": 60.952380952380956,
}
PREDICTIONS = [
    "The committee approved the budget. It meets again in May.",
    "A storm closed the harbour for two days.",
    "He left the city; nobody saw him again.",
]
REFERENCES = [
    "It meets in May. The committee has approved the budget.",
    "The harbour was closed for two days by storms. Ships waited outside.",
    "Nobody saw him after he left.",
]


def test_scores_of_fixed_predictions_are_pinned():
    assert rouge(PREDICTIONS, REFERENCES) == pytest.approx(PINNED, abs=1e-12)


def test_sentences_stand_on_lines():
    assert by_rule(" One. Two?  Three! 3.5 is no end ") == ["One.", "Two?", "Three!", "3.5 is no end"]
    assert by_rule("流。轻。") == ["流。", "轻。"]


def test_sentences_by_punkt(monkeypatch):
    """Where NLTK has no data, before anything is scored; where it has, its sentences are those of Lsum."""
    monkeypatch.setattr(nltk.data, "path", [])
    nltk.tokenize._get_punkt_tokenizer.cache_clear()
    with pytest.raises(ValueError, match="--rouge_sentences punkt is refused: NLTK has no data for it here"):
        Rouge(sentences="punkt")
    monkeypatch.setattr(nltk, "sent_tokenize", lambda text: text.split(" / "))
    scores = rouge(["b b b / a a a"], ["a a a / b b b"], sentences="punkt")
    assert scores["rougeLsum"] == pytest.approx(100)
    assert scores["rougeL"] < 99


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("河流向北流。石头很轻。", 9),
        ("река течёт на север. камень лёгкий.", 6),
        ("नदी उत्तर की ओर बहती है।", 6),
        ("النهر يجري شمالا", 3),
        ("The cat, 3 dogs", 4),
    ],
)
def test_a_text_in_any_script_equals_itself(text, words, caplog):
    assert len(UnicodeWords().tokenize(text)) == words
    assert min(rouge([text], [text], tokenizer="unicode").values()) == pytest.approx(100)
    assert rouge([text], ["another one"], tokenizer="unicode")["rouge1"] == 0
    assert not caplog.records


def test_texts_that_the_tokenizer_for_english_drops_are_told_of(caplog):
    assert rouge(["река течёт"], ["река течёт"])["rouge1"] == 0
    assert "drops 100% of the references' letters and digits; use --rouge_tokenizer unicode" in caplog.text
    caplog.clear()
    rouge(["a naïve café"], ["a naïve café"])
    assert not caplog.records


def test_padding_does_not_count(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(workshop.build(tmp_path) / "model")
    words = tokenizer("word1 word2")["input_ids"]
    padded = np.array([[*words, tokenizer.pad_token_id, -100]])
    scores = SummaryMetrics(tokenizer)(EvalPrediction(predictions=padded, label_ids=padded))
    assert scores["rouge1"] == 100 and scores["gen_len"] == len(words)
    assert list(scores) == metric_names([ROUGE_TYPES], facts=False)


def test_facts_are_counted_where_they_stand(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(workshop.build(tmp_path) / "model")
    found, wanted = (np.array([tokenizer(text)["input_ids"]]) for text in ("word1 word2 word3", "word1 word5 word3"))
    scores = SummaryMetrics(tokenizer, facts=True)(EvalPrediction(predictions=found, label_ids=wanted))
    assert scores["facts"] == pytest.approx(200 / 3, abs=1e-3)
    assert list(scores) == metric_names([ROUGE_TYPES], facts=True)


def test_intervals_hold_the_mean_and_narrow_with_the_documents():
    few = [dict.fromkeys(ROUGE_TYPES, float(value)) for value in (10, 20, 30, 40)]
    found, narrow = intervals(few), intervals(few * 25)
    assert 10 <= found["rouge1_low"] < 25 < found["rouge1_high"] <= 40
    assert narrow["rougeLsum_high"] - narrow["rougeLsum_low"] < (found["rougeLsum_high"] - found["rougeLsum_low"]) / 3
    assert intervals(few) == found
    assert set(intervals(few[:1]).values()) == {10}


def test_bounds_are_those_of_rouge_scores_own_aggregator():
    rng = np.random.default_rng(1)
    values = rng.uniform(0, 100, 60)
    aggregator = scoring.BootstrapAggregator(n_samples=4000)
    for value in values:
        aggregator.add_scores({"rouge1": scoring.Score(value, value, value)})
    theirs = aggregator.aggregate()["rouge1"]
    ours = intervals([dict.fromkeys(ROUGE_TYPES, float(value)) for value in values])
    spread = theirs.high.fmeasure - theirs.low.fmeasure
    assert ours["rouge1_low"] == pytest.approx(theirs.low.fmeasure, abs=spread / 10)
    assert ours["rouge1_high"] == pytest.approx(theirs.high.fmeasure, abs=spread / 10)
