"""One summary in a fresh process, started by generation.py with its settings as JSON.

The document is encoded window by window. Its states are then given to `generate`, as Hugging Face has it or with a
cross cache that beams share. The last line of stdout is the result as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch

import cached_ds
from probes.process import reset_peak, resident
from subjects.shape import Shape, make_batch, make_model


@torch.no_grad()
def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of writing, the most memory above the model, encoding included, and what was written."""
    shape, length, count = Shape(**settings["shape"]), settings["length"], settings["tokens"]
    variant = settings["variant"]
    fields = {"stream_cross_attention": False} if variant == "hf" else {"cross_cache": variant}
    model: Any = cached_ds.attach(make_model(shape, length=length).eval(), window=shape.window, **fields)
    batch = make_batch(shape, length=length)
    how = {"num_beams": settings["beams"], "max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
    reset_peak()
    base = resident()
    states = model.get_encoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    begin = time.perf_counter()
    ids = model.generate(encoder_outputs=states, attention_mask=batch["attention_mask"], use_cache=True, **how)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "peak_bytes": resident("VmHWM") - base, "written": str(ids.tolist())}


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
