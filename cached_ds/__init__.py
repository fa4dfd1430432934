"""cached_ds: exact training of encoder-decoder transformers on whole documents, under DDP, FSDP2 and DeepSpeed ZeRO."""

from __future__ import annotations

import importlib
from typing import Any

from cached_ds.attachment import attach, detach
from cached_ds.settings.config import CachedConfig

__all__ = ["CachedConfig", "CachedSeq2SeqTrainer", "attach", "detach", "fsdp", "leaving", "zero"]


def __getattr__(name: str) -> Any:
    """Load the public modules and the Trainer on first use: they import FSDP, DeepSpeed and much of transformers."""
    if name in ("fsdp", "leaving", "zero"):
        return importlib.import_module(f"cached_ds.{name}")
    if name == "CachedSeq2SeqTrainer":
        return importlib.import_module("cached_ds.training.trainer").CachedSeq2SeqTrainer
    raise AttributeError(f"module 'cached_ds' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List all public names, also those that are loaded on first use."""
    return sorted({*globals(), *__all__})
