"""`CachedSeq2SeqTrainer` in one process: sampler, prefixes, progress bar, and the settings it refuses."""

from __future__ import annotations

import json
from unittest import mock

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, Seq2SeqTrainer, Seq2SeqTrainingArguments
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_pt_utils import LabelSmoother

from cached_ds import CachedConfig, CachedSeq2SeqTrainer, attach, fsdp
from cached_ds.checkpoints import replacing
from cached_ds.data import DataArguments, WholeDocumentCollator, load_splits, tokenize_splits
from cached_ds.training.progress import TokenProgressCallback
from cached_ds.training.sampler import LengthBalancedSampler
from helpers import tiny
from helpers.compare import worst_error
from lab import workshop

PREFIX = "word1 word2 word3"


def make_trainer(folder, tmp_path, *, data=None, model=None, model_init=None, **changes):
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    arguments = DataArguments(**{"train_file": str(folder / "train.jsonl"), **(data or {})})
    splits = tokenize_splits(load_splits(arguments), tokenizer=tokenizer, arguments=arguments)
    values = {"output_dir": str(tmp_path), "use_cpu": True, "max_steps": 1, "report_to": "none", "save_strategy": "no"}
    if model is None and model_init is None:
        model = AutoModelForSeq2SeqLM.from_pretrained(folder / "model")
    return CachedSeq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(**values | changes, per_device_train_batch_size=2),
        cached=CachedConfig(window=workshop.WINDOW),
        train_dataset=splits["train"],
        data_collator=WholeDocumentCollator(tokenizer),
        model_init=model_init,
    )


def test_documents_are_dealt_by_length(folder, tmp_path):
    trainer = make_trainer(folder, tmp_path)
    sampler = trainer.get_train_dataloader().base_dataloader.batch_sampler.sampler
    assert isinstance(sampler, LengthBalancedSampler)
    assert sampler.lengths == [length + 2 for length in workshop.LENGTHS]


def test_another_strategy_is_respected(folder, tmp_path):
    trainer = make_trainer(folder, tmp_path, train_sampling_strategy="sequential")
    assert isinstance(trainer.get_train_dataloader().base_dataloader.sampler, torch.utils.data.SequentialSampler)


def test_segments_reach_training_and_generation(folder, tmp_path):
    scenes = {"text": [PREFIX, "word4", "word5 " * 20], "summary": "word6"}
    path = tmp_path / "scenes.jsonl"
    path.write_text(f"{json.dumps(scenes)}\n" * 2, encoding="utf-8")
    data = {"train_file": str(path), "text_lists": "windows"}
    trainer = make_trainer(folder, tmp_path, data=data, predict_with_generate=True)
    counters = trainer.model.get_encoder()._cached_ds.counters
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["segment_lengths"].tolist() == [[3, 1, 20]] * 2
    trainer.model(**batch)
    assert counters.windows_read == 2 * 4, "twenty tokens take two windows of sixteen"
    trainer.predict(trainer.train_dataset, max_length=4)
    assert counters.windows_read == 2 * 4 * 3, "once for the summary, once for the loss"


def test_a_save_that_is_killed_before_the_end_leaves_the_earlier_model(folder, tmp_path, monkeypatch):
    trainer = make_trainer(folder, tmp_path)
    trainer.save_model()
    earlier = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer_config.json"} <= earlier.keys()
    with torch.no_grad():
        trainer.model.lm_head.weight.add_(1)
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(replacing, "_place", mock.Mock(side_effect=InterruptedError))
        trainer.save_model()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == earlier
    trainer.save_model()
    assert (tmp_path / "model.safetensors").read_bytes() != earlier["model.safetensors"]
    assert {path.name for path in tmp_path.iterdir()} == earlier.keys()


def test_prefix_reaches_every_window(folder, tmp_path):
    plain, prefixed = make_trainer(folder, tmp_path), make_trainer(folder, tmp_path, data={"source_prefix": PREFIX})
    windows = []
    for trainer in (plain, prefixed):
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model(**batch)
        windows.append(trainer.model.get_encoder()._cached_ds.counters.windows_read)
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


def test_every_model_of_model_init_reads_whole_documents(folder, tmp_path):
    made = []

    def model_init():
        made.append(AutoModelForSeq2SeqLM.from_pretrained(folder / "model"))
        return made[-1]

    trainer = make_trainer(folder, tmp_path, model_init=model_init)
    trainer.train()
    assert len(made) == 2 and trainer.model is made[1]
    windows = [model.get_encoder()._cached_ds.counters.windows_read for model in made]
    assert windows[0] == 0 and windows[1] > 0


def test_two_configs_are_refused(folder, tmp_path):
    model = attach(tiny.make_model("bart"), window=16)
    with pytest.raises(ValueError, match="attached already: leave `cached` out"):
        make_trainer(folder, tmp_path, model=model)


