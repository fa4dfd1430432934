"""One model that learns to summarize, in a fresh process started by quality.py with its settings as JSON.

A tiny BART learns from random weights, stage by stage; a stage goes on from the weights of the one before. After every
so many updates the model writes about the validation documents, at the end of a stage about the test documents. The
last line of stdout is the result as JSON: by stage, the curve (updates, seconds of learning, score), and the score of
the test documents.

Scores are percent: of `keyfacts` the facts reported in the right place, of `pysource` ROUGE-1.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import BartForConditionalGeneration, PreTrainedTokenizerBase

import cached_ds
from cached_ds.data import (
    DataArguments,
    WholeDocumentCollator,
    exact_match,
    load_splits,
    tokenize_splits,
    train_tokenizer,
)
from cached_ds.evaluation.metrics import decode
from cached_ds.evaluation.rouge import rouge
from cached_ds.models.shapes import make_config
from subjects.learners import LEARNERS

LEARNING_RATE, WARMUP, CLIP = 2e-3, 50, 1.0
SIZES = {"d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "init_std": 0.125}  # half a tiny BART
Batch = dict[str, Tensor]
TOKENIZED = 500  # documents that a tokenizer is trained on
TOGETHER = 10  # documents that are read at once when writing


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """The result of every stage."""
    stages = [Stage(settings["data"], stage, settings["target"]) for stage in settings["stages"]]
    pupil = Pupil(settings, stages[0].tokenizer())
    return {stage.name: learn(pupil, stage) for stage in stages}


class Pupil:
    """A model that learns, and a copy of it that writes.

    Attributes:
        model: the one that learns; attached only if its learner is ours.
        tokenizer: of both.
        step: forward and backward of a batch.
    """

    def __init__(self, settings: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
        """Draw the weights."""
        self.learner, self.window, self.tokenizer = LEARNERS[settings["variant"]], settings["window"], tokenizer
        random.seed(settings["seed"])
        torch.manual_seed(settings["seed"])
        config = make_config("tiny-bart", tokenizer, positions=max(self.window, settings["target"]))
        config.update(SIZES | {"dropout": settings["dropout"]})
        self.model: Any = BartForConditionalGeneration(config)
        self.reader: Any = cached_ds.attach(copy.deepcopy(self.model), window=self.window, windows_per_pass=8).eval()
        self.step = self._step()

    def _step(self) -> Callable[[Batch], Any]:
        if self.learner.step is not None:
            return partial(self.learner.step, self.model, window=self.window)
        cached_ds.attach(self.model, window=self.window, windows_per_pass=8, **self.learner.fields)
        return lambda batch: self.model(**batch).loss.backward()

    @torch.no_grad()
    def write(self, documents: Dataset) -> tuple[list[str], list[str]]:
        """Summaries, written greedily, and references."""
        self.reader.load_state_dict(self.model.state_dict())
        collate, found, wanted = WholeDocumentCollator(self.tokenizer), list[str](), list[str]()
        for first in range(0, len(documents), TOGETHER):
            batch = collate([documents[row] for row in range(first, min(first + TOGETHER, len(documents)))])
            labels = batch.pop("labels")
            read = slice(None if self.learner.reads_all else self.window)
            given = {name: values[:, read] for name, values in batch.items()}
            ids = self.reader.generate(**given, max_new_tokens=labels.shape[1], num_beams=1, do_sample=False)
            found += decode(ids.numpy(), self.tokenizer)
            wanted += decode(labels.numpy(), self.tokenizer)
        return found, wanted


class Stage:
    """Documents of one kind, and how many updates are made with them."""

    def __init__(self, data: str, stage: dict[str, Any], target: int) -> None:
        """Load the texts."""
        self.name, self.updates, self.batch = str(stage["name"]), stage["updates"], stage["batch"]
        self.every, self.data = stage["every"], data
        self.arguments = DataArguments(
            dataset_name=data, dataset_config_name=stage["config"], max_target_length=target,
            max_eval_samples=stage["documents"], max_predict_samples=stage["documents"],
        )  # fmt: skip
        self.texts = load_splits(self.arguments)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """One trained on the training texts: words of keyfacts, parts of words of Python files."""
        rows = self.texts["train"]
        some = rows.select(range(min(TOKENIZED, len(rows))))
        texts = (text for row in some for text in (row["text"], row["summary"]))
        return train_tokenizer(texts, vocab_size=4096, model_type="bart", word_level=self.data == "keyfacts")

    def splits(self, tokenizer: PreTrainedTokenizerBase) -> DatasetDict:
        """The documents as token ids."""
        return tokenize_splits(self.texts, tokenizer=tokenizer, arguments=self.arguments)

    def score(self, summaries: list[str], references: list[str]) -> float:
        """Percent."""
        if self.data == "keyfacts":
            return 100 * exact_match(summaries, references=references)
        return rouge(summaries, references)["rouge1"]


def learn(pupil: Pupil, stage: Stage) -> dict[str, Any]:
    """Train for a stage; the curve, and the score at its end."""
    splits, parameters = stage.splits(pupil.tokenizer), list(pupil.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / WARMUP))
    curve, seconds = [], 0.0
    for number, batch in enumerate(batches(splits["train"], pupil.tokenizer, stage), start=1):
        begin = time.process_time()
        pupil.step(batch)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        seconds += time.process_time() - begin
        warm.step()
        if number % stage.every == 0:
            curve.append((number, seconds, stage.score(*pupil.write(splits["validation"]))))
    return {"curve": curve, "score": stage.score(*pupil.write(splits["test"])), "seconds": seconds}


def batches(documents: Dataset, tokenizer: PreTrainedTokenizerBase, stage: Stage) -> Iterator[Batch]:
    """One batch for each update, in the data's order, from the beginning again where it ends."""
    collate = WholeDocumentCollator(tokenizer)
    for number in range(stage.updates):
        rows = [(number * stage.batch + each) % len(documents) for each in range(stage.batch)]
        yield collate([documents[row] for row in rows])


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
