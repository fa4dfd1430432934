"""Metrics: ROUGE of generated summaries, as transformers' `run_summarization.py` reports it (times 100, stemmed)."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import EvalPrediction, PreTrainedTokenizerBase

from cached_ds.data import exact_match
from cached_ds.evaluation.words import UnicodeWords, lost_share
from cached_ds.settings.extras import needed_by

MOST = 0.5  # of the letters and digits of all references
RESAMPLES = 1000
logger = logging.getLogger(__name__)
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(predictions: Sequence[str], references: Sequence[str], *, tokenizer: str = "english") -> dict[str, float]:
    """Mean F1 x 100 of ROUGE-1, 2, L and Lsum (the last over sentences), keys as in `ROUGE_TYPES`.

    Args:
        predictions: summaries that were generated.
        references: what they are compared with, one for each.
        tokenizer: "english" is rouge-score's own, with stems; "unicode" knows every script (words.py).

    Raises:
        MissingExtra: rouge-score is not installed.
    """
    return _means(rouge_each(predictions, references, tokenizer=tokenizer))


def rouge_each(predictions: Sequence[str], references: Sequence[str], *, tokenizer: str) -> list[dict[str, float]]:
    """F1 x 100 of every prediction; arguments and errors are those of `rouge`."""
    lost = lost_share(references) if tokenizer == "english" else 0.0
    if lost > MOST:
        logger.warning(
            "ROUGE: its tokenizer for English drops %d%% of the references' letters and digits; use "
            "--rouge_tokenizer unicode",
            round(100 * lost),
        )
    scorer, found = _scorer(tokenizer), []
    for prediction, reference in zip(predictions, references, strict=True):
        score = scorer.score(one_sentence_a_line(reference), one_sentence_a_line(prediction))
        found.append({name: 100 * score[name].fmeasure for name in ROUGE_TYPES})
    return found


def intervals(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The bounds within which 95% of the means of resampled documents lie, as `rouge1_low`, `rouge1_high`, ...

    Percentile bootstrap over documents with 1,000 resamples (Efron 1979), the same ones at every call.

    Args:
        scores: of each document, by name.
    """
    values = np.array([[score[name] for name in ROUGE_TYPES] for score in scores])
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    bounds = np.percentile(values[drawn].mean(axis=1), (2.5, 97.5), axis=0)
    ends = zip(("low", "high"), bounds, strict=True)
    return {f"{name}_{end}": round(float(of[at]), 4) for end, of in ends for at, name in enumerate(ROUGE_TYPES)}


def _means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(score[name] for score in scores) / len(scores) for name in ROUGE_TYPES}


def _scorer(tokenizer: str) -> Any:
    with needed_by("ROUGE"):
        from rouge_score import rouge_scorer  # slow to import (nltk), and only runs that generate need it
    words = {"english": None, "unicode": UnicodeWords()}[tokenizer]
    return rouge_scorer.RougeScorer(ROUGE_TYPES, use_stemmer=True, tokenizer=words)


def one_sentence_a_line(text: str) -> str:
    """The text with each sentence on a line of its own, which is how ROUGE-Lsum tells sentences apart."""
    return re.sub(r"(?<=[.!?])\s+|(?<=[。！？।])\s*(?=\S)", "\n", text.strip())


def decode(token_ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts of token ids [N, T] padded with -100 or the pad token."""
    ids = np.where(token_ids < 0, tokenizer.pad_token_id, token_ids)
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def metric_names(*, facts: bool) -> list[str]:
    """The names of what `SummaryMetrics` computes."""
    return [*ROUGE_TYPES, "gen_len", *(["facts"] if facts else [])]


@dataclass(frozen=True)
class Scored:
    """One generated summary.

    Attributes:
        prediction: its text.
        reference: what it is compared with.
        scores: ROUGE's F1 x 100, by name.
    """

    prediction: str
    reference: str
    scores: dict[str, float]


class SummaryMetrics:
    """A `compute_metrics` for the Trainer: ROUGE and the mean generated length `gen_len` in tokens.

    Attributes:
        scored: every summary of the last evaluation.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, rouge_tokenizer: str = "english", facts: bool = False
    ) -> None:
        """Take what decodes and compares.

        Args:
            tokenizer: decodes predictions and labels.
            rouge_tokenizer: as in `rouge`.
            facts: whether to add `facts`, for `keyfacts`: 100 x the share of facts reported in the right place.

        Raises:
            MissingExtra: rouge-score is not installed; raised here, not after hours of training.
        """
        _scorer(rouge_tokenizer)
        self.tokenizer, self.rouge_tokenizer, self.facts = tokenizer, rouge_tokenizer, facts
        self.scored: list[Scored] = []

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """The means over all documents."""
        generated, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        summaries, references = decode(generated, self.tokenizer), decode(labels, self.tokenizer)
        scores = rouge_each(summaries, references, tokenizer=self.rouge_tokenizer)
        self.scored = [Scored(*each) for each in zip(summaries, references, scores, strict=True)]
        lengths = ((generated >= 0) & (generated != self.tokenizer.pad_token_id)).sum(axis=1)
        found = _means(scores) | {"gen_len": float(lengths.mean())}
        if self.facts:
            found["facts"] = 100 * exact_match(summaries, references=references)
        return {name: round(value, 4) for name, value in found.items()}
