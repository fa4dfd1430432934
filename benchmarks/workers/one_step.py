r"""One measurement in a fresh process: a model, a warm-up on two windows, one step on the long document.

    PYTHONPATH=benchmarks \
    python benchmarks/workers/one_step.py '{"variant": "cached", "length": 4096, "fields": {},
        "shape": {}, "probe": "step"}'

`fields` are those of CachedConfig, or a peer's keyword arguments; `shape` those of Shape. The last line of stdout is
the result as JSON. With probe "step": seconds, memory, loss and gradient norm; "matmuls": also the encoder's seconds
and the machine's rate right before and after the step; "saved": only the bytes that the decoder saves for backward, of
this document and of one of six windows. harness/trials.py starts this file with threads, cores and the allocator set.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peers import STEPS
from probes import matmuls
from probes.process import EncoderSeconds, SavedBytes, reset_peak, resident
from subjects.shape import Shape, make_batch, make_model

Step = Callable[[dict[str, Tensor]], Tensor]


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """The result of one trial: the fields that its probe asks for."""
    shape, length = Shape(**settings["shape"]), settings["length"]
    model: Any = make_model(shape, length=length, led=settings["variant"] == "led")
    step = make_step(model, settings["variant"], {"window": shape.window, **settings["fields"]})
    of_model = resident()
    if settings["probe"] == "saved":
        return _saved(model, step, shape, length)
    batch = make_batch(shape, length=length)
    step(make_batch(shape, length=shape.length_of(windows=2)))
    model.zero_grad(set_to_none=True)
    probing = settings["probe"] == "matmuls"
    seconds = EncoderSeconds(model.get_encoder()) if probing else None
    rates = [matmuls.measure(shape, length)] if probing else []
    state = None if settings["variant"] in STEPS else model.get_encoder()._cached_ds
    passes = state.counters.encoder_forwards if state else 0
    reset_peak()
    begin, cpu = time.perf_counter(), time.process_time()
    loss = step(batch)
    result: dict[str, Any] = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
    result |= {"loss": loss.item(), "model_bytes": of_model, "peak_bytes": resident("VmHWM") - of_model}
    result |= _gradients(model)
    if state is not None:
        result["passes"] = state.counters.encoder_forwards - passes
        result["windows_per_pass"] = state.budget.windows_per_pass
    if seconds is not None:
        rates.append(matmuls.measure(shape, length))
        result |= {"encoder_forward": seconds.forward, "encoder_backward": seconds.backward, "matmuls": rates}
    return result


def make_step(model: Any, variant: str, fields: dict[str, Any]) -> Step:
    """A function that does forward and backward of a batch as this variant does, and returns the loss."""
    if variant in STEPS:
        return lambda batch: STEPS[variant](model, batch, **fields)
    import cached_ds  # only here: nothing of it may run in a peer's process

    cached_ds.attach(model, **fields)

    def step(batch: dict[str, Tensor]) -> Tensor:
        loss = model(**batch).loss
        loss.backward()
        return loss.detach()

    return step


def _saved(model: Any, step: Step, shape: Shape, length: int) -> dict[str, Any]:
    """Bytes saved by the decoder for a document of six windows and for the long one: the slope is per source token.

    Six, so that H is larger than any activation of a window (feed-forward: four times its width), see SavedBytes.
    """
    lengths, found = (shape.length_of(windows=6), length), []
    for each in lengths:
        batch = make_batch(shape, length=each)
        probe = SavedBytes(model, batch)
        step(batch)
        probe.remove()
        model.zero_grad(set_to_none=True)
        found.append(probe.bytes)
    slope = (found[1] - found[0]) / (lengths[1] - lengths[0])
    return {"lengths": lengths, "saved_bytes": found, "saved_per_token": slope}


def _gradients(model: Any) -> dict[str, float]:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients).item()
    return {"gradient_norm": norm, "gradient_bytes": sum(gradient.nbytes for gradient in gradients)}


if __name__ == "__main__":
    answer = measure(json.loads(sys.argv[1]))
    print(json.dumps(answer))
