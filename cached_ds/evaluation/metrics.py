"""Metrics: scores of generated summaries, their means, and how sure these are.

Every rank has all summaries, and scores its share of them; the scores are then gathered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from transformers import EvalPrediction, PreTrainedTokenizerBase

from cached_ds.data import exact_match
from cached_ds.evaluation.dealing import by_all_ranks
from cached_ds.evaluation.rouge import Rouge, means

RESAMPLES = 1000
Scores = dict[str, float]


class Scorer(Protocol):
    """One way to compare summaries with references."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its figures depend on, to be written beside them."""

    def each(self, predictions: Sequence[str], references: Sequence[str]) -> list[Scores]:
        """The scores of every prediction, by name."""


def intervals(scores: Sequence[Mapping[str, float]]) -> Scores:
    """The bounds within which 95% of the means of resampled documents lie, as `rouge1_low`, `rouge1_high`, ...

    Percentile bootstrap over documents with 1,000 resamples (Efron 1979), the same ones at every call.

    Args:
        scores: of each document, by name; all have the same names.
    """
    names = list(scores[0])
    values = np.array([[score[name] for name in names] for score in scores])
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    bounds = np.percentile(values[drawn].mean(axis=1), (2.5, 97.5), axis=0)
    ends = zip(("low", "high"), bounds, strict=True)
    return {f"{name}_{end}": round(float(of[at]), 4) for end, of in ends for at, name in enumerate(names)}


def decode(token_ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts of token ids [N, T] padded with -100 or the pad token."""
    ids = np.where(token_ids < 0, tokenizer.pad_token_id, token_ids)
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def metric_names(scorers: Sequence[Sequence[str]], *, facts: bool) -> list[str]:
    """The names of what `SummaryMetrics` computes, for scorers with these names."""
    return [*(name for names in scorers for name in names), "gen_len", *(["facts"] if facts else [])]


@dataclass(frozen=True)
class Scored:
    """One generated summary.

    Attributes:
        prediction: its text.
        reference: what it is compared with.
        scores: by name.
    """

    prediction: str
    reference: str
    scores: dict[str, float]


class SummaryMetrics:
    """A `compute_metrics` for the Trainer: mean scores, and the mean generated length `gen_len` in tokens.

    Attributes:
        scored: every summary of the last evaluation.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, scorers: Sequence[Scorer] | None = None, facts: bool = False
    ) -> None:
        """Take what decodes and compares.

        Args:
            tokenizer: decodes predictions and labels.
            scorers: None: ROUGE for English.
            facts: whether to add `facts`, for `keyfacts`: 100 x the share of facts reported in the right place.

        Raises:
            MissingExtra: rouge-score is not installed.
        """
        self.tokenizer, self.facts = tokenizer, facts
        self.scorers: Sequence[Scorer] = [Rouge()] if scorers is None else scorers
        self.scored: list[Scored] = []

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on, to be written beside them."""
        return {name: value for scorer in self.scorers for name, value in scorer.settings.items()}

    def __call__(self, prediction: EvalPrediction) -> Scores:
        """The means over all documents; all ranks must call it."""
        generated, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        summaries, references = decode(generated, self.tokenizer), decode(labels, self.tokenizer)
        scores = by_all_ranks(lambda numbers: self._scores(numbers, summaries, references), len(summaries))
        self.scored = [Scored(*each) for each in zip(summaries, references, scores, strict=True)]
        lengths = ((generated >= 0) & (generated != self.tokenizer.pad_token_id)).sum(axis=1)
        found = means(scores) | {"gen_len": float(lengths.mean())}
        if self.facts:
            found["facts"] = 100 * exact_match(summaries, references=references)
        return {name: round(value, 4) for name, value in found.items()}

    def _scores(self, numbers: range, summaries: Sequence[str], references: Sequence[str]) -> list[Scores]:
        """The scores of the summaries with these numbers, by all scorers."""
        own = [[texts[number] for number in numbers] for texts in (summaries, references)]
        each = [scorer.each(*own) for scorer in self.scorers]
        return [{name: value for scores in row for name, value in scores.items()} for row in zip(*each, strict=True)]
