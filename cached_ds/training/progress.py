"""Progress: the Trainer's progress bar, with windows per step and tokens per second."""

from __future__ import annotations

import time
from typing import Any

from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from cached_ds.attachment import windowed_encoder


class TokenProgressCallback(ProgressCallback):
    """Shows, for the last optimizer step of this rank, source tokens per second and the number of windows.

    The counters live on the host, where documents are cut, so reading them does not wait for the device.
    """

    def on_step_begin(self, *_: Any, **kwargs: Any) -> None:
        """Remember the time and the counters."""
        self.begin = (time.perf_counter(), *_counters(kwargs["model"]))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance the bar and show the step's rates."""
        super().on_step_end(args, state, control, **kwargs)
        if self.training_bar is None:
            return
        end = (time.perf_counter(), *_counters(kwargs["model"]))
        seconds, tokens, windows = (after - before for after, before in zip(end, self.begin, strict=True))
        self.training_bar.set_postfix({"tokens/s/rank": f"{tokens / seconds:,.0f}", "windows": windows}, refresh=False)


def _counters(model: nn.Module) -> tuple[int, int]:
    counters = windowed_encoder(model)._cached_ds.counters
    return counters.tokens_read, counters.windows_read
