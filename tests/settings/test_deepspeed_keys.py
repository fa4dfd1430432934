"""DeepSpeed JSON: unknown keys are refused, the shipped files are accepted by those who read them."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from deepspeed.runtime.config import DeepSpeedConfig
from transformers import AutoModelForSeq2SeqLM, BartConfig, Seq2SeqTrainingArguments
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from cached_ds import zero
from cached_ds.settings import deepspeed_keys as ds_config
from helpers import tiny

CONFIGS = Path(__file__).parents[2] / "ds_configs"
JSON_FILES = sorted(CONFIGS.glob("*.json"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"gradient_cliping": 1.0}, "gradient_cliping: .* did you mean 'gradient_clipping'"),
        ({"zero_optimisation": {}}, "did you mean 'zero_optimization'"),
        ({"zero_optimization": {"stag": 2}}, r"zero_optimization\.stag: .* did you mean 'stage'"),
        ({"zero_optimization": {"offload_param": {"devise": "cpu"}}}, r"offload_param\.devise: .* 'device'"),
        ({"zero_optimization": {"leaf_module": {"class": []}}}, r"leaf_module\.class: .* 'classes'"),
        ({"fp16": {"loss_scal": 0}}, r"fp16\.loss_scal: .* 'loss_scale'"),
        ({"bf16": {"enable": True}}, r"bf16\.enable: .* 'enabled'"),
        ({"optimizer": {"type": "AdamW", "parms": {}}}, r"optimizer\.parms: .* 'params'"),
        ({"scheduler": {"kind": "WarmupLR"}}, r"scheduler\.kind: .* known are params, type"),
        ({"activation_checkpointing": {"partition_activation": True}}, "'partition_activations'"),
        ({"flops_profiler": {"profile_steps": 1}}, "'profile_step'"),
        ({"comms_logger": {"verbos": True}}, "'verbose'"),
        ({"csv_monitor": {"outputpath": "x"}}, "'output_path'"),
        ({"tensorboard": {"jobname": "x"}}, "'job_name'"),
        ({"wandb": {"projekt": "x"}}, "'project'"),
        ({"aio": {"blocksize": 1}}, "'block_size'"),
        ({"data_types": {"grad_accum_type": "fp32"}}, "'grad_accum_dtype'"),
        ({"torch_autocast": {"dtyp": "bfloat16"}}, "'dtype'"),
        ({"checkpoint": {"writer": {"typ": "fast"}}}, r"checkpoint\.writer\.typ: .* 'type'"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(config, message):
    with pytest.raises(ValueError, match=f"given.json: .*{message}"):
        ds_config.check_keys(config, source="given.json")


def test_all_unknown_keys_are_named_at_once():
    with pytest.raises(ValueError, match="fp61.*stag"):
        ds_config.check_keys({"fp61": {}, "zero_optimization": {"stag": 2}}, source="given.json")


def test_known_keys_and_free_contents_pass():
    config = {
        "train_batch_size": "auto",
        "sequence_parallel_size": 1,
        "bfloat16": {"enabled": False},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "anything": 1}, "legacy_fusion": False},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 5}},
        "zero_optimization": {"stage": 3, "stage3_max_live_parameters": 1, "max_reuse_distance": 1},
        "pipeline": {"stages": "auto"},
        "timers": {"throughput": {"synchronized": False}},
        "wall_clock_breakdown": True,
        "communication_data_type": "fp32",
    }
    ds_config.check_keys(config, source="given.json")


def test_load_reads_and_checks(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text('{"steps_per_print": 10}', encoding="utf-8")
    assert ds_config.load(path) == {"steps_per_print": 10}
    path.write_text('{"steps_per_prints": 10}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"ds\.json: steps_per_prints: .* 'steps_per_print'"):
        ds_config.load(path)
    path.write_text('{"steps_per_print": 10,}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"ds\.json, line 1: "):
        ds_config.load(path)


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
    ds_config.load(path)
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
