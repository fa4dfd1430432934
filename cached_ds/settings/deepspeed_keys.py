"""DeepSpeed's JSON: read, with keys that DeepSpeed does not know refused and the nearest known one named.

DeepSpeed itself looks up the keys it knows and never notices the others, so a typo means the default. The known keys
are not listed here but asked of the installed version, in two ways:

- sections that are pydantic models list their fields and aliases;
- all others are found by letting `DeepSpeedConfig` read a `_Probe`, a dict that remembers which keys were looked up.

Free-form contents (`optimizer.params`, `scheduler.params`, `pipeline`, `data_efficiency`) are not checked. Keys that
DeepSpeed has removed count as known: DeepSpeed refuses them itself and says what took their place.
"""

from __future__ import annotations

import functools
import json
import typing
from collections.abc import Iterator, KeysView, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cached_ds.settings.config_files import read_json
from cached_ds.settings.extras import needed_by
from cached_ds.settings.unknown_names import unknown

with needed_by("a DeepSpeed config"):
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.compile.config import CompileConfig
    from deepspeed.monitor.config import DeepSpeedMonitorConfig
    from deepspeed.runtime.config import DEEPSPEED_OPTIMIZERS, DeepSpeedConfig, HybridEngineConfig
    from deepspeed.runtime.lr_schedules import VALID_LR_SCHEDULES
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.tensor_parallel.config import TPTrainingConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig
    from pydantic import BaseModel, ValidationError

MODELS: dict[str, type[BaseModel]] = {
    "zero_optimization": DeepSpeedZeroConfig,
    "fp16": DeepSpeedFP16Config,
    "bf16": DeepSpeedBF16Config,
    "bfloat16": DeepSpeedBF16Config,
    "comms_logger": CommsLoggerConfig,
    "compile": CompileConfig,
    "hybrid_engine": HybridEngineConfig,
    "tensor_parallel": TPTrainingConfig,
}
# Known keys of a section: key -> the known keys below it, or None where anything is allowed below.
Schema = dict[str, "Schema | None"]


class _Probe(dict[str, Any]):
    """A config that remembers which of its keys were looked up."""

    def __init__(self, **content: Any) -> None:
        super().__init__(content)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def keys(self) -> Any:
        """A view whose membership test goes through `__contains__` above."""
        return KeysView(self)

    def __copy__(self) -> _Probe:
        return self


def load_given(text: str) -> dict[str, Any]:
    """The DeepSpeed config that a flag gives: the path of a file, or the content itself, as a recipe may hold it.

    Raises:
        ValueError: what `load` refuses.
        OSError: the file cannot be read.
    """
    return _checked(json.loads(text), "deepspeed") if text.lstrip().startswith("{") else load(text)


def load(path: str | Path) -> dict[str, Any]:
    """The DeepSpeed config in a JSON file, its keys and values checked.

    Raises:
        ValueError: an unknown key, a value that DeepSpeed does not take, or a file that is not a JSON object.
        OSError: the file cannot be read.
    """
    return _checked(read_json(path), str(path))


def _checked(config: dict[str, Any], source: str) -> dict[str, Any]:
    check_keys(config, source=source)
    check_values(config, source=source)
    return config


def check_keys(config: Mapping[str, Any], *, source: str) -> None:
    """Refuse a config that holds keys unknown to DeepSpeed.

    Args:
        config: the content of a DeepSpeed config.
        source: where it comes from, for the message.

    Raises:
        ValueError: all unknown keys, each with the nearest known one.
    """
    complaints = list(_complaints(config, _deepspeed_schema(), prefix=""))
    if complaints:
        raise ValueError(f"{source}: {'; '.join(complaints)}")


