"""A rank that leaves while gloo may still hold its tensors; exit handlers end with the first registered."""

from __future__ import annotations

import atexit
import sys

import torch
import torch.distributed as dist

from cached_ds.leaving import leave


def reduce_much():
    """Several large sums at once, none of which outlives this function in Python."""
    values = [torch.ones(1 << 20) for _ in range(8)]
    for work in [dist.all_reduce(value, async_op=True) for value in values]:
        work.wait()


if __name__ == "__main__":
    atexit.register(sys.stdout.write, "handlers ran\n")
    dist.init_process_group("gloo")
    torch.held = dist.group.WORLD  # as DeepSpeed holds it
    reduce_much()
    try:
        leave()
    finally:
        print("still here")
