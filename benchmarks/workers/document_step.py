r"""One rank of a trial of document.py: a document that all ranks share, counted or timed, and what this rank holds.

    RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29400 PYTHONPATH=benchmarks \
    python benchmarks/workers/document_step.py '{"variant": "alone", "ranks": 1,
        "documents": 1, "length": 4096, "steps": 1, "counted": [],
        "fake": false, "fields": {}, "shape": {}, "room": null}'

With `"document_parallel": P` among the `fields`, P ranks read the same document. `counted` are the lengths of documents
whose steps are counted instead of timed. `room` is how many MiB the rank may allocate once model and optimizer are
there; null: no limit. The last line of stdout is JSON.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

from cached_ds import leaving
from cached_ds.attachment import windowed_encoder
from probes.process import MIB, HeldStates, reset_peak, resident
from subjects.shape import Shape
from workers.rank import init_process_group, leave_last, make_documents, make_trainer, wait_for_all
from workers.scaling_step import WARM_UP, count_steps, time_step


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """The counted and the timed steps of this rank; bytes of H and of G, and the peak above what was there before."""
    shape, store, ranks = Shape(**settings["shape"]), init_process_group(settings), settings["ranks"]
    trainer = make_trainer(settings["variant"], shape, settings["fields"])
    if settings["steps"]:
        trainer.step(make_documents(shape, shape.length_of(windows=WARM_UP)))
    counted = count_steps(trainer, shape, settings["counted"])
    batch, held, times = make_documents(shape, settings["length"]), HeldStates(windowed_encoder(trainer.model)), []
    reset_peak()
    base = resident()
    if settings["room"] is not None:
        limit = resident("VmData") + settings["room"] * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for number in range(settings["steps"]):
        wait_for_all(store, f"step {number}", ranks=ranks)
        times.append(time_step(trainer, batch))
    leave_last(store, ranks=ranks)
    return {
        "counted": counted,
        "seconds": [seconds for seconds, _ in times],
        "cpu_seconds": [cpu_seconds for _, cpu_seconds in times],
        "states": held.states,
        "gradient": held.gradient,
        "peak_bytes": resident("VmHWM") - base,
    }


if __name__ == "__main__":
    answer = measure(json.loads(sys.argv[1]))
    print(json.dumps(answer), flush=True)
    leaving.leave()
