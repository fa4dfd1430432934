"""`CachedSeq2SeqTrainer` in one process: sampler, prefixes, progress bar, and the settings it refuses."""

from __future__ import annotations

import pytest
import tiny
import torch
import workshop
from accelerate.utils import FullyShardedDataParallelPlugin
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, Seq2SeqTrainingArguments
from transformers.trainer_callback import ProgressCallback

from cached_ds import CachedConfig, CachedSeq2SeqTrainer, attach, fsdp
from cached_ds.data import DataArguments, WholeDocumentCollator, load_splits, tokenize_splits
from cached_ds.progress import TokenProgressCallback
from cached_ds.sampler import LengthBalancedSampler


def make_trainer(folder, tmp_path, *, prefix=None, model=None, **changes):
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    arguments = DataArguments(train_file=str(folder / "train.jsonl"), source_prefix=prefix)
    splits = tokenize_splits(load_splits(arguments), tokenizer=tokenizer, arguments=arguments)
    values = {"output_dir": str(tmp_path), "use_cpu": True, "max_steps": 1, "report_to": "none", "save_strategy": "no"}
    return CachedSeq2SeqTrainer(
        model or AutoModelForSeq2SeqLM.from_pretrained(folder / "model"),
        Seq2SeqTrainingArguments(**values | changes, per_device_train_batch_size=2),
        cached=CachedConfig(window=workshop.WINDOW),
        train_dataset=splits["train"],
        data_collator=WholeDocumentCollator(tokenizer),
    )


def test_documents_are_dealt_by_length(folder, tmp_path):
    trainer = make_trainer(folder, tmp_path)
    sampler = trainer.get_train_dataloader().base_dataloader.batch_sampler.sampler
    assert isinstance(sampler, LengthBalancedSampler)
    assert sampler.lengths == [length + 2 for length in workshop.LENGTHS]


def test_another_strategy_is_respected(folder, tmp_path):
    trainer = make_trainer(folder, tmp_path, train_sampling_strategy="sequential")
    assert isinstance(trainer.get_train_dataloader().base_dataloader.sampler, torch.utils.data.SequentialSampler)


def test_prefix_reaches_every_window(folder, tmp_path):
    plain, prefixed = make_trainer(folder, tmp_path), make_trainer(folder, tmp_path, prefix="word1 word2 word3")
    windows = []
    for trainer in (plain, prefixed):
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model(**batch)
        windows.append(trainer.model.get_encoder().cached.windows_read)
    assert batch["prefix_lengths"].tolist() == [3, 3]
    assert windows[1] > windows[0], "three repeated tokens leave less room for content, so more windows are read"


def test_the_progress_bar_shows_tokens_and_windows(folder, tmp_path, capsys):
    trainer = make_trainer(folder, tmp_path)
    callbacks = trainer.callback_handler.callbacks
    assert sum(isinstance(callback, ProgressCallback) for callback in callbacks) == 1
    assert any(isinstance(callback, TokenProgressCallback) for callback in callbacks)
    trainer.train()
    shown = capsys.readouterr().err
    assert "tokens/s/rank=" in shown and "windows=" in shown


def test_no_progress_bar_where_none_is_wanted(folder, tmp_path):
    trainer = make_trainer(folder, tmp_path, disable_tqdm=True)
    assert not any(isinstance(callback, ProgressCallback) for callback in trainer.callback_handler.callbacks)


def test_two_configs_are_refused(folder, tmp_path):
    model = attach(tiny.make_model("bart"), window=16)
    with pytest.raises(ValueError, match="attached already: leave `cached` out"):
        make_trainer(folder, tmp_path, model=model)


def test_fsdp1_is_refused_with_what_to_use():
    with pytest.raises(ValueError, match="fsdp_version=1: FSDP1 is not supported.*fsdp_version: 2"):
        fsdp.check_plugin(FullyShardedDataParallelPlugin(fsdp_version=1, cpu_ram_efficient_loading=False))


def test_weights_on_one_rank_only_are_refused():
    with pytest.raises(ValueError, match="fsdp_cpu_ram_efficient_loading=true"):
        fsdp.check_plugin(FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=True))