@pytest.fixture
def own_environment(monkeypatch):
    """Accelerate's plugin tells the whole process, and so every command that a later test starts."""
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")


@pytest.mark.usefixtures("own_environment")
def test_fsdp1_is_refused_with_what_to_use():
    with pytest.raises(ValueError, match="fsdp_version=1: FSDP1 is not supported.*fsdp_version: 2"):
        fsdp.check_plugin(FullyShardedDataParallelPlugin(fsdp_version=1, cpu_ram_efficient_loading=False))


@pytest.mark.usefixtures("own_environment")
def test_weights_on_one_rank_only_are_refused():
    with pytest.raises(ValueError, match="fsdp_cpu_ram_efficient_loading=true"):
        fsdp.check_plugin(FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=True))


@pytest.mark.usefixtures("own_environment")
def test_activation_checkpointing_by_fsdp_is_refused_with_what_to_use():
    options = {"fsdp_version": 2, "cpu_ram_efficient_loading": False, "activation_checkpointing": True}
    with pytest.raises(ValueError, match="fsdp_activation_checkpointing=true .* --gradient_checkpointing the decoder"):
        fsdp.check_plugin(FullyShardedDataParallelPlugin(**options))


@pytest.mark.usefixtures("own_environment")
def test_class_names_that_no_module_has_are_refused_with_those_that_it_has():
    options = {"fsdp_version": 2, "cpu_ram_efficient_loading": False, "auto_wrap_policy": "transformer_based_wrap"}
    model = attach(tiny.make_model("bart"), window=16)
    for names in ("WindowedBartEncoder,BartDecoderLayer", "BartEncoderLayer"):
        plugin = FullyShardedDataParallelPlugin(**options, transformer_cls_names_to_wrap=names.split(","))
        fsdp.check_wrap_classes(plugin, model)
    plugin = FullyShardedDataParallelPlugin(**options, transformer_cls_names_to_wrap=["T5Block"])
    with pytest.raises(ValueError, match="is a 'T5Block'; .* set it to WindowedBartEncoder,BartDecoderLayer"):
        fsdp.check_wrap_classes(plugin, model)


@pytest.mark.usefixtures("own_environment")
def test_bf16_by_accelerate_reduces_in_float32_and_leaves_the_loss_alone():
    """Accelerate's own policy rounds the loss to bf16 (3.78125 for 3.77899), and reduces gradients in it."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    assert fsdp._mixed_precision(plugin) is None
    plugin.set_mixed_precision("bf16")
    expected = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=None)
    assert fsdp._mixed_precision(plugin) == expected


def smoothed_run(kind, folder, tmp_path):
    """Weights after two steps with label smoothing, then the loss of an evaluation."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = attach(AutoModelForSeq2SeqLM.from_pretrained(folder / "model"), window=workshop.WINDOW)
    arguments = DataArguments(train_file=str(folder / "train.jsonl"))
    documents = tokenize_splits(load_splits(arguments), tokenizer=tokenizer, arguments=arguments)["train"]
    settings = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, max_steps=2, report_to="none", save_strategy="no", disable_tqdm=True,
        label_smoothing_factor=0.3, gradient_accumulation_steps=2, per_device_train_batch_size=1, optim="sgd",
        learning_rate=workshop.LEARNING_RATE, train_sampling_strategy="sequential",
    )  # fmt: skip
    collator = WholeDocumentCollator(tokenizer, model=model)
    trainer = kind(model, settings, train_dataset=documents, eval_dataset=documents, data_collator=collator)
    trainer.train()
    return trainer, dict(model.named_parameters()), trainer.evaluate()["eval_loss"]


def test_label_smoothing_is_that_of_transformers_without_its_logits(folder, tmp_path, monkeypatch):
    _, expected, expected_loss = smoothed_run(Seq2SeqTrainer, folder, tmp_path)
    monkeypatch.delattr(LabelSmoother, "__call__")  # which needs whole logits
    _, found, loss = smoothed_run(CachedSeq2SeqTrainer, folder, tmp_path)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    # float32: sums of the logits' size in another order.
    assert worst_error(found, expected) < 1e-5


def test_a_step_without_a_gradient_is_told(folder, tmp_path, caplog):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "model").requires_grad_(False)
    model.model.encoder.layernorm_embedding.weight.requires_grad_()
    trainer = make_trainer(folder, tmp_path, model=model, logging_steps=1)
    trainer.train()
    assert not caplog.records
    model.model.shared.weight.zero_()  # the logits' weight too, so that nothing comes back from them
    trainer.train()
    (record,) = caplog.records
    assert record.message.startswith("step 1: the norm of the gradient is 0")
