"""Keys of a DeepSpeed config: those that DeepSpeed does not know are refused, and the nearest known one is named.

DeepSpeed itself looks up the keys it knows and never notices the others, so a typo means the default. The known keys
are not listed here but asked of the installed version, in two ways:

- sections that are pydantic models list their fields and aliases;
- all others are found by letting `DeepSpeedConfig` read a `Probe`, a dict that remembers which keys were looked up, and
  with which defaults.

Free-form contents (`optimizer.params`, `scheduler.params`, `pipeline`, `data_efficiency`) are not checked. Keys that
DeepSpeed has removed count as known: DeepSpeed refuses them itself and says what took their place.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator, KeysView, Mapping
from typing import Any

from cached_ds.settings.extras import needed_by
from cached_ds.settings.unknown_names import unknown

with needed_by("a DeepSpeed config"):
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.compile.config import CompileConfig
    from deepspeed.monitor.config import DeepSpeedMonitorConfig
    from deepspeed.runtime.config import DeepSpeedConfig, HybridEngineConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.tensor_parallel.config import TPTrainingConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig
    from pydantic import BaseModel

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


class Probe(dict[str, Any]):
    """A config that remembers which of its keys were looked up.

    Attributes:
        asked: the default of every key that was looked up; None for a key without one.
    """

    def __init__(self, **content: Any) -> None:  # noqa: D107
        super().__init__(content)
        self.asked: dict[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or its default, which is remembered."""
        self.asked[key] = default
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:  # noqa: D105
        self.asked.setdefault(key, None)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:  # noqa: D105
        self.asked.setdefault(str(key), None)
        return super().__contains__(key)

    def keys(self) -> Any:
        """A view whose membership test goes through `__contains__` above."""
        return KeysView(self)

    def __copy__(self) -> Probe:  # noqa: D105
        return self


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


def _complaints(config: Mapping[str, Any], schema: Schema, *, prefix: str) -> Iterator[str]:
    for key, value in config.items():
        below = schema.get(key)
        if key not in schema:
            yield f"{prefix}{key}: {unknown(key, schema, kind='DeepSpeed key')}"
        elif below is not None and isinstance(value, Mapping):
            yield from _complaints(value, below, prefix=f"{prefix}{key}.")


@functools.cache
def _deepspeed_schema() -> Schema:
    schema = _asked(looked_up())
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


@functools.cache
def looked_up() -> Probe:
    """What DeepSpeed looks up in a config, and in its sections, which are probes too."""
    sections = {
        "optimizer": Probe(type="adamw"),
        "scheduler": Probe(type="WarmupLR"),
        "activation_checkpointing": Probe(),
        "flops_profiler": Probe(),
        "aio": Probe(),
        "autotuning": Probe(),
        "data_types": Probe(),
        "torch_autocast": Probe(),
        "checkpoint": Probe(writer=Probe(), parallel_write=Probe()),
    }
    probe = Probe(train_micro_batch_size_per_gpu=1, train_batch_size=None, **sections)
    DeepSpeedConfig(probe)
    return probe


def _asked(probe: Probe) -> Schema:
    below = {key: dict.get(probe, key) for key in probe.asked}
    return {key: _asked(value) if isinstance(value, Probe) else None for key, value in below.items()}
