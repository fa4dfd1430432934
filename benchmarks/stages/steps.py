r"""Training steps of one document: seconds and memory of each variant at each length.

    PYTHONPATH=benchmarks:. python benchmarks/stages/steps.py '{"device": "cpu", "dtype": "float32", "model": "tiny",
        "shape": {}, "lengths": [2048], "grow": false, "rounds": 1, "steps": 1, "until": 9e9,
        "matmuls": [256], "variants": {"full": {}, "cached": {}}}'

A block is a step to warm up, and on the same document up to `steps` that are timed, for a second or so. Blocks are
interleaved: every variant has one before any has its second. With `grow`, the rounds are followed by blocks of the last
variant at twice the length, until memory or time is out. A block that does not fit into the memory, or would not be
ready in time, is a row with the reason.

The lengths come in their order: what the last of them would take is known from those before it.
"""

from __future__ import annotations

import gc
import math
import statistics
from typing import Any

import torch
from torch import Tensor

from probes.device import Device
from stages.rows import Rows, Settings, seconds_left, serve
from subjects.shape import Shape, make_batch, make_model
from workers.one_step import make_step

SECONDS = 1.0  # that the timed steps of a block should take together
NO_TIME, NO_MEMORY = "no time left", "out of memory"


class Variant:
    """A model of its own, and how its step is taken."""

    def __init__(self, name: str, fields: dict[str, Any], settings: Settings) -> None:
        """Make the model on the device."""
        self.name, self.device, self.shape = name, Device(settings["device"]), Shape(**settings["shape"])
        with self.device.device:
            self.model: Any = make_model(self.shape, length=self.shape.window)
        self.model.to(getattr(torch, settings["dtype"]))
        self.take_step = make_step(self.model, name, {"window": self.shape.window, **fields})
        self.steps = settings["steps"]  # of a block, at most
        self.per_token = 0.0  # seconds of a step, by the last block

    def expected_seconds(self, length: int) -> float:
        """What a block would take; 0 before the first."""
        step = self.per_token * length
        return step * (1 + self._count(step)) if step else 0.0

    def _count(self, step: float) -> int:
        """How many steps of so many seconds are timed."""
        return max(1, min(self.steps, math.ceil(SECONDS / step)))

    def block(self, length: int) -> dict[str, Any]:
        """Warm up, take steps; or the reason why there are none."""
        try:
            return self._block(length)
        except RuntimeError as error:  # torch's own for memory is one
            is_memory = isinstance(error, torch.OutOfMemoryError) or "memory" in str(error)
            return {"failed": NO_MEMORY if is_memory else str(error).splitlines()[0][:200]}
        finally:
            self.model.zero_grad(set_to_none=True)
            self.device.release()

    def _block(self, length: int) -> dict[str, Any]:
        batch = {name: each.to(self.device.device) for name, each in make_batch(self.shape, length=length).items()}
        base = self.device.allocated()
        first = self.device.timed(lambda: self._step(batch))
        self.device.reset_peak()
        seconds = [self.device.timed(lambda: self._step(batch)) for _ in range(self._count(first))]
        found = {"seconds": statistics.median(seconds), "steps": len(seconds), "first_seconds": first}
        self.per_token = found["seconds"] / length
        found |= {"peak_bytes": self.device.peak() - base, "loss": self.loss.item()}
        return found | {"gradient_norm": gradient_norm(self.model)}

    def _step(self, batch: dict[str, Tensor]) -> None:
        """Drop the gradients of the step before, then forward and backward."""
        self.model.zero_grad(set_to_none=True)
        self.loss = self.take_step(batch)


def gradient_norm(model: Any) -> float:
    """Of all gradients together, in float32."""
    norms = [parameter.grad.float().norm().item() for parameter in model.parameters() if parameter.grad is not None]
    return math.hypot(*norms)


def measure(variant: Variant, length: int, settings: Settings) -> dict[str, Any]:
    """A block, unless there is no time for it."""
    if variant.expected_seconds(length) > seconds_left(settings):
        return {"failed": NO_TIME}
    return variant.block(length)


def run(settings: Settings, rows: Rows) -> None:
    """Every variant at every length, in rounds."""
    device = Device(settings["device"])
    rates = [device.matmul_rate(size, getattr(torch, settings["dtype"])) for size in settings["matmuls"]]
    about = {"device": device.name, "matmul_rate": max(rates, default=None)}
    variants = [Variant(name, fields, settings) for name, fields in settings["variants"].items()]
    gc.freeze()  # what is there by now stays, and collecting the rest takes no time

    def add(variant: Variant, length: int, *, round: int = 0, **more: Any) -> bool:
        what = {"variant": variant.name, "length": length, "shape": settings["shape"], "model": settings["model"]}
        result = measure(variant, length, settings)
        rows.add(what | more, result | about, round=round)
        return "failed" not in result

    for length in settings["lengths"]:
        able = variants
        for number in range(settings["rounds"]):
            able = [variant for variant in able if add(variant, length, round=number)]
    while settings["grow"] and add(variants[-1], length := 2 * length, grown=True):
        continue


if __name__ == "__main__":
    serve(run)
