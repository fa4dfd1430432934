"""What users already have, on an attached model: a plain Accelerator loop, and the plain Seq2SeqTrainer.

For two ranks under any launcher. Both save the model to `output` and return the losses as they are shown to the user.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, Seq2SeqTrainer, Seq2SeqTrainingArguments

import cached_ds
from cached_ds.data import DataArguments, WholeDocumentCollator, load_splits, tokenize_splits
from lab import workshop

ACCUMULATION = 3


def material(folder, **fields):
    """The attached model, its documents and their collator, with the lines a user would write."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "model").train()
    arguments = DataArguments(train_file=str(folder / "train.jsonl"))
    splits = tokenize_splits(load_splits(arguments), tokenizer=tokenizer, arguments=arguments)
    return cached_ds.attach(model, window=workshop.WINDOW, **fields), splits["train"], WholeDocumentCollator(tokenizer)


def loop(folder, output):
    """A training loop with Accelerator.prepare and gradient accumulation."""
    config = DataLoaderConfiguration(use_seedable_sampler=True)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATION, dataloader_config=config)
    model, documents, collator = material(folder)
    optimizer = torch.optim.SGD(model.parameters(), lr=workshop.LEARNING_RATE)
    loader = DataLoader(documents.select_columns(["input_ids", "labels"]), batch_size=1, collate_fn=collator)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses = []
    for _ in range(workshop.STEPS):
        for batch in loader:
            with accelerator.accumulate(wrapped):
                loss = wrapped(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(wrapped.parameters(), workshop.CLIP)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(accelerator.gather(loss.detach().reshape(1)).mean().item())
    steps = torch.tensor(losses).reshape(workshop.STEPS, ACCUMULATION)
    accelerator.unwrap_model(wrapped).save_pretrained(output, is_main_process=accelerator.is_main_process)
    return steps.mean(dim=1).tolist()


def trainer(folder, output, deepspeed=None):
    """Transformers' own Seq2SeqTrainer."""
    arguments = _arguments(output, deepspeed=deepspeed)
    if deepspeed is not None:
        cached_ds.zero.join_process_group()  # ZeRO-3 without GPUs, see its docstring
    model, documents, collator = material(folder)
    return _trained(Seq2SeqTrainer(model=model, args=arguments, train_dataset=documents, data_collator=collator))


def model_init(folder, output, **options):
    """A trainer that is handed no model, but a function that makes one."""
    _, documents, collator = material(folder)
    made = {"model_init": lambda: material(folder)[0], "args": _arguments(output, **options)}
    return _trained(cached_ds.CachedSeq2SeqTrainer(**made, train_dataset=documents, data_collator=collator))


def shared(folder, output, deepspeed=None, **options):
    """A trainer whose two ranks share every document: a step takes twice the accumulation."""
    arguments = _arguments(output, accumulation=2 * ACCUMULATION, deepspeed=deepspeed, **options)
    if deepspeed is not None:
        cached_ds.zero.join_process_group()
    model, documents, collator = material(folder, document_parallel=2)
    trainer = cached_ds.CachedSeq2SeqTrainer(model, arguments, train_dataset=documents, data_collator=collator)
    losses = _trained(trainer)
    assert trainer.rows_of_step(), "the rows of a step are found again"
    return losses


def _arguments(output, accumulation=ACCUMULATION, **options):
    return Seq2SeqTrainingArguments(
        output_dir=output, use_cpu=True, per_device_train_batch_size=1, gradient_accumulation_steps=accumulation,
        max_steps=workshop.STEPS, optim="sgd", learning_rate=workshop.LEARNING_RATE, lr_scheduler_type="constant",
        max_grad_norm=workshop.CLIP, save_strategy="no", report_to="none", logging_steps=1, **options,
    )  # fmt: skip


def _trained(trainer):
    """The losses of a run that has ended and is saved."""
    trainer.train()
    trainer.save_model()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]
