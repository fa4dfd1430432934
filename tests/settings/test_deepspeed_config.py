"""DeepSpeed configs: the shipped files are accepted by those who read them, a file is read and checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from deepspeed.runtime.config import DeepSpeedConfig
from transformers import AutoModelForSeq2SeqLM, BartConfig, Seq2SeqTrainingArguments
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from cached_ds import zero
from cached_ds.settings import deepspeed_config
from helpers import tiny

CONFIGS = Path(__file__).parents[2] / "ds_configs"
JSON_FILES = sorted(CONFIGS.glob("*.json"))


def test_load_reads_and_checks(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text('{"train_batch_size": 10}', encoding="utf-8")
    assert deepspeed_config.load(path) == {"train_batch_size": 10}
    path.write_text('{"steps_per_prints": 10}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"ds\.json: steps_per_prints: .* 'steps_per_print'"):
        deepspeed_config.load(path)
    path.write_text('{"steps_per_print": 10,}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"ds\.json, line 1: "):
        deepspeed_config.load(path)


def auto_keys(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, dict):
            yield from auto_keys(value, prefix=f"{prefix}{key}.")
        elif value == "auto":
            yield f"{prefix}{key}"


@pytest.fixture(scope="module")
def tiny_bart():
    return AutoModelForSeq2SeqLM.from_config(BartConfig(vocab_size=16, d_model=16, encoder_layers=1, decoder_layers=1))


@pytest.mark.parametrize("path", JSON_FILES, ids=lambda path: path.stem)
def test_the_trainer_fills_every_auto_and_deepspeed_accepts_the_result(path, tiny_bart, tmp_path):
    deepspeed_config.load(path)
    arguments = Seq2SeqTrainingArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=2)
    filled = HfTrainerDeepSpeedConfig(str(path))
    filled.trainer_config_process(arguments)
    filled.trainer_config_finalize(arguments, tiny_bart, num_training_steps=10)
    assert list(auto_keys(filled.config)) == []
    read = DeepSpeedConfig(filled.config)
    assert f"zero{read.zero_optimization_stage}" == path.stem.removesuffix("_offload")
    assert (read.zero_config.offload_optimizer is not None) == path.stem.endswith("_offload")


@pytest.mark.parametrize("name", ["fsdp", "fsdp_offload"])
def test_accelerate_reads_the_fsdp_files(name):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type == "FSDP"
    assert config.fsdp_config["fsdp_version"] == 2
    assert config.fsdp_config["fsdp_offload_params"] == (name == "fsdp_offload")


def test_the_folder_holds_the_six_files():
    names = "fsdp.yaml fsdp_offload.yaml zero1.json zero2.json zero3.json zero3_offload.json"
    assert sorted(path.name for path in CONFIGS.iterdir()) == names.split()


def test_a_scheduler_that_only_the_trainer_can_fill_in_is_refused():
    model = tiny.make_model("bart")
    scheduler = {"type": "WarmupDecayLR", "params": {"total_num_steps": "auto", "warmup_num_steps": 3}}
    with pytest.raises(ValueError, match="scheduler: total_num_steps cannot be 'auto' here"):
        zero.fill_auto({"scheduler": scheduler}, model)
    with pytest.raises(ValueError, match="scheduler: type, params cannot be 'auto' here"):
        zero.fill_auto({"scheduler": {"type": "auto", "params": "auto"}}, model)
    scheduler["params"]["total_num_steps"] = 9
    assert zero.fill_auto({"scheduler": scheduler}, model) == {"scheduler": scheduler}


def test_what_is_wrong_is_told_before_what_is_missing():
    with pytest.raises(ValueError, match="optimizer.type='AdamNope' is refused"):
        deepspeed_config.checked({"optimizer": {"type": "AdamNope", "params": {}}}, source="ds.json")
    with pytest.raises(ValueError, match="neither train_batch_size nor train_micro_batch_size_per_gpu is there"):
        deepspeed_config.checked({"optimizer": {"type": "AdamW", "params": {}}}, source="ds.json")


@pytest.mark.parametrize(
    ("stage", "section", "top", "message"),
    [
        (1, {"allgather_bucket_size": 3}, {}, r"allgather_bucket_size=3 is refused; allowed is an even number"),
        (2, {"allgather_bucket_size": 5.0}, {}, r"allgather_bucket_size=5.0 is refused"),
        (
            2,
            {},
            {"prescale_gradients": True},
            r"prescale_gradients=True is refused with ZeRO-2; allowed is False, unless",
        ),
        (3, {}, {"gradient_predivide_factor": 2}, r"gradient_predivide_factor=2 is refused with ZeRO-3; allowed is 1,"),
        (3, {"allgather_bucket_size": 3}, {}, None),
        (3, {"reduce_scatter": False}, {"prescale_gradients": True}, None),
        (1, {}, {"gradient_predivide_factor": 2, "prescale_gradients": True}, None),
        (2, {"allgather_bucket_size": "auto"}, {"gradient_predivide_factor": 1.0}, None),
    ],
)
def test_what_zero_asserts_when_its_optimizer_is_made(stage, section, top, message):
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": stage, **section}, **top}
    if message is None:
        deepspeed_config.checked(config, source="ds.json")
        return
    with pytest.raises(ValueError, match=rf"ds\.json: (zero_optimization\.)?{message}"):
        deepspeed_config.checked(config, source="ds.json")
