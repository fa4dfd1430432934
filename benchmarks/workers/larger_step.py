r"""One rank of a trial of larger.py: a few training steps on one document, and what this rank's memory holds.

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

from cached_ds import leaving
from probes.process import reset_peak, resident
from probes.state_bytes import state_bytes
from subjects.shape import Shape
from workers.rank import init_process_group, leave_last, make_documents, make_trainer


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Losses, seconds, bytes of states and peak memory of this rank."""
    shape, store = Shape(**settings["shape"]), init_process_group(settings)
    trainer = make_trainer(settings["variant"], shape, settings["fields"], led=settings["led"])
    batch, seconds, losses = make_documents(shape, settings["length"]), [], []
    reset_peak()
    for _ in range(settings["steps"]):
        begin = time.perf_counter()
        losses.append(trainer.backward(batch).item())
        found = state_bytes(trainer.model, trainer.optimizer)
        trainer.update()
        seconds.append(time.perf_counter() - begin)
    leave_last(store, ranks=settings["ranks"])
    return {"losses": losses, "seconds": seconds, "state_bytes": found, "peak_bytes": resident("VmHWM")}


if __name__ == "__main__":
    answer = measure(json.loads(sys.argv[1]))
    print(json.dumps(answer), flush=True)
    leaving.leave()
