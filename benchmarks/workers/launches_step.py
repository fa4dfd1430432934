"""What the host does in one training step on a GPU, counted and timed on a CPU, in a process of its own.

    PYTHONPATH=benchmarks \
    python benchmarks/workers/launches_step.py '{"variant": "gpu", "length": 524288, "shape": {"encoder_layers": 12}}'

The host's work depends on how many layers, passes, tiles and chunks there are, not on their sizes. So kernels are
counted on a model of the right depth and a document of the right number of windows, but narrow ones; and time is taken
with one window in each pass, whose arithmetic takes next to none. As a second part the real document is cut into its
passes. The step is forward and backward under bf16 autocast with dropout; optimizer and clipping are not in it. The
last line of stdout is the result as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import cached_ds
from cached_ds.settings import device_sizes
from cached_ds.windows.passes import Batch, Cutter
from probes.kernels import as_on_a_gpu, counted, to_device
from subjects.shape import Shape, make_batch, make_model

NARROW = 128  # times as short are windows and target
WIDTHS = {"vocabulary": 64, "width": 8, "heads": 1, "feed_forward": 8}
GPU = torch.device("cuda")
SIZES: dict[str, dict[str, int]] = {
    "cpu": {"windows_per_pass": 1, "tile": 1024},
    "gpu": {"windows_per_pass": device_sizes.windows_per_pass(GPU, 1024), "tile": device_sizes.tile(GPU)},
}
REPEATS, SECONDS = 3, 8  # at least so many runs, and more of short ones


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """The result of one trial."""
    torch.set_num_threads(1)
    sizes, length = SIZES[settings["variant"]], settings["length"]
    shape = Shape(**{"target": 512, "dropout": 0.1, **settings["shape"]})
    narrow = replace(shape, window=shape.window // NARROW, target=shape.target // NARROW, **WIDTHS)
    tiles = -(-length // sizes["tile"])
    with as_on_a_gpu(), torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):  # preparing outlasts the product
        found = _count(*_prepared(narrow, _narrowed(shape, narrow, length), tiles, sizes["windows_per_pass"]))
        model, batch, step = _prepared(narrow, narrow.length_of(found["passes"]), tiles, 1)
        step()
        cut = _cut(model, shape, length, sizes["windows_per_pass"])
        return {**found, "step_ms": _milliseconds(step), "cut_ms": _milliseconds(cut)}


def _prepared(narrow: Shape, length: int, tiles: int, windows_per_pass: int) -> tuple[Any, dict[str, Tensor], Any]:
    """An attached model, a document in so many tiles, and the step."""
    batch = make_batch(narrow, length=length)
    sizes = {"windows_per_pass": windows_per_pass, "tile": -(-length // tiles)}
    model: Any = cached_ds.attach(make_model(narrow, length=length), window=narrow.window, **sizes)
    return model, batch, _step(model, batch)


def _narrowed(shape: Shape, narrow: Shape, length: int) -> int:
    """The length of a narrow document with as many full windows, and a last one as long for a window."""
    widths = shape.window_widths(length)
    full, rest = widths.get(shape.window, 0), [width for width in widths if width < shape.window]
    return narrow.length_of(full) + sum(max(1, width // NARROW - 2) for width in rest)


def _step(model: Any, batch: dict[str, Tensor]) -> Callable[[], None]:
    """Forward and backward; the batch has arrived on the host too, so that it can be cut there."""
    on_host = Batch.on_host(batch["input_ids"], batch["attention_mask"], None, None, None)

    def step() -> None:
        with mock.patch.object(Batch, "on_host", lambda *_: on_host), torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()

    return step


def _count(model: Any, batch: dict[str, Tensor], step: Callable[[], None]) -> dict[str, Any]:
    counters = model.get_encoder()._cached_ds.counters
    step()
    passes = (counters.encoder_forwards + 1) // 2  # each once more in backward, but for one
    model.zero_grad(set_to_none=True)
    to_device([*model.parameters(), *model.buffers(), *batch.values()])
    with counted() as kernels:
        step()
    return {
        "passes": passes,
        "kernels": kernels.found.total(),
        "waits": kernels.waits.total(),
        "most": dict(kernels.found.most_common(12)),
        "waiting": dict(kernels.waits),
    }


def _cut(model: Any, shape: Shape, length: int, windows_per_pass: int) -> Callable[[], object]:
    """From a document on the host to its passes."""
    state = model.get_encoder()._cached_ds
    config = replace(state.config, window=shape.window)
    cutter = Cutter(config, state.family, model.config)
    arrived = make_batch(shape, length=length)

    def cut() -> object:
        batch = Batch.on_host(arrived["input_ids"], arrived["attention_mask"].clone(), None, None, None)
        return cutter.passes(cutter.windows(batch), batch, torch.device("cpu"), windows_per_pass=windows_per_pass)

    return cut


def _milliseconds(run: Callable[[], object]) -> float:
    """Processor time, the least of some runs: disturbances only add to it."""
    found = []
    end = time.monotonic() + SECONDS
    while len(found) < REPEATS or time.monotonic() < end:
        begin = time.process_time()
        run()
        found.append(1000 * (time.process_time() - begin))
    return min(found)


if __name__ == "__main__":
    answer = measure(json.loads(sys.argv[1]))
    print(json.dumps(answer))
