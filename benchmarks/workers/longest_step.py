"""One full training step with cached_ds in a fresh process, started by longest.py with its settings as JSON.

A warm-up step on two windows allocates gradients and the optimizer's states; then one step of AdamW on the long
document. Gradients are written to `gradients` (safetensors) before the optimizer uses them. Progress goes to stderr.
The last line of stdout is the result as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import torch
from safetensors.torch import save_file
from tqdm import tqdm

import cached_ds
from probes.process import reset_peak, resident
from subjects.shape import Shape, make_batch, make_model

LEARNING_RATE = 1e-5


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Loss, memory and seconds of the step; its gradients go to the file that the settings name."""
    shape, length = Shape(**settings["shape"]), settings["length"]
    model: Any = cached_ds.attach(make_model(shape, length=length), window=shape.window, **settings["fields"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model(**make_batch(shape, length=shape.length_of(windows=2))).loss.backward()
    optimizer.step()
    model.load_state_dict(weights)
    del weights
    base = resident()  # model, gradients and optimizer's states
    optimizer.zero_grad(set_to_none=True)
    batch = make_batch(shape, length=length)
    reset_peak()
    watch = Watch(model.get_encoder()._cached_ds.counters, windows=sum(shape.window_widths(length).values()))
    begin, processor = time.perf_counter(), time.process_time()
    loss = model(**batch).loss
    loss.backward()
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - processor
    peak = resident("VmHWM")
    watch.stop()
    reset_peak()
    save_file({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, settings["gradients"])
    reset_peak()
    optimizer.step()
    peak = max(peak, resident("VmHWM"))
    result = {"loss": loss.item(), "base_bytes": base, "peak_bytes": peak - base, "windows": watch.windows}
    result |= {"seconds": seconds, "cpu_seconds": cpu_seconds, "step_seconds": time.perf_counter() - begin}
    return result | {"forwards": watch.forwards()}


class Watch:
    """Shows on stderr how far the encoder has come, from the counters that `attach` leaves on it."""

    def __init__(self, counters: Any, *, windows: int) -> None:
        """Start a thread that looks every five seconds."""
        self.counters, self.windows, self.start = counters, windows, counters.encoder_forwards
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._show, daemon=True)
        self.thread.start()

    def forwards(self) -> int:
        """Passes through the encoder so far."""
        return self.counters.encoder_forwards - self.start

    def _show(self) -> None:
        with tqdm(unit="pass", desc=f"{self.windows} windows, once forward and once backward", miniters=1) as bar:
            while not self.done.wait(5):
                bar.update(self.forwards() - bar.n)

    def stop(self) -> None:
        """End the thread."""
        self.done.set()
        self.thread.join()


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
