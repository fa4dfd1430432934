"""Workshop: a small model, a tokenizer and documents on disk, to train on; what full backpropagation makes of them.

The training set is exactly one optimizer step (2 ranks x 3 accumulated batches x 1 document) and all summaries are
equally long, so the gradient of a step does not depend on the order of the documents: the oracle needs no sampler.
"""

from __future__ import annotations

import json
import random

import torch
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

from cached_ds.data import train_tokenizer
from helpers import oracle, tiny
from helpers.compare import worst_error

WINDOW, LEARNING_RATE, CLIP, STEPS = 16, 0.5, 1.0, 3
TOLERANCE = 1e-5  # of float32 weights: sums of the two ranks and of windows in another order
LENGTHS = (9, 14, 40, 100, 180, 500)  # words: from 1 to 36 windows
WORDS = [f"word{number}" for number in range(30)]


def write_documents(path, lengths, *, seed=0):
    """JSON Lines of documents with so many words, and summaries of five."""
    rng = random.Random(seed)
    rows = [{"text": " ".join(rng.choices(WORDS, k=k)), "summary": " ".join(rng.choices(WORDS, k=5))} for k in lengths]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def build(folder, *, dropout=0.0):
    """Save a tiny BART with its tokenizer to `folder`/model, documents beside it; return `folder`."""
    rows = write_documents(folder / "train.jsonl", LENGTHS)
    write_documents(folder / "validation.jsonl", (20, 70, 33, 12), seed=1)
    texts = [row["text"] for row in rows]
    tokenizer = train_tokenizer(texts, vocab_size=100, model_type="bart", word_level=True)
    sizes = tiny.bart_like(dropout) | {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    torch.manual_seed(0)
    model = tiny.randomise(BartForConditionalGeneration(BartConfig(**sizes)))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


def flags(folder, output, **changes):
    """The command line of a run on the workshop's model and documents; a change to None leaves a flag out."""
    values = {
        "model_name_or_path": folder / "model", "train_file": folder / "train.jsonl", "output_dir": output,
        "window": WINDOW, "do_train": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 3,
        "max_steps": STEPS, "optim": "sgd", "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant",
        "max_grad_norm": CLIP, "weight_decay": 0.0, "save_strategy": "no", "report_to": "none", "logging_steps": 1,
        "disable_tqdm": True,
    } | changes  # fmt: skip
    return [str(word) for name, value in values.items() if value is not None for word in (f"--{name}", value)]


def expected(folder):
    """What full backpropagation over the whole training set makes of the model: its weights, and the losses."""
    model = BartForConditionalGeneration.from_pretrained(folder / "model").train()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(STEPS):
        loss = torch.stack([oracle.loss(model, _batch(tokenizer, row), window=WINDOW) for row in rows]).mean()
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}, losses


def _batch(tokenizer, row):
    document, summary = (tokenizer(row[column], return_tensors="pt") for column in ("text", "summary"))
    ids, mask = document["input_ids"], document["attention_mask"]
    return {"input_ids": ids, "attention_mask": mask, "labels": summary["input_ids"]}


def saved_error(folder, expected):
    """Worst relative error of any parameter of the model saved in `folder`, read without cached_ds."""
    model = BartForConditionalGeneration.from_pretrained(folder)
    return worst_error(dict(model.named_parameters()), expected)
