r"""One rank of a cell of scaling.py: warm up, count a step, time steps. Every rank of a cell runs this file.

    RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29400 PYTHONPATH=benchmarks \
    python benchmarks/workers/scaling_step.py '{"variant": "alone", "ranks": 1,
        "documents": 1, "length": 4096, "steps": 1, "counted": [], "fake": false, "fields": {}, "shape": {}}'

`documents` is how many a step has over all ranks, `counted` the lengths of documents whose steps are counted instead of
timed. With `"fake": true` this process is rank 0 of `ranks` by torch's fake process group, which sends nothing: the
counts and the tensors are those of a real rank, the numbers in the tensors are not. The last line of stdout is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch
import torch.distributed as dist
from probes.collectives import Collectives
from probes.held import held
from subjects.engines import ALONE, TRAINERS, Alone, Batch
from subjects.shape import Shape, make_batch, make_model
from torch.testing._internal.distributed.fake_pg import FakeStore

import cached_ds
from cached_ds import leaving

WARM_UP = 2  # windows


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """The result of this rank."""
    shape, store = Shape(**settings["shape"]), join(settings)
    trainer = make_trainer(settings["variant"], shape, settings["fields"])
    if settings["steps"]:
        trainer.step(batch(shape, shape.length_of(windows=WARM_UP)))
    counted = look(trainer, shape, settings["counted"])
    work, times = batch(shape, settings["length"], settings["documents"] // settings["ranks"]), []
    for number in range(settings["steps"]):
        meet(store, f"step {number}", settings["ranks"])
        times.append(timed(trainer, work))
    part(store, settings["ranks"])
    seconds, cpu_seconds = ([time[part] for time in times] for part in (0, 1))
    return {"counted": counted, "seconds": seconds, "cpu_seconds": cpu_seconds}


def join(settings: dict[str, Any]) -> dist.Store | None:
    """Enter the process group, unless this is a process of its own; the store is how ranks begin a step together."""
    ranks = settings["ranks"]
    if settings["fake"]:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
        return None
    rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(os.environ["MASTER_ADDR"], port, ranks, is_master=rank == 0)
    if settings["variant"] != ALONE:
        dist.init_process_group(store=dist.PrefixStore("group", store), rank=rank, world_size=ranks)
    return store


def make_trainer(variant: str, shape: Shape, fields: dict[str, Any], *, led: bool = False) -> Alone:
    """An attached model under an engine."""
    model = make_model(shape, length=shape.window, led=led).to(device())
    return TRAINERS[variant](cached_ds.attach(model, window=shape.window, **fields))


def look(trainer: Alone, shape: Shape, lengths: list[int]) -> list[dict[str, Any]]:
    """What a step of each length costs; two go before, in which ZeRO-3 learns the order of the modules."""
    for length in lengths[:1] * 2:
        trainer.step(batch(shape, length))
    return [count(trainer, batch(shape, length)) for length in lengths]


def device() -> torch.device:
    """Where this rank computes."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.accelerator.current_accelerator()


def batch(shape: Shape, length: int, documents: int = 1) -> Batch:
    """Documents of one length."""
    one = make_batch(shape, length=length)
    return {name: value.expand(documents, -1).contiguous().to(device()) for name, value in one.items()}


def count(trainer: Alone, work: Batch) -> dict[str, Any]:
    """A step's collectives, and what is held between backward and the optimizer's step."""
    with Collectives() as collectives:
        trainer.backward(work)
        memory = held(trainer.model, trainer.optimizer)
        trainer.update()
    return {"collectives": collectives.found, "held": memory}


def timed(trainer: Alone, work: Batch) -> tuple[float, float]:
    """Seconds of a step, and seconds of the processor."""
    begin, cpu = time.perf_counter(), time.process_time()
    trainer.step(work)
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - begin, time.process_time() - cpu


def meet(store: dist.Store, name: str, ranks: int) -> None:
    """Wait for the other ranks, without a process group."""
    if store.add(name, 1) == ranks:
        store.set(f"{name}: all", "")
    store.wait([f"{name}: all"])


def part(store: dist.Store | None, ranks: int) -> None:
    """Leave the other ranks: rank 0, where the store lives, goes last."""
    if store is None or ranks == 1:
        return
    if rank := int(os.environ["RANK"]):
        store.set(f"rank {rank} is done", "")
    else:
        store.wait([f"rank {other} is done" for other in range(1, ranks)])


if __name__ == "__main__":
    answer = measure(json.loads(sys.argv[1]))
    print(json.dumps(answer), flush=True)
    leaving.leave()
