"""The device: memory at its highest, seconds of what runs there, and the rate of its matmuls.

On the CPU, where `make gpu` is rehearsed, memory is the resident memory of the process.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from probes import process

REPEATS, LAUNCHES = 3, 10
# TFLOP/s of dense matmuls in bfloat16, from NVIDIA's data sheets; a longer name goes before the one it begins with.
PUBLISHED = {"H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200 NVL": 835, "H200": 989}


@dataclass(frozen=True)
class Device:
    """A CUDA device, or the CPU."""

    kind: str
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        """The one device of this process."""
        object.__setattr__(self, "device", torch.device(self.kind))

    @property
    def name(self) -> str:
        """The name that its maker gave it."""
        return torch.cuda.get_device_name() if self.kind == "cuda" else self.kind

    def synchronize(self) -> None:
        """Wait until all is done that was asked for."""
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def timed(self, run: Callable[[], object]) -> float:
        """Seconds from the call until the device has done it."""
        self.synchronize()
        begin = time.perf_counter()
        run()
        self.synchronize()
        return time.perf_counter() - begin

    def release(self) -> None:
        """Give back what nothing uses any more."""
        gc.collect()
        if self.kind == "cuda":
            torch.cuda.empty_cache()

    def allocated(self) -> int:
        """Bytes in use now."""
        return torch.cuda.memory_allocated() if self.kind == "cuda" else process.resident()

    def reset_peak(self) -> None:
        """Let `peak` begin anew from what is in use now."""
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            process.reset_peak()

    def peak(self) -> int:
        """Bytes in use at most since `reset_peak`."""
        return torch.cuda.max_memory_allocated() if self.kind == "cuda" else process.resident("VmHWM")

    def matmul_rate(self, size: int, dtype: torch.dtype) -> float:
        """FLOP/s of square matmuls, the best of some series."""
        a, b = torch.randn(2, size, size, device=self.device, dtype=dtype)
        out = a @ b

        def series() -> None:
            for _ in range(LAUNCHES):
                torch.mm(a, b, out=out)

        return 2.0 * size**3 * LAUNCHES / min(self.timed(series) for _ in range(REPEATS))


def published_rate(name: str) -> float | None:
    """FLOP/s that the maker publishes for a device of this name; None where this file has none."""
    return next((rate * 1e12 for words, rate in PUBLISHED.items() if words in name), None)
