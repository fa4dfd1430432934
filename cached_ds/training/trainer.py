"""`CachedSeq2SeqTrainer`: transformers' `Seq2SeqTrainer` for whole documents."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase, Seq2SeqTrainingArguments
from transformers.trainer_callback import ProgressCallback

from cached_ds import fsdp
from cached_ds.attachment import ensure_attached, inner_model
from cached_ds.decoder.chunked_loss import has_chunked_loss
from cached_ds.encoder.guards import refuse_sequence_parallelism
from cached_ds.guards.trainer import Guarded
from cached_ds.models.start_tokens import agree_on_start
from cached_ds.settings.config import CachedConfig
from cached_ds.training.document_groups import deal_to_groups
from cached_ds.training.evaluation_loop import EveryDocumentOnce
from cached_ds.training.progress import TokenProgressCallback
from cached_ds.training.rows import rows_of_step
from cached_ds.training.sampler import EpochCallback, LengthBalancedSampler
from cached_ds.training.saving import CommittedCheckpoints
from cached_ds.training.zero_gradient import ZeroGradientCallback

LENGTH_COLUMNS = ("prefix_length", "segment_lengths")


class CachedSeq2SeqTrainer(Guarded, CommittedCheckpoints, EveryDocumentOnce):
    """A `Seq2SeqTrainer` whose encoder reads whole documents.

    The plain one also works on an attached model. This one adds:

    - the model is attached;
    - documents are dealt to the ranks by length, so that ranks wait less for each other, if the data set has a column
      of lengths (`length_column_name`);
    - FSDP2 by accelerate's settings works with tied embeddings and on the CPU, and `save_model` writes the whole model;
    - checkpoints are written whole or not at all, and training goes on only from whole ones;
    - in evaluation every document counts once, in the data's order, and the loss is a mean over label tokens;
    - generation starts from the token from which training starts;
    - label smoothing in training needs no logits;
    - the progress bar shows tokens per second and windows;
    - a logged step whose gradient is zero is told;
    - a step whose loss or gradient is not finite is skipped on all ranks, signals and the file `save_now` save a
      checkpoint on all ranks, and a lack of memory is told with the documents (cached_ds/guards/).

    Args:
        model: a Hugging Face encoder-decoder, attached or not, not yet wrapped by an engine; None: what `model_init`
            makes.
        args: `Seq2SeqTrainingArguments`; engines are chosen as usual (`deepspeed`, `fsdp`, the launcher).
        cached: how to cut and replay; None: the defaults, or what the model is attached with.
        **arguments: all other arguments of `Seq2SeqTrainer`, and those of `Guarded`: `max_skipped_steps`, `place_of`.

    Raises:
        ValueError: `cached` for a model that is attached already; what `attach` refuses; FSDP1, or FSDP that loads the
            weights on rank 0 only.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: Seq2SeqTrainingArguments | None = None,
        *,
        cached: CachedConfig | None = None,
        **arguments: Any,
    ) -> None:
        """Attach the model, set the Trainer up, and shard the model if FSDP is asked for."""
        self._cached, self.processing_class = cached, arguments.get("processing_class")  # call_model_init needs them
        if model is not None:
            ensure_attached(model, cached)
        super().__init__(model=model, args=args, **arguments)
        if model is not None:
            self._finish(model)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(TokenProgressCallback)
        self.add_callback(EpochCallback)
        self.add_callback(ZeroGradientCallback)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """A new model from `model_init`, attached; the Trainer asks for one when it is made and for every `train`."""
        model = super().call_model_init(trial)
        ensure_attached(model, self._cached)
        self._finish(model)
        return model

    def _finish(self, model: nn.Module) -> None:
        """Deal documents as an attached model shares them, let it start generation as its tokenizer says, shard it."""
        deal_to_groups(self.accelerator, model)
        if isinstance(self.processing_class, PreTrainedTokenizerBase):
            agree_on_start(inner_model(model), self.processing_class)
        if self.is_fsdp_enabled:
            fsdp.shard_for_accelerate(model, self.accelerator)

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator; if FSDP is asked for, make sure that it is on."""
        super().create_accelerator_and_postprocess()
        refuse_sequence_parallelism()
        asked = torch.distributed.is_initialized() and fsdp.is_requested(self.args.fsdp_plugin_args)
        if asked and not self.is_fsdp_enabled:
            fsdp.enable_on_cpu(self.accelerator, self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The Trainer's loss; in training the model smooths the labels itself, since the Trainer would need logits."""
        is_chunked = model.training and self.compute_loss_func is None and has_chunked_loss(inner_model(self.model))
        if self.label_smoother is None or not is_chunked:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(**inputs, label_smoothing=self.label_smoother.epsilon)
        loss = self.guarded(outputs[0])
        return (loss, outputs) if return_outputs else loss

    def rows_of_step(self) -> list[list[int]]:
        """Numbers of the rows of the training data in each micro-batch of this step and rank; empty: not known."""
        accumulation = self.args.gradient_accumulation_steps
        loader = self.callback_handler.train_dataloader
        return rows_of_step(loader, step=self.state.global_step, accumulation=accumulation)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """The length-balanced sampler, if the data set gives its lengths and no other strategy is asked for."""
        dataset: Any = self.train_dataset  # `train_dataset` comes without the columns that the model does not take
        column = self.args.length_column_name
        if self.args.train_sampling_strategy != "random" or column not in getattr(dataset, "column_names", []):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        size, ranks = self.order or (self._train_batch_size, self.num_readers)
        return LengthBalancedSampler(list(dataset[column]), batch_size=size, num_ranks=ranks, seed=seed)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep lengths of prefixes and segments, which the model takes although its signature does not name them."""
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        columns += [name for name in LENGTH_COLUMNS if name not in columns]
