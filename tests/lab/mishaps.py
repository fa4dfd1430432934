"""Runs of launch/train.py to which something happens: a NaN, a signal, no memory left.

A fault is a word, a rank, and a step counted from 1: `empty` is a document without content. `document` needs neither
rank nor step: whoever reads the word `poison`, which no tokenizer of the workshop knows, gets NaN as its embedding.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from unittest import mock

import torch
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback

from cached_ds.attachment import windowed_encoder
from lab import training, workshop
from lab.training import train

POISON = "poison"
PLACE = 20  # word of the poisoned document: in its second window
ROW = 3  # of the documents of `write_documents`


def write_documents(folder):
    """The workshop's documents, one of them with a word that makes NaN."""
    rows = workshop.write_documents(folder / "train.jsonl", workshop.LENGTHS)
    words = rows[ROW]["text"].split()
    words[PLACE] = POISON
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    lines[ROW] = lines[ROW].replace(rows[ROW]["text"], " ".join(words))
    (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")


class Steps(TrainerCallback):
    """Notes for every step whether a parameter of this rank has changed, and the learning rate behind it."""

    def __init__(self):
        self.found = []

    def on_step_begin(self, *_, **kwargs):
        self.before = snapshot(kwargs["model"])

    def on_step_end(self, *_, **kwargs):
        after = snapshot(kwargs["model"])
        same = all(map(torch.equal, self.before, after))
        finite = all(bool(values.isfinite().all()) for values in after)
        self.found.append((same, finite, kwargs["lr_scheduler"].get_last_lr()[0]))


def snapshot(model):
    """What this rank has of every parameter."""
    return [part_of(parameter).detach().clone() for parameter in model.parameters()]


def part_of(parameter):
    """This rank's part of a parameter, under any engine."""
    if isinstance(parameter, DTensor):
        return parameter.to_local()
    return getattr(parameter, "ds_tensor", parameter)


def run(words, *, fault=None, rank=0, step=0):
    """Train as launch/train.py does; returns this rank's `Steps`."""
    steps = Steps()

    def trainer(*arguments, **options):
        made = TRAINER(*arguments, **options)
        made.add_callback(steps)
        if fault == "document":
            poison(made.model, options["processing_class"].unk_token_id)
        return made

    happens = mock.patch.object(Trainer, "compute_loss", functools.partialmethod(faulty_loss, fault, rank, step))
    with mock.patch.object(train, "CachedSeq2SeqTrainer", trainer), happens if fault else contextlib.nullcontext():
        training.run(words)
    return steps.found


def run_in_fp16(words):
    """`run` where DeepSpeed takes the CPU for one that computes in float16, as it does, if slowly."""
    from deepspeed.accelerator import get_accelerator

    with mock.patch.object(get_accelerator(), "is_fp16_supported", lambda: True):
        return run(words)


TRAINER = train.CachedSeq2SeqTrainer
COMPUTE_LOSS = Trainer.compute_loss


def poison(model, token):
    """Let the embedding of a token be NaN in the encoder."""

    def look(_, inputs, states):
        return torch.where((inputs[0] == token).unsqueeze(-1), torch.nan, states)

    windowed_encoder(model).get_input_embeddings().register_forward_hook(look)


def faulty_loss(trainer, fault, rank, step, *arguments, **options):
    """The Trainer's loss, to which the fault happens."""
    here = (trainer.args.process_index, trainer.state.global_step + 1) == (rank, step) and trainer.model.training
    if fault == "empty" and here:
        inputs = arguments[1]
        inputs |= {name: inputs[name][:, [0, -1]] for name in ("input_ids", "attention_mask")}
    found = COMPUTE_LOSS(trainer, *arguments, **options)
    if not here:
        return found
    if fault in ("SIGTERM", "SIGUSR1"):
        os.kill(os.getpid(), getattr(signal, fault))
    if fault == "memory":
        torch.empty(1 << 55, dtype=torch.uint8)
    if fault == "gradient":
        found.register_hook(lambda gradient: gradient * torch.nan)
    return found + torch.inf if fault == "loss" else found
