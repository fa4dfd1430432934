r"""One rank of a trial of scaling.py: warm up, count a step, time steps. Every rank of a trial runs this file.

    RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29400 PYTHONPATH=benchmarks \
    python benchmarks/workers/scaling_step.py '{"variant": "alone", "ranks": 1,
        "documents": 1, "length": 4096, "steps": 1, "counted": [], "fake": false, "fields": {}, "shape": {}}'

`documents` is how many a step has over all ranks, `counted` the lengths of documents whose steps are counted instead of
timed. With `"fake": true` this process is rank 0 of `ranks` by torch's fake process group, which sends nothing: the
counts and the tensors are those of a real rank, the numbers in the tensors are not. The last line of stdout is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import torch.distributed as dist

from cached_ds import leaving
from probes.collectives import Collectives
from probes.state_bytes import state_bytes
from subjects.shape import Shape
from subjects.trainers import AloneTrainer, Batch
from workers.rank import init_process_group, leave_last, make_documents, make_trainer, wait_for_all

WARM_UP = 2  # windows


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """The counted and the timed steps of this rank."""
    store, shape, trainer, counted = begin(settings)
    batch = make_documents(shape, settings["length"], count=settings["documents"] // settings["ranks"])
    return {"counted": counted, **time_steps(trainer, batch, store, settings)}


def begin(settings: dict[str, Any]) -> tuple[dist.Store | None, Shape, AloneTrainer, list[dict[str, Any]]]:
    """Join the other ranks, make the model, warm up if steps are timed; returns what was counted, too."""
    shape, store = Shape(**settings["shape"]), init_process_group(settings)
    trainer = make_trainer(settings["variant"], shape, settings["fields"])
    if settings["steps"]:
        trainer.step(make_documents(shape, shape.length_of(windows=WARM_UP)))
    return store, shape, trainer, count_steps(trainer, shape, settings["counted"])


def time_steps(
    trainer: AloneTrainer, batch: Batch, store: dist.Store | None, settings: dict[str, Any]
) -> dict[str, list[float]]:
    """Seconds and processor seconds of every step, which all ranks begin together; the store's rank leaves last."""
    ranks, times = settings["ranks"], []
    for number in range(settings["steps"]):
        wait_for_all(store, f"step {number}", ranks=ranks)
        times.append(time_step(trainer, batch))
    leave_last(store, ranks=ranks)
    return {"seconds": [seconds for seconds, _ in times], "cpu_seconds": [seconds for _, seconds in times]}


def count_steps(trainer: AloneTrainer, shape: Shape, lengths: list[int]) -> list[dict[str, Any]]:
    """The costs of a step of each length; two go before, in which ZeRO-3 learns the order of the modules."""
    for length in lengths[:1] * 2:
        trainer.step(make_documents(shape, length))
    return [count_step(trainer, make_documents(shape, length)) for length in lengths]


def count_step(trainer: AloneTrainer, batch: Batch) -> dict[str, Any]:
    """The collectives of a step, and the bytes of its states between backward and the optimizer's step."""
    with Collectives() as collectives:
        trainer.backward(batch)
        found = state_bytes(trainer.model, trainer.optimizer)
        trainer.update()
    return {"collectives": collectives.found, "state_bytes": found}


def time_step(trainer: AloneTrainer, batch: Batch) -> tuple[float, float]:
    """Seconds of a step, and seconds of the processor."""
    begin, cpu = time.perf_counter(), time.process_time()
    trainer.step(batch)
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - begin, time.process_time() - cpu


if __name__ == "__main__":
    answer = measure(json.loads(sys.argv[1]))
    print(json.dumps(answer), flush=True)
    leaving.leave()
