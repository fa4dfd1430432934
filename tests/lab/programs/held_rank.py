"""A watched rank of two whose interpreter stands still: a C function waits with the GIL held. The other never comes."""

from __future__ import annotations

import ctypes
import time

import torch.distributed as dist

from cached_ds.ranks.mpi import free_port
from cached_ds.watch import watchdog

if __name__ == "__main__":
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
    watchdog.LAST_WORDS = 1
    watchdog.Watchdog(rank=0, size=2, limit=1, launcher=None).start()
    time.sleep(2 * watchdog.BEAT)
    ctypes.PyDLL(None).sleep(60)
