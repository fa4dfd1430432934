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
from workers.rank import make_documents
from workers.scaling_step import begin, time_steps


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """The counted and the timed steps of this rank; bytes of H and of G, and the peak above what was there before."""
    store, shape, trainer, counted = begin(settings)
    batch, held = make_documents(shape, settings["length"]), HeldStates(windowed_encoder(trainer.model))
    reset_peak()
    base = resident()
    if settings["room"] is not None:
        limit = resident("VmData") + settings["room"] * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    times = time_steps(trainer, batch, store, settings)
    return {
        "counted": counted,
        **times,
        "states": held.states,
        "gradient": held.gradient,
        "peak_bytes": resident("VmHWM") - base,
    }


if __name__ == "__main__":
    answer = measure(json.loads(sys.argv[1]))
    print(json.dumps(answer), flush=True)
    leaving.leave()
