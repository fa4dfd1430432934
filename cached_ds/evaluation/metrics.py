"""Metrics: ROUGE of generated summaries, as transformers' `run_summarization.py` reports it (times 100, stemmed)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import EvalPrediction, PreTrainedTokenizerBase

from cached_ds.data import exact_match
from cached_ds.evaluation.words import UnicodeWords, lost_share
from cached_ds.settings.extras import needed_by

MOST = 0.5  # of the letters and digits of all references
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
    lost = lost_share(references) if tokenizer == "english" else 0.0
    if lost > MOST:
        logger.warning(
            "ROUGE: its tokenizer for English drops %d%% of the references' letters and digits; use "
            "--rouge_tokenizer unicode",
            round(100 * lost),
        )
    scorer = _scorer(tokenizer)
    scores = [
        scorer.score(one_sentence_a_line(reference), one_sentence_a_line(prediction))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return {name: 100 * sum(score[name].fmeasure for score in scores) / len(scores) for name in ROUGE_TYPES}


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
    """The names of what `summary_metrics` computes."""
    return [*ROUGE_TYPES, "gen_len", *(["facts"] if facts else [])]


def summary_metrics(
    tokenizer: PreTrainedTokenizerBase, *, rouge_tokenizer: str = "english", facts: bool = False
) -> Callable[[EvalPrediction], dict[str, float]]:
    """A `compute_metrics` for the Trainer: ROUGE and the mean generated length `gen_len` in tokens.

    Args:
        tokenizer: decodes predictions and labels.
        rouge_tokenizer: as in `rouge`.
        facts: whether to add `facts`, for `keyfacts`: 100 x the share of facts that are reported in the right place.

    Raises:
        MissingExtra: rouge-score is not installed; raised here, not after hours of training.
    """
    _scorer(rouge_tokenizer)

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        generated, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        summaries, references = decode(generated, tokenizer), decode(labels, tokenizer)
        lengths = ((generated >= 0) & (generated != tokenizer.pad_token_id)).sum(axis=1)
        scores = rouge(summaries, references, tokenizer=rouge_tokenizer) | {"gen_len": float(lengths.mean())}
        if facts:
            scores["facts"] = 100 * exact_match(summaries, references=references)
        return {name: round(value, 4) for name, value in scores.items()}

    return compute