def check_values(config: Mapping[str, Any], *, source: str) -> None:
    """Refuse values that DeepSpeed would notice late or never; "auto" is filled in by transformers.

    Args:
        config: the content of a DeepSpeed config, its keys checked.
        source: where it comes from, for the message.

    Raises:
        ValueError: the first wrong value, with its key and what is allowed.
    """
    for name, model in MODELS.items():
        section = config.get(name)
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise ValueError(f"{source}: {name}={section!r} is refused; allowed is a mapping")
        try:
            model(**_without_auto(section))
        except (ValueError, AssertionError, TypeError) as error:
            raise ValueError(f"{source}: {name}{_told(error)}") from error
    for name in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        value = config.get(name, "auto")
        if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f'{source}: {name}={value!r} is refused; allowed is "auto" or an integer >= 1')
    clipping = config.get("gradient_clipping", "auto")
    if clipping != "auto" and not (_is_number(clipping) and 0 <= clipping < float("inf")):
        raise ValueError(f'{source}: gradient_clipping={clipping!r} is refused; allowed is "auto" or a number >= 0')
    _check_type(config, "optimizer", DEEPSPEED_OPTIMIZERS, torch.optim, source)
    _check_type(config, "scheduler", VALID_LR_SCHEDULES, torch.optim.lr_scheduler, source)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _without_auto(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_auto(value) if isinstance(value, Mapping) else value
        for key, value in section.items()
        if value != "auto"
    }


def _told(error: Exception) -> str:
    """The first complaint: a pydantic one with the key below the section."""
    if not isinstance(error, ValidationError):
        return f": {error}"
    first = error.errors()[0]
    return f"{''.join(f'.{key}' for key in first['loc'])}={first['input']!r} is refused: {first['msg']}"


def _check_type(config: Mapping[str, Any], name: str, known: Sequence[str], module: object, source: str) -> None:
    """Refuse an optimizer or a scheduler that neither DeepSpeed nor torch has."""
    section = config.get(name)
    if section is None:
        return
    kind = section.get("type") if isinstance(section, Mapping) else section
    if not isinstance(kind, str) or (kind.lower() not in map(str.lower, known) and not hasattr(module, kind)):
        raise ValueError(
            f"{source}: {name}.type={kind!r} is refused; allowed are {', '.join(known)}, and those of torch"
        )


def _complaints(config: Mapping[str, Any], schema: Schema, *, prefix: str) -> Iterator[str]:
    for key, value in config.items():
        below = schema.get(key)
        if key not in schema:
            yield f"{prefix}{key}: {unknown(key, schema, kind='DeepSpeed key')}"
        elif below is not None and isinstance(value, Mapping):
            yield from _complaints(value, below, prefix=f"{prefix}{key}.")


@functools.cache
def _deepspeed_schema() -> Schema:
    schema = _looked_up()
    schema |= _fields(DeepSpeedMonitorConfig)
    schema |= {name: _fields(model) for name, model in MODELS.items()}
    schema["sequence_parallel_size"] = None  # looked up only where a process group exists
    schema["timers"] = {"throughput": _fields(DeepSpeedThroughputTimerConfig)}
    return schema


def _fields(model: type[BaseModel]) -> Schema:
    schema: Schema = {}
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *typing.get_args(field.annotation)]
        nested = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        schema[name] = _fields(nested[0]) if nested else None
        if field.alias:
            schema[field.alias] = schema[name]
    return schema


def _looked_up() -> Schema:
    """The keys that DeepSpeed looks up while it reads a config made of probes."""
    sections = {
        "optimizer": _Probe(type="adamw"),
        "scheduler": _Probe(type="WarmupLR"),
        "activation_checkpointing": _Probe(),
        "flops_profiler": _Probe(),
        "aio": _Probe(),
        "autotuning": _Probe(),
        "data_types": _Probe(),
        "torch_autocast": _Probe(),
        "checkpoint": _Probe(writer=_Probe(), parallel_write=_Probe()),
    }
    probe = _Probe(train_micro_batch_size_per_gpu=1, train_batch_size=None, **sections)
    DeepSpeedConfig(probe)
    return _asked(probe)


def _asked(probe: _Probe) -> Schema:
    below = {key: dict.get(probe, key) for key in probe.asked}
    return {key: _asked(value) if isinstance(value, _Probe) else None for key, value in below.items()}
