"""Evaluation by `CachedSeq2SeqTrainer`, and attribution, on as many ranks as there are."""

from __future__ import annotations

import json

import torch
from accelerate import PartialState
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, Seq2SeqTrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from cached_ds import CachedConfig, CachedSeq2SeqTrainer, attach, fsdp
from cached_ds.data import DataArguments, WholeDocumentCollator, load_splits, tokenize_splits
from cached_ds.data.collator import IGNORED_LABEL, pad
from cached_ds.evaluation.attribution.predictions import attribute_predictions
from cached_ds.evaluation.metrics import SummaryMetrics, decode
from helpers.oracle import loss as full_loss
from lab import workshop


def documents_of(folder):
    """Tokenized documents of `folder`/many.jsonl, and their tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    arguments = DataArguments(test_file=str(folder / "many.jsonl"))
    return tokenize_splits(load_splits(arguments), tokenizer=tokenizer, arguments=arguments)["test"], tokenizer


def write_many(folder):
    """Write documents whose summaries differ in length to `folder`/many.jsonl."""
    rows = [
        {"text": " ".join(workshop.WORDS[: 3 + 11 * number]), "summary": " ".join(workshop.WORDS[: 1 + number])}
        for number in (2, 0, 5, 1, 6, 3, 4)
    ]
    (folder / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def evaluate(folder, output, *, counts, batch_sizes, dtype=torch.float64, ranks_per_document=1, **options):
    """Metrics and predicted texts of the first `count` documents, by count and batch size."""
    unset_hf_deepspeed_config()  # of a run before, on the same ranks
    rows, tokenizer = documents_of(folder)
    found = {}
    for batch_size in batch_sizes:
        values = {"output_dir": output, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
        trainer = CachedSeq2SeqTrainer(
            AutoModelForSeq2SeqLM.from_pretrained(folder / "model", dtype=dtype),
            Seq2SeqTrainingArguments(
                **values | options,
                per_device_eval_batch_size=batch_size,
                predict_with_generate=True,
                generation_max_length=6,
                train_sampling_strategy="group_by_length",
            ),
            cached=CachedConfig(window=workshop.WINDOW, document_parallel=ranks_per_document),
            data_collator=WholeDocumentCollator(tokenizer),
            processing_class=tokenizer,
            compute_metrics=SummaryMetrics(tokenizer),
        )
        for count in counts:
            result = trainer.predict(rows.select(range(count)))
            metrics = {name: result.metrics[f"test_{name}"] for name in ("loss", "rouge1", "rougeLsum", "gen_len")}
            found[count, batch_size] = metrics, decode(result.predictions, tokenizer), len(result.label_ids)
    return found


def attribute(folder, *, sharded=False):
    """The records of all documents, their own summaries taken for predicted ones."""
    PartialState(cpu=True)
    rows, tokenizer = documents_of(folder)
    model = attach(AutoModelForSeq2SeqLM.from_pretrained(folder / "model", dtype=torch.float64), window=workshop.WINDOW)
    start = model.config.decoder_start_token_id
    predictions = pad([[start, *row["labels"]] for row in rows], value=IGNORED_LABEL).numpy()
    model = fsdp.shard(model) if sharded else model
    return attribute_predictions(model.eval(), rows, predictions, tokenizer=tokenizer, occlusion=True)


def loss_per_token(folder, count):
    """The same loss by full backpropagation, document by document."""
    rows, _ = documents_of(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "model", dtype=torch.float64).eval()
    total = tokens = 0.0
    for row in rows.select(range(count)):
        batch = {name: torch.tensor([row[name]]) for name in ("input_ids", "labels")}
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        size = batch["labels"].numel()
        total, tokens = total + size * full_loss(model, batch, window=workshop.WINDOW).item(), tokens + size
    return total / tokens
