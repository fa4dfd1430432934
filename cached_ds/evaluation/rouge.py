"""ROUGE by rouge-score, as transformers' `run_summarization.py` reports it: F1 times 100, stemmed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from cached_ds.evaluation.sentences import SENTENCES
from cached_ds.evaluation.words import UnicodeWords, lost_share
from cached_ds.settings.extras import needed_by

MOST = 0.5  # of the letters and digits of all references
logger = logging.getLogger(__name__)
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Rouge:
    """ROUGE-1, 2, L and Lsum (the last over sentences).

    Attributes:
        settings: what its figures depend on.
    """

    def __init__(self, *, tokenizer: str = "english", sentences: str = "rule") -> None:
        """Choose where texts are cut.

        Args:
            tokenizer: "english" is rouge-score's own, with stems; "unicode" knows every script (words.py).
            sentences: "rule" or "punkt" (sentences.py).

        Raises:
            MissingExtra: rouge-score is not installed; raised here, not after hours of training.
            ValueError: the data of "punkt" is not installed.
        """
        with needed_by("ROUGE"):
            from rouge_score import rouge_scorer  # slow to import (nltk), and only runs that generate need it
        words = {"english": None, "unicode": UnicodeWords()}[tokenizer]
        self.settings = {"rouge_tokenizer": tokenizer, "rouge_sentences": sentences}
        self._scorer = rouge_scorer.RougeScorer(ROUGE_TYPES, use_stemmer=True, tokenizer=words)
        self._sentences = SENTENCES[sentences]
        self._sentences("One. Two.")

    def each(self, predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
        """F1 x 100 of every prediction, by name."""
        self._warn(references)
        found = []
        for prediction, reference in zip(predictions, references, strict=True):
            score = self._scorer.score(self._lines(reference), self._lines(prediction))
            found.append({name: 100 * score[name].fmeasure for name in ROUGE_TYPES})
        return found

    def _warn(self, references: Sequence[str]) -> None:
        """Say so where most of the references is lost to the tokenizer."""
        lost = lost_share(references) if self.settings["rouge_tokenizer"] == "english" else 0.0
        if lost > MOST:
            logger.warning(
                "ROUGE: its tokenizer for English drops %d%% of the references' letters and digits; use "
                "--rouge_tokenizer unicode",
                round(100 * lost),
            )

    def _lines(self, text: str) -> str:
        """The text with each sentence on a line of its own, which is how rouge-score tells sentences apart."""
        return "\n".join(self._sentences(text))


def rouge(
    predictions: Sequence[str], references: Sequence[str], *, tokenizer: str = "english", sentences: str = "rule"
) -> dict[str, float]:
    """Mean F1 x 100, keys as in `ROUGE_TYPES`; the other arguments and what is raised are those of `Rouge`."""
    return means(Rouge(tokenizer=tokenizer, sentences=sentences).each(predictions, references))


def means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The means of scores of documents, by name; all have the same names."""
    return {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}
