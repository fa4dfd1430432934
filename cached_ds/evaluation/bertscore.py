"""BERTScore by the package bert-score (Zhang et al. 2020): texts compared by a model's states of their tokens.

Figures by different models, or by different layers of one, do not compare. So the model has no default, and is written
into the results. Texts longer than it has positions are cut by its tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig

from cached_ds.models.hub import check_source
from cached_ds.settings.extras import needed_by

BERTSCORES = ("bertscore_precision", "bertscore_recall", "bertscore_f1")
BATCH = 16
SAID = 10**6  # more is transformers' way to say that a tokenizer does not know how much its model reads
UNUSED = 2  # positions, which RoBERTa has for other purposes


class BertScore:
    """Precision, recall and F1, times 100.

    Attributes:
        settings: what its figures depend on.
    """

    def __init__(self, model: str, *, num_layers: int | None = None) -> None:
        """Choose the model; it is loaded when there is something to score, and given up afterwards.

        Args:
            model: a folder, or a hub name.
            num_layers: the layer whose states are compared; None: the one that bert-score knows for this name.

        Raises:
            MissingExtra: bert-score is not installed; raised here, not after hours of training.
            ValueError: a model that can be had nowhere; no layer, or one that the model does not have.
        """
        with needed_by("BERTScore"):
            from bert_score.utils import model2layers
        check_source(model, flag="bertscore_model")
        self._config = AutoConfig.from_pretrained(model)
        layers = int(self._config.num_hidden_layers)
        chosen = model2layers.get(model) if num_layers is None else num_layers
        if chosen is None or not 1 <= chosen <= layers:
            raise ValueError(
                f"--bertscore_num_layers {chosen} is refused for {model}; allowed is the layer whose states are "
                f"compared, 1 to {layers}"
            )
        self.settings = {"bertscore_model": model, "bertscore_num_layers": chosen}

    def each(self, predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
        """The scores of every prediction, by name."""
        if not predictions:
            return []
        found = self._scorer().score(list(predictions), list(references), batch_size=BATCH)
        rows = (100 * torch.stack(found, dim=1)).tolist()
        return [dict(zip(BERTSCORES, row, strict=True)) for row in rows]

    def _scorer(self) -> Any:
        from bert_score import BERTScorer

        device = str(torch.accelerator.current_accelerator() or "cpu")
        model, layers = self.settings["bertscore_model"], self.settings["bertscore_num_layers"]
        scorer = BERTScorer(model_type=model, num_layers=layers, device=device)
        tokenizer = scorer._tokenizer
        if tokenizer.model_max_length > SAID:
            tokenizer.model_max_length = int(self._config.max_position_embeddings) - UNUSED
        return scorer
