"""DeepSpeed's keys: those that it does not know are refused with the nearest, those that it knows are not."""

from __future__ import annotations

import pytest

from cached_ds.settings.deepspeed_keys import check_keys


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
        check_keys(config, source="given.json")


def test_all_unknown_keys_are_named_at_once():
    with pytest.raises(ValueError, match="fp61.*stag"):
        check_keys({"fp61": {}, "zero_optimization": {"stag": 2}}, source="given.json")


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
    check_keys(config, source="given.json")
