"""Families: a made-up one, added by one entry, gets a tokenizer and a shape, trains exactly and generates."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, BartConfig, BartForConditionalGeneration

from cached_ds import attach
from cached_ds.data import train_tokenizer
from cached_ds.models.families import FAMILIES, FramePattern
from cached_ds.models.shapes import make_config
from helpers import oracle, tiny
from helpers.compare import EXACT, gradients, worst_error

TEXT = "one two three four five six seven eight nine ten " * 12


class MadeUpConfig(BartConfig):
    model_type = "madeup"


class MadeUpForConditionalGeneration(BartForConditionalGeneration):
    config_class = MadeUpConfig


AutoConfig.register("madeup", MadeUpConfig)
AutoModelForSeq2SeqLM.register(MadeUpConfig, MadeUpForConditionalGeneration)
ENTRY = dataclasses.replace(FAMILIES["bart"], frames=(FramePattern((), ("eos",)),), decoder_start="pad")


@pytest.fixture
def model_and_batch(monkeypatch):
    """A tiny model of the new family and a document of several windows, made as launch/train.py makes them."""
    monkeypatch.setitem(FAMILIES, "madeup", ENTRY)
    monkeypatch.setitem(oracle.FRAMES, "madeup", (0, 1))
    tokenizer = train_tokenizer([TEXT], vocab_size=40, model_type="madeup", word_level=True)
    config = make_config("tiny-madeup", tokenizer, positions=32)
    torch.manual_seed(0)
    batch = dict(tokenizer(TEXT, return_tensors="pt", return_token_type_ids=False))
    batch["labels"] = tokenizer("one two", return_tensors="pt")["input_ids"]
    return AutoModelForSeq2SeqLM.from_config(config), batch


def test_a_made_up_family_trains_by_one_entry(model_and_batch):
    model, batch = model_and_batch
    reference = copy.deepcopy(model.double())
    attach(model, window=32)(**batch).loss.backward()
    oracle.loss(reference, batch, window=32).backward()
    assert worst_error(gradients(model), gradients(reference)) < EXACT
    assert model.get_encoder()._cached_ds.counters.windows_read > 3


def test_a_made_up_family_learns_and_generates(model_and_batch):
    model, batch = model_and_batch
    attach(model, window=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        losses.append(model(**batch).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 10
    written = model.eval().generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=3)
    assert written[0, 0] == model.config.pad_token_id and torch.equal(written[0, 1:], batch["labels"][0])


def test_every_family_has_a_model_in_the_tests():
    assert set(tiny.MODELS) == set(FAMILIES) == set(oracle.FRAMES)
