"""Budget: how much memory there is, and how much of it the graphs of encoder passes may take.

Two choices can be left to the machine, `windows_per_pass="auto"` and `recompute="auto"`. Both rest on one measurement,
made once in the first forward: the bytes that a window's graph keeps. Neither changes what a step communicates, so
ranks need not agree; with dropout on, another grouping of windows draws other masks.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from cached_ds.settings.config import CachedConfig

SHARE = 0.8  # of the free memory: allocators cannot use all of it
MIN_GAIN = 0.985  # twice as many windows per pass must take at most this part of the time
TRIALS = 3  # of each number, in turn; disturbances only ever add time, so the shortest counts
MAX_WINDOWS = 64
logger = logging.getLogger(__name__)


def free_bytes(device: torch.device) -> int:
    """Bytes of memory that this rank may still use: of its device, or its share of the host's."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def total_bytes(device: torch.device) -> int:
    """Bytes of memory that the device has, or the host."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total


def graph_bytes(run: Callable[[], Tensor], parameters: Sequence[Tensor]) -> int:
    """Bytes that the graph of `run()` keeps, not counting the parameters."""
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        graph = run()  # kept alive, so that no address is used twice
    assert graph is not None
    return sum(saved.values())


def fastest_windows_per_pass(run: Callable[[int], object], *, limit: int, device: torch.device) -> int:
    """The number of windows per pass: doubled from 1, up to `limit`, as long as that makes a window faster.

    Args:
        run: `run(n)` encodes n windows in one pass.
        limit: the largest number allowed.
        device: where it runs.
    """
    run(1)  # the first run of a kernel takes longer
    best = 1
    while best * 2 <= limit:
        pairs = [[seconds_per_window(run, count, device) for count in (best, best * 2)] for _ in range(TRIALS)]
        once, doubled = (min(times) for times in zip(*pairs, strict=True))
        if doubled > MIN_GAIN * once:
            break
        best *= 2
    return best


def seconds_per_window(run: Callable[[int], object], count: int, device: torch.device) -> float:
    """Wall time of one pass of `count` windows, in seconds per window."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    begin = time.perf_counter()
    run(count)
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return (time.perf_counter() - begin) / count


@dataclass
class Budget:
    """What one encoder has measured and decided for all batches; `attach` makes one.

    Attributes:
        config: what is left to the machine, and how much memory that may take.
        decoder_layers: number of layers whose cross-attention would keep keys and values.
        window_bytes: bytes that the graph of one full window keeps; 0 before they are measured.
        windows_per_pass: the decision; 0 before it is made.
        compiled_shape: [N, w] of the passes that run compiled; None: not tried yet; empty: compilation failed.
        rehearsed: whether a training forward is over. From the second on, gradients and optimizer states exist, so
            memory that is free then stays free.
    """

    config: CachedConfig
    decoder_layers: int
    window_bytes: int = 0
    windows_per_pass: int = 0
    compiled_shape: torch.Size | None = None
    rehearsed: bool = False
    logged: bool = False  # the choice is logged once

    def choose_windows(self, run: Callable[[int], object], *, device: torch.device) -> int:
        """Windows per pass, timed once, with `run(n)` to encode n windows in one pass. Needs `window_bytes`."""
        if not self.windows_per_pass:
            limit = self._limit(MAX_WINDOWS, self.config.memory_bytes or free_bytes(device) // 4)
            self.windows_per_pass = fastest_windows_per_pass(run, limit=limit, device=device)
            logger.info("windows_per_pass=auto: %d (at most %d fit)", self.windows_per_pass, limit)
        return self.windows_per_pass

    def fitting_windows(self, count: int, *, device: torch.device) -> int:
        """At most `count` windows, whose graph takes at most a quarter of the device's memory. Needs `window_bytes`."""
        return self._limit(count, self.config.memory_bytes or total_bytes(device) // 4)

    def _limit(self, count: int, room: int) -> int:
        """At most `count` windows whose graph takes at most `room` bytes, but at least one."""
        return max(1, min(count, room // self.window_bytes))

    def choose_saved(
        self, sizes: Sequence[float], *, reserve: int, projections: int, device: torch.device
    ) -> tuple[int, bool]:
        """How many passes save their graph, and whether cross-attention keeps keys and values.

        Keys and values come first: a byte of them saves more work than a byte of an encoder's graph (issue 13).

        Args:
            sizes: the size of each pass, in full windows.
            reserve: bytes that this step still needs for other things.
            projections: bytes of all keys and values.
            device: where the graphs are.
        """
        room = self.config.memory_bytes
        if room is None:
            room = int(SHARE * free_bytes(device)) - reserve if self.rehearsed else 0
        keeps_projections = room >= projections
        room -= projections if keeps_projections else 0
        num_saved = 0
        for size in sizes:
            need = int(size * self.window_bytes)
            if room < need:
                break
            room, num_saved = room - need, num_saved + 1
        if self.rehearsed and not self.logged:
            self.logged = True
            logger.info("recompute=auto: the graphs of %d of %d passes fit", num_saved, len(sizes))
        self.rehearsed = True
        return num_saved, keeps_projections
