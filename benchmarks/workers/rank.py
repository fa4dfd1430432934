"""One rank of a trial, for the workers that have several: its process group, its device, its trainer, its documents.

The ranks have a store besides the process group: it exists where they train independently of each other, and waiting by
it is no collective that would be counted.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

import cached_ds
from subjects.shape import Shape, make_batch, make_model
from subjects.trainers import ALONE, PEER, TRAINERS, AloneTrainer, Batch


def init_process_group(settings: dict[str, Any]) -> dist.Store | None:
    """Join the other ranks, unless they are independent; returns the store of all ranks, None under a fake group."""
    ranks = settings["ranks"]
    if settings["fake"]:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
        return None
    rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(os.environ["MASTER_ADDR"], port, ranks, is_master=rank == 0)
    if settings["variant"] != ALONE:
        dist.init_process_group(store=dist.PrefixStore("group", store), rank=rank, world_size=ranks)
    return store


def wait_for_all(store: dist.Store, name: str, *, ranks: int) -> None:
    """Wait until all ranks have come to the point `name`."""
    if store.add(name, 1) == ranks:
        store.set(f"{name}: all", "")
    store.wait([f"{name}: all"])


def leave_last(store: dist.Store | None, *, ranks: int) -> None:
    """On rank 0, where the store lives, wait until the others have ended; on the others, say so."""
    if store is None or ranks == 1:
        return
    if rank := int(os.environ["RANK"]):
        store.set(f"rank {rank} is done", "")
    else:
        store.wait([f"rank {other} is done" for other in range(1, ranks)])


def own_device() -> torch.device:
    """The accelerator of this rank, or the CPU."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.accelerator.current_accelerator()


def make_trainer(variant: str, shape: Shape, fields: dict[str, Any], *, led: bool = False) -> AloneTrainer:
    """A model under an engine, attached unless it is the peer's."""
    model = make_model(shape, length=shape.window, led=led).to(own_device())
    if variant != PEER:
        cached_ds.attach(model, window=shape.window, **fields)
    return TRAINERS[variant](model)


def make_documents(shape: Shape, length: int, *, count: int = 1) -> Batch:
    """A batch of `count` equal documents, on the device of this rank."""
    one = make_batch(shape, length=length)
    return {name: value.expand(count, -1).contiguous().to(own_device()) for name, value in one.items()}
