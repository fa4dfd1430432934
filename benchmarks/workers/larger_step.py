r"""One rank of a cell of larger.py: a few training steps on one document, and what this rank's memory holds.

RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29400 PYTHONPATH=benchmarks \
    python benchmarks/workers/larger_step.py '{"variant": "alone", "ranks": 1,
    "length": 510, "steps": 3, "fake": false, "fields": {}, "led": false, "shape": {}}'

All ranks read the same document, so that the losses are those of one process. The last line of stdout is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from probes.held import held
from probes.process import reset_peak, resident
from subjects.shape import Shape
from workers.scaling_step import batch, join, make_trainer, part

from cached_ds import leaving


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """The result of this rank."""
    shape, store = Shape(**settings["shape"]), join(settings)
    trainer = make_trainer(settings["variant"], shape, settings["fields"], led=settings["led"])
    work, seconds, losses = batch(shape, settings["length"]), [], []
    reset_peak()
    for _ in range(settings["steps"]):
        begin = time.perf_counter()
        losses.append(trainer.backward(work).item())
        sizes = held(trainer.model, trainer.optimizer)
        trainer.update()
        seconds.append(time.perf_counter() - begin)
    part(store, settings["ranks"])
    return {"losses": losses, "seconds": seconds, "held": sizes, "peak_bytes": resident("VmHWM")}


if __name__ == "__main__":
    answer = measure(json.loads(sys.argv[1]))
    print(json.dumps(answer), flush=True)
    leaving.leave()
