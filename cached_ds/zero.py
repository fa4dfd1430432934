"""DeepSpeed ZeRO: attach and `deepspeed.initialize` in one call.

Vanilla `deepspeed.initialize` on an attached model is just as good: the windowed encoder class (under the layer
schedule: the class of each layer) carries ZeRO-3's leaf mark, so its parameters are gathered once in forward and once
in backward, and reduced once. This module adds what DeepSpeed does not do by itself: it refuses keys that DeepSpeed
would silently ignore, and fills in the 'auto' values that ds_configs/ leaves to transformers' Trainer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from cached_ds.attachment import ensure_attached, windowed_encoder
from cached_ds.encoder.layered import Replayed
from cached_ds.settings.config import CachedConfig
from cached_ds.settings.extras import needed_by

with needed_by(__name__):
    import deepspeed
    from deepspeed.utils import z3_leaf_module

    from cached_ds.settings import deepspeed_keys as ds_config


def initialize(
    *, model: nn.Module, config: str | Path | dict[str, Any], cached: CachedConfig | None = None, **arguments: Any
) -> tuple[Any, ...]:
    """Attach `model` if it is not attached, then call `deepspeed.initialize`; returns what that returns.

    Args:
        model: a Hugging Face encoder-decoder, attached or not.
        config: a DeepSpeed config, or the path of one; for 'auto' values see `fill_auto`.
        cached: how to cut and replay; None: the defaults, or the attached model's.
        **arguments: other arguments of `deepspeed.initialize` (optimizer, model_parameters, lr_scheduler, ...).

    Raises:
        ValueError: unknown keys in the DeepSpeed config; what `attach` refuses; `cached` for an attached model.
    """
    if isinstance(config, dict):
        ds_config.check_keys(config, source="config")
    settings = config if isinstance(config, dict) else ds_config.load(config)
    ensure_attached(model, cached)
    encoder = windowed_encoder(model)
    leaves: list[nn.Module] = [module for module in encoder.modules() if isinstance(module, Replayed)] or [encoder]
    assert all(map(z3_leaf_module, leaves)), "DeepSpeed no longer reads the leaf mark of the class"
    arguments.setdefault("model_parameters", [p for p in model.parameters() if p.requires_grad])
    return deepspeed.initialize(model=model, config=fill_auto(settings, model), **arguments)


def join_process_group() -> None:
    """Let DeepSpeed know the process group, or create it.

    Needed before a model is made under ZeRO-3: `zero.Init` asks DeepSpeed for the world size, which on machines without
    GPUs is 1 until `deepspeed.initialize`, since accelerate creates the group there without DeepSpeed.
    """
    deepspeed.init_distributed()


def fill_auto(config: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """A copy of `config` without 'auto': one document per rank and step, clipping at 1.0, the model's own precision.

    ZeRO-3's sizes are those of transformers' Trainer (its `HfTrainerDeepSpeedConfig`), by the hidden size: DeepSpeed's
    own bucket holds 2 GB whatever the model. Any other 'auto' is left out, so DeepSpeed's default holds. Give values in
    the config to choose others.
    """
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
