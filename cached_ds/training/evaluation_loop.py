"""Evaluation loop: every document counts exactly once, in the data's order, whatever the ranks and the batch size.

Problem. Ranks must take equally many steps, so the last ones read some documents again. transformers' Seq2SeqTrainer
keeps what comes of these, its loss is a mean over batches (of one document or of eight), and a training strategy that
groups by length shuffles the documents of evaluation as well. So metrics depend on the number of ranks.

Here what was read again is dropped, documents come in order, and the loss is the cross-entropy per label token over all
documents, in float32 or wider, smoothed as in training. Nothing is kept of a document but its predictions: not its
states, of which transformers would gather those of all documents.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import Seq2SeqTrainer
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_utils import EvalLoopOutput

from cached_ds.decoder.chunked_loss import IGNORED
from cached_ds.replay.sums import sum_dtype

OF_THE_TARGET = ("labels", "decoder_input_ids", "decoder_attention_mask")


class EveryDocumentOnce(Seq2SeqTrainer):
    """Mixin over the Trainer; see the module's docstring."""

    _found: list[Tensor]

    @property
    def gather_function(self) -> Any:
        """Gathers from all ranks and drops what was read again; Seq2SeqTrainer would set one that keeps it."""
        return functools.partial(
            self.accelerator.gather_for_metrics, use_gather_object=self.args.eval_use_gather_object
        )

    @gather_function.setter
    def gather_function(self, value: Any) -> None:
        """Ignored."""

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """The Trainer's, with the loss per label token."""
        self._found = []
        kwargs["metric_key_prefix"] = metric_key_prefix
        with self._untrained():
            output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        if self._found and output.metrics is not None:
            loss, tokens = torch.cat(self._found).double().sum(0).tolist()
            output.metrics[f"{metric_key_prefix}_loss"] = loss / tokens if tokens else float("nan")
        return output

    @contextmanager
    def _untrained(self) -> Iterator[None]:
        """Evaluation before any training, or without it, takes the model as it is.

        Where there is no optimizer, transformers refuses ZeRO-1 and 2, and accelerate FSDP2. Yet under the former the
        model is whole on every rank, and under the latter it is sharded already.
        """
        engine = self.is_deepspeed_enabled
        whole = engine and self.deepspeed is None and not is_deepspeed_zero3_enabled()
        if (whole or self.is_fsdp_enabled) and not self.accelerator._models:
            self.accelerator.prepare_model(self.model, evaluation_mode=True)
        self.is_deepspeed_enabled = engine and not whole
        try:
            yield
        finally:
            self.is_deepspeed_enabled = engine

    def prediction_step(  # type: ignore[override]  # the loss is a tensor, whatever the Trainer's annotation says
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Mean loss of the batch, predictions (generated tokens [B, T], or logits [B, T, V]) and labels [B, T]."""
        inputs = self._prepare_inputs(inputs)
        labels, predictions = inputs.get("labels"), None
        arguments: Any = self.args
        if arguments.predict_with_generate and not prediction_loss_only:
            sources = {name: value for name, value in inputs.items() if name not in OF_THE_TARGET}
            _, predictions, _ = super().prediction_step(model, sources, False, ignore_keys, **gen_kwargs)
        if labels is None:
            return None, predictions, None
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs, use_cache=False).logits
        pairs, smoothing = zip(logits, labels, strict=True), self.args.label_smoothing_factor
        found = torch.stack([_cross_entropy(*pair, smoothing=smoothing) for pair in pairs])
        self._found.append(self.gather_function(found))
        loss = found[:, 0].sum() / found[:, 1].sum()
        if prediction_loss_only:
            return loss, None, None
        return loss, logits if predictions is None else predictions, labels

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        """The data's order, whatever the order of training."""
        return SequentialSampler(eval_dataset)  # type: ignore[arg-type]


def _cross_entropy(logits: Tensor, labels: Tensor, *, smoothing: float) -> Tensor:
    """Sum of one document's cross-entropies, and the number of its label tokens, for logits [T, V] and labels [T]."""
    wide = logits.to(sum_dtype(logits))
    total = F.cross_entropy(wide, labels, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum")
    return torch.stack([total, labels.ne(IGNORED).sum().to(total.dtype)])
