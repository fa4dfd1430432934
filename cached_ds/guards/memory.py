"""Memory: a training step that runs out of it becomes a sentence with the documents and the setting to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from cached_ds.guards.faults import TrainingFault
from cached_ds.settings.config import CachedConfig

OF_THE_HOST = "DefaultCPUAllocator: "  # torch has no class of its own for a host that has no memory left


@contextmanager
def memory_faults(said: Callable[[], str], config: CachedConfig, *, batch_size: int) -> Iterator[None]:
    """Turn a lack of memory into one sentence; other errors pass.

    Args:
        said: gives the step, the rank and the documents; called only when memory has run out.
        config: whose settings are recommended.
        batch_size: documents of a rank and micro-batch.

    Raises:
        TrainingFault: torch could not allocate, on the device or on the host.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and OF_THE_HOST not in str(error):
            raise
        wanted = str(error).partition("Tried to allocate ")[2].partition(". ")[0]
        size = f" (a piece of {wanted})" if wanted else ""
        raise TrainingFault(f"{said()}: out of memory{size}; {advice(config, batch_size=batch_size)}") from error


def advice(config: CachedConfig, *, batch_size: int) -> str:
    """Which setting to change first, of those that are not at their most frugal; docs/troubleshooting.md has all."""
    on_device = torch.accelerator.is_available()
    steps = (
        (batch_size > 1, "set --per_device_train_batch_size 1, with more --gradient_accumulation_steps"),
        (config.recompute != "all", "leave --recompute at all"),
        (config.windows_per_pass != 1 and (on_device or config.windows_per_pass), "set --windows_per_pass 1"),
        (config.offload == "none" and on_device, "set --offload cpu or disk"),
        (config.offload != "disk" and not on_device, "set --offload disk"),
        (config.schedule != "layer", "set --schedule layer, with ZeRO-3 or FSDP2"),
        (True, "choose a smaller --window, or ZeRO-3 or FSDP2 with parameters on the host"),
    )
    first, *others = (words for applies, words in steps if applies)
    return f"{first}; if that is not enough, {others[0]}" if others else first
