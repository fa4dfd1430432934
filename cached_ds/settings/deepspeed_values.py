"""Values of a DeepSpeed config: those that DeepSpeed would notice late, in a traceback, or never, are refused.

What is allowed is not listed here but asked of the installed version: of its pydantic models, of the types of the
defaults with which it looks up the other keys, of its optimizers and schedulers, which are made once, and of
`DeepSpeedConfig` itself. "auto" is filled in by transformers.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from cached_ds.settings.deepspeed_keys import MODELS, Probe, looked_up
from cached_ds.settings.extras import needed_by
from cached_ds.settings.unknown_names import CARELESS, unknown

with needed_by("a DeepSpeed config"):
    from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
    from deepspeed.runtime import lr_schedules
    from deepspeed.runtime.config import (
        ADAM_W_MODE,
        DEEPSPEED_OPTIMIZERS,
        TORCH_ADAM_PARAM,
        DeepSpeedConfig,
        DtypeEnum,
    )
    from pydantic import ValidationError

BATCH_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
ADAMS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def check_values(config: Mapping[str, Any], *, source: str) -> None:
    """Refuse values that cannot work.

    Args:
        config: the content of a DeepSpeed config, its keys checked.
        source: where it comes from, for the message.

    Raises:
        ValueError: the first wrong value, with its key and what is allowed.
    """
    for name in MODELS.keys() & config.keys():
        _check_model(name, config[name], source)
    _check_stage(config, source)
    _check_types(config, looked_up(), source=source, prefix="")
    _check_numbers(config, source)
    _check_reduction(config, source)
    _check_dtypes(config.get("data_types") or {}, source)
    _check_part(config, "optimizer", DEEPSPEED_OPTIMIZERS, torch.optim, source)
    _check_part(config, "scheduler", lr_schedules.VALID_LR_SCHEDULES, torch.optim.lr_scheduler, source)
    _check_batch_size(config, source)  # what is wrong is told before what is missing
    given = {key: value for key, value in _without_auto(config).items() if key not in BATCH_KEYS}
    try:
        DeepSpeedConfig(given | {"train_micro_batch_size_per_gpu": 1})
    except CARELESS as error:
        raise ValueError(f"{source} is refused by DeepSpeed{_told(error)}") from error


def _check_stage(config: Mapping[str, Any], source: str) -> None:
    """Refuse ZeRO without a stage, which DeepSpeed takes for 0 and accelerate looks up in vain."""
    section = config.get("zero_optimization")
    if section is not None and section.get("stage", "auto") == "auto":
        raise ValueError(f"{source}: zero_optimization has no stage; allowed is 0, 1, 2 or 3")


def _check_model(name: str, section: Any, source: str) -> None:
    if not isinstance(section, Mapping):
        raise ValueError(f"{source}: {name}={section!r} is refused; allowed is a mapping")
    try:
        MODELS[name](**_without_auto(section))
    except (ValueError, AssertionError, TypeError) as error:
        raise ValueError(f"{source}: {name}{_told(error)}") from error


def _told(error: Exception) -> str:
    """The first complaint: a pydantic one with the key below the section."""
    if not isinstance(error, ValidationError):
        return f": {error}"
    first = error.errors()[0]
    return f"{''.join(f'.{key}' for key in first['loc'])}={first['input']!r} is refused: {first['msg']}"


def _check_types(config: Mapping[str, Any], probe: Probe, *, source: str, prefix: str) -> None:
    """Refuse a value that is of another kind than the default with which DeepSpeed looks it up."""
    for key in probe.asked.keys() & config.keys() - MODELS.keys():
        value, default, name = config[key], probe.asked[key], f"{source}: {prefix}{key}"
        below = dict.get(probe, key)
        allowed = "a mapping" if isinstance(below, Probe) else _kind(default)
        if value is None or value == "auto" or allowed is None:
            continue
        if _kind(value) != allowed:
            raise ValueError(f"{name}={value!r} is refused; allowed is {allowed}")
        if isinstance(below, Probe):
            _check_types(value, below, source=source, prefix=f"{prefix}{key}.")


def _kind(value: object) -> str | None:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", dict: "a mapping"}
    return kinds.get(type(value))


def _check_batch_size(config: Mapping[str, Any], source: str) -> None:
    if not BATCH_KEYS[:2] & config.keys():
        raise ValueError(
            f'{source}: neither {BATCH_KEYS[0]} nor {BATCH_KEYS[1]} is there; add "{BATCH_KEYS[1]}": "auto", which is '
            "--per_device_train_batch_size"
        )


def _check_numbers(config: Mapping[str, Any], source: str) -> None:
    for name in (*BATCH_KEYS, "steps_per_print"):
        value = config.get(name, "auto")
        if value != "auto" and not (_is_number(value) and isinstance(value, int) and 1 <= value < 2**31):
            raise ValueError(f'{source}: {name}={value!r} is refused; allowed is "auto" or an integer >= 1')
    for name, above in (("gradient_clipping", False), ("gradient_predivide_factor", True)):
        value = config.get(name, "auto")
        if value != "auto" and not (_is_number(value) and 0 <= value < float("inf") and not (above and value == 0)):
            sign = ">" if above else ">="
            raise ValueError(f'{source}: {name}={value!r} is refused; allowed is "auto" or a number {sign} 0')


def _check_reduction(config: Mapping[str, Any], source: str) -> None:
    """Refuse what the optimizers of ZeRO's stages assert only when they are made."""
    section = config.get("zero_optimization") or {"stage": 0}
    stage, size = int(section["stage"]), section.get("allgather_bucket_size", "auto")
    if stage in (1, 2) and size != "auto" and int(size) % 2:
        name = f"{source}: zero_optimization.allgather_bucket_size"
        raise ValueError(f"{name}={size} is refused; allowed is an even number")
    for key, allowed in (("prescale_gradients", False), ("gradient_predivide_factor", 1)):
        value = config.get(key, allowed)
        if stage >= 2 and section.get("reduce_scatter", True) and value not in ("auto", allowed):
            raise ValueError(
                f"{source}: {key}={value!r} is refused with ZeRO-{stage}; allowed is {allowed!r}, unless "
                "zero_optimization.reduce_scatter=False"
            )


