"""In one process: what a trace knows of windows, what the sentences say, and how little a healthy step notices."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, Seq2SeqTrainingArguments, Trainer

from cached_ds import CachedConfig, CachedSeq2SeqTrainer
from cached_ds.data import DataArguments, WholeDocumentCollator, load_splits, tokenize_splits
from cached_ds.guards import finite, rounds
from cached_ds.guards.faults import TrainingFault
from cached_ds.guards.memory import advice
from cached_ds.guards.traces import finite_rows
from cached_ds.training.rows import rows_of_step
from cached_ds.training.sampler import LengthBalancedSampler
from lab import mishaps, workshop


def make_trainer(folder, tmp_path, *, cached=None, **changes):
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    arguments = DataArguments(train_file=str(folder / "train.jsonl"))
    splits = tokenize_splits(load_splits(arguments), tokenizer=tokenizer, arguments=arguments)
    values = {"output_dir": str(tmp_path), "use_cpu": True, "max_steps": 3, "report_to": "none", "save_strategy": "no"}
    values |= {"disable_tqdm": True, "logging_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 0.01}
    values |= {"lr_scheduler_type": "linear"}
    return CachedSeq2SeqTrainer(
        AutoModelForSeq2SeqLM.from_pretrained(folder / "model"),
        Seq2SeqTrainingArguments(**values | changes),
        cached=CachedConfig(**{"window": workshop.WINDOW} | (cached or {})),
        train_dataset=splits["train"],
        data_collator=WholeDocumentCollator(tokenizer),
        max_skipped_steps=1,
    )


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    folder = workshop.build(tmp_path_factory.mktemp("poisoned"))
    mishaps.write_documents(folder)
    return folder


@pytest.mark.parametrize("cached", [{}, {"schedule": "layer"}, {"offload": "disk"}, {"recompute": 3}], ids=str)
def test_the_window_is_named_and_the_schedule_of_the_learning_rate_waits(poisoned, tmp_path, caplog, cached):
    trainer = make_trainer(poisoned, tmp_path, cached=cached)
    steps = mishaps.Steps()
    trainer.add_callback(steps)
    mishaps.poison(trainer.model, AutoTokenizer.from_pretrained(poisoned / "model").unk_token_id)
    trainer.train()
    same = [same for same, _, _ in steps.found]
    assert sum(same) == 1 and all(finite for _, finite, _ in steps.found)
    assert f"rank 0, document {mishaps.ROW} (102 tokens): the encoder states of window 2 of 8 are not" in caplog.text
    rates, bad = [0.01, *(rate for _, _, rate in steps.found)], same.index(True)
    assert [math.isclose(after, before) for before, after in itertools.pairwise(rates)] == same, (rates, bad)


def test_a_run_of_bad_steps_ends(poisoned, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Trainer, "compute_loss", lambda *arguments, **options: COMPUTE_LOSS(*arguments, **options) + math.inf
    )
    trainer = make_trainer(poisoned, tmp_path)
    with pytest.raises(
        TrainingFault, match="^step 2: .*not finite, 2 times in a row; allowed is --max_skipped_steps 1"
    ):
        trainer.train()


COMPUTE_LOSS = Trainer.compute_loss


def test_a_healthy_step_is_the_very_same(folder, tmp_path, monkeypatch):
    losses = []
    for guarded in (True, False):
        if not guarded:
            monkeypatch.setattr("cached_ds.guards.trainer.poisoned", lambda loss: loss)
            monkeypatch.setattr("cached_ds.guards.traces.Traces.watch", lambda *_: None)
        trainer = make_trainer(folder, tmp_path)
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
        weights = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        if guarded:
            expected = weights
    assert losses[0] == losses[1] and all(map(torch.equal, expected, weights))


def test_a_step_meets_once_whatever_comes(folder, tmp_path, monkeypatch):
    met = []
    share = rounds.share
    monkeypatch.setattr(rounds, "share", lambda **said: met.append(said) or share(**said))
    make_trainer(folder, tmp_path, gradient_accumulation_steps=2).train()
    assert len(met) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_of_a_token_makes_its_row_bad(value):
    states = torch.randn(2, 5, 8)
    states[1, 3, 7] = value
    assert finite_rows(states).tolist() == [[True] * 5, [True, True, True, False, True]]


@pytest.mark.parametrize("value", [1.5, math.nan, math.inf])
def test_a_loss_that_is_not_finite_has_a_gradient_that_is_not(value):
    weight = torch.tensor(1.0, requires_grad=True)
    loss = finite.poisoned(weight + value)
    loss.backward()
    assert (loss == 2.5 and weight.grad == 1) if value == 1.5 else (weight.grad.isnan() and not loss.isfinite())


@pytest.mark.parametrize("ranks", [1, 2])
def test_rows_are_those_that_the_loader_gives(ranks):
    sampler = LengthBalancedSampler(range(1, 24), batch_size=2, num_ranks=ranks)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for rank in range(ranks):
            batches = BatchSampler(sampler, 2, drop_last=False)
            batches = BatchSamplerShard(batches, ranks, rank) if ranks > 1 else batches
            loader = DataLoader(range(23), batch_sampler=batches, collate_fn=list)
            read, per_epoch = list(loader), math.ceil(len(loader) / 3)
            found = [rows_of_step(loader, step=epoch * per_epoch + at, accumulation=3) for at in range(per_epoch)]
            assert [rows for step in found for rows in step] == read


def test_rows_of_an_order_that_is_not_repeated_are_not_known():
    assert rows_of_step(DataLoader(range(4), shuffle=True), step=0, accumulation=1) == []
    assert rows_of_step(DataLoader(range(4), sampler=SequentialSampler(range(4))), step=1, accumulation=1) == [[1]]


def test_the_advice_begins_with_what_costs_least():
    assert advice(CachedConfig(recompute="auto"), batch_size=4).startswith("set --per_device_train_batch_size 1")
    assert advice(CachedConfig(recompute="auto"), batch_size=1).startswith("leave --recompute at all")
    frugal = CachedConfig(windows_per_pass=1, offload="disk", schedule="layer")
    assert advice(frugal, batch_size=1).startswith("choose a smaller --window")
