r"""Generation from one long document by beams: its time, its memory, and whether the tokens are Hugging Face's.

    PYTHONPATH=benchmarks:. python benchmarks/stages/generation.py '{"device": "cpu", "dtype": "float32",
        "model": "tiny", "shape": {}, "length": 2048, "beams": 2, "tokens": 4, "repeats": 1, "until": 9e9}'

The attached model generates; then, detached, it generates from the same states as Hugging Face does.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

import cached_ds
from probes.device import Device
from stages.rows import Rows, Settings, serve
from subjects.shape import Shape, make_batch, make_model


def run(settings: Settings, rows: Rows) -> None:
    """One row."""
    device, shape, length = Device(settings["device"]), Shape(**settings["shape"]), settings["length"]
    with device.device:
        model: Any = make_model(shape, length=length).eval()
    model.to(getattr(torch, settings["dtype"]))
    batch = {name: value.to(device.device) for name, value in make_batch(shape, length=length).items()}
    del batch["labels"]
    count = settings["tokens"]
    how = {"num_beams": settings["beams"], "max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
    how["use_cache"] = True

    cached_ds.attach(model, window=shape.window)
    found, base = [model.generate(**batch, **how)], device.allocated()
    device.reset_peak()
    seconds = [device.timed(lambda: found.append(model.generate(**batch, **how))) for _ in range(settings["repeats"])]
    result = {"device": device.name, "seconds": statistics.median(seconds), "peak_bytes": device.peak() - base}
    with torch.no_grad():
        states = model.get_encoder()(**batch)
    cached_ds.detach(model)
    plain = model.generate(encoder_outputs=states, attention_mask=batch["attention_mask"], **how)
    result["same_tokens"] = all(torch.equal(tokens, plain) for tokens in found)
    what = {name: settings[name] for name in ("model", "length", "beams", "tokens")}
    rows.add(what, result)


if __name__ == "__main__":
    serve(run)
