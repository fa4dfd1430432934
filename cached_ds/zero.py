"""DeepSpeed ZeRO: attach and `deepspeed.initialize` in one call.

`deepspeed.initialize` on an attached model does as well: the class of the windowed encoder (under the layer schedule,
of each layer) carries ZeRO-3's leaf mark, so its parameters are gathered once in forward and once in backward, and
their gradients reduced once. This module adds two things: it refuses keys that DeepSpeed would silently ignore, and
fills in the 'auto' values that ds_configs/ leaves to transformers' Trainer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn

from cached_ds.attachment import ensure_attached, windowed_encoder
from cached_ds.encoder.layered import Replayed
from cached_ds.leaving import remove_shared_buffer, shared_buffer
from cached_ds.left_memory import remove_left_memory
from cached_ds.op_locks import remove_stale_locks
from cached_ds.settings.config import CachedConfig
from cached_ds.settings.extras import needed_by

with needed_by(__name__):
    import deepspeed
    from deepspeed.utils import z3_leaf_module

    from cached_ds.settings import deepspeed_config


def initialize(
    *, model: nn.Module, config: str | Path | dict[str, Any], cached: CachedConfig | None = None, **arguments: Any
) -> tuple[Any, ...]:
    """Attach `model` if it is not attached, then call `deepspeed.initialize` and return its result.

    Args:
        model: a Hugging Face encoder-decoder, attached or not.
        config: a DeepSpeed config, or the path of one; for 'auto' values see `fill_auto`.
        cached: how to cut and replay; None: the defaults, or what the model is attached with.
        **arguments: other arguments of `deepspeed.initialize` (optimizer, lr_scheduler, ...); `model_parameters`
            defaults to the trainable ones.

    Raises:
        ValueError: unknown keys or wrong values in the DeepSpeed config; what `attach` refuses; `cached` for an
            attached model; the lock of a DeepSpeed operator that may be another host's.
    """
    if isinstance(config, dict):
        settings = deepspeed_config.checked(config, source="config")
    else:
        settings = deepspeed_config.load(config)
    ensure_attached(model, cached)
    encoder = windowed_encoder(model)
    leaves: list[nn.Module] = [module for module in encoder.modules() if isinstance(module, Replayed)] or [encoder]
    assert all(map(z3_leaf_module, leaves)), "DeepSpeed no longer reads the leaf mark of the class"
    remove_stale_locks()
    remove_left_memory()
    arguments.setdefault("model_parameters", [p for p in model.parameters() if p.requires_grad])
    engine = deepspeed.initialize(model=model, config=fill_auto(settings, model), **arguments)
    _unlink_shared_memory()
    return engine


def join_process_group() -> None:
    """Let DeepSpeed use the existing process group, or create one.

    Call it before a model is made under ZeRO-3, because `zero.Init` asks DeepSpeed for the world size. On machines
    without GPUs, where accelerate creates the group without DeepSpeed, the answer would be 1 until
    `deepspeed.initialize`.
    """
    remove_stale_locks()
    remove_left_memory()
    deepspeed.init_distributed()
    _unlink_shared_memory()


def _unlink_shared_memory() -> None:
    """Take the name of DeepSpeed's shared memory away once all ranks have mapped it: then no killed rank leaves it."""
    if dist.is_initialized() and shared_buffer(dist.get_rank()).exists():
        dist.barrier()
        remove_shared_buffer(dist.get_rank())


def fill_auto(config: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """A copy of `config` without 'auto': one document per rank and step, clipping at 1.0, the model's own precision.

    ZeRO-3's sizes follow the hidden size, as in transformers' Trainer (its `HfTrainerDeepSpeedConfig`): DeepSpeed's own
    bucket holds 2 GB whatever the model. Any other key with 'auto' is left out, so DeepSpeed's default holds. To choose
    other values, write them into the config.

    Args:
        config: a DeepSpeed config; it is not changed.
        model: the model to be trained, whose precision and hidden size count.

    Raises:
        ValueError: a scheduler with 'auto', which only the Trainer can fill in.
    """
    _refuse_auto_scheduler(config.get("scheduler"))
    dtype = next(model.parameters()).dtype
    width: int = cast(Any, model.config).hidden_size
    values = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "bf16.enabled": dtype == torch.bfloat16,
        "fp16.enabled": dtype == torch.float16,
        "zero_optimization.reduce_bucket_size": width * width,
        "zero_optimization.stage3_prefetch_bucket_size": int(0.9 * width * width),
        "zero_optimization.stage3_param_persistence_threshold": 10 * width,
    }
    return _fill(config, values, "")


def _refuse_auto_scheduler(scheduler: Any) -> None:
    """The number of steps is not known here, and DeepSpeed's default learning rate may be far from the optimizer's."""
    section = scheduler if isinstance(scheduler, dict) else {}
    params = section.get("params")
    values = section | (params if isinstance(params, dict) else {})
    unknown = [name for name, value in values.items() if value == "auto"]
    if unknown:
        raise ValueError(
            f"scheduler: {', '.join(unknown)} cannot be 'auto' here, because only transformers' Trainer knows the "
            "number of steps and the learning rate; write numbers, or leave the section out and pass lr_scheduler"
        )


def _fill(section: dict[str, Any], values: dict[str, Any], path: str) -> dict[str, Any]:
    filled = {}
    for key, value in section.items():
        if isinstance(value, dict):
            filled[key] = _fill(value, values, f"{path}{key}.")
        elif value != "auto":
            filled[key] = value
        elif path + key in values:
            filled[key] = values[path + key]
    return filled