def _check_dtypes(section: Mapping[str, Any], source: str) -> None:
    """Refuse a dtype by a name that DeepSpeed's engine will not know."""
    for key in ("grad_accum_dtype", "param_dtype", "buffer_dtype"):
        value = section.get(key)
        try:
            DtypeEnum("fp32" if value in (None, "auto") else value)
        except ValueError as error:
            raise ValueError(f"{source}: data_types.{key}={value!r} is refused; allowed is fp32, fp16, bf16") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _without_auto(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_auto(value) if isinstance(value, Mapping) else value
        for key, value in section.items()
        if value != "auto"
    }


def _check_part(config: Mapping[str, Any], name: str, known: Sequence[str], module: object, source: str) -> None:
    """Refuse an optimizer or a scheduler that neither DeepSpeed nor torch has, and parameters that it does not take."""
    section = config.get(name)
    if section is None:
        return
    kind = section.get("type") if isinstance(section, Mapping) else None
    if not isinstance(kind, str) or (kind.lower() not in map(str.lower, known) and not hasattr(module, kind)):
        shown = f"{name}={section!r}" if kind is None else f"{name}.type={kind!r}"
        raise ValueError(f"{source}: {shown} is refused; allowed types are {', '.join(known)}, and those of torch")
    params = section.get("params", "auto")
    if params == "auto" or params is None:
        return
    if not isinstance(params, Mapping):
        raise ValueError(f"{source}: {name}.params={params!r} is refused; allowed is a mapping")
    try:
        _make_optimizer(kind, params) if name == "optimizer" else _make_scheduler(kind, params)
    except CARELESS as error:
        raise ValueError(f"{source}: {name}.params is refused: {error}") from error


def _make_optimizer(kind: str, params: Mapping[str, Any]) -> None:
    """Make torch's optimizer of that name; Adam's parameters may be those of DeepSpeed's own."""
    made = ADAMS.get(kind.lower()) or getattr(torch.optim, kind, None)
    if made is None:
        return  # one that DeepSpeed compiles
    own = inspect.signature(made).parameters
    known = {TORCH_ADAM_PARAM, ADAM_W_MODE, *own}
    for optimizer in (FusedAdam, DeepSpeedCPUAdam) if kind.lower() in ADAMS else ():
        known |= inspect.signature(optimizer).parameters.keys()
    for key in params:
        if key not in known:
            raise ValueError(unknown(key, known, kind="parameter"))
    made([nn.Parameter(torch.zeros(1))], **{key: value for key, value in _without_auto(params).items() if key in own})


def _make_scheduler(kind: str, params: Mapping[str, Any]) -> None:
    """Make the scheduler for an optimizer of one parameter."""
    made = getattr(lr_schedules, kind, None) or getattr(torch.optim.lr_scheduler, kind, None)
    if made is None:
        return  # DeepSpeed knows it by another spelling
    filled = {key: 1 if value == "auto" else value for key, value in params.items()}
    made(torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-3), **filled)
