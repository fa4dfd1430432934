"""Watched: tells the watchdog where training is, in numbers that are on the host anyway."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerState

from cached_ds.attachment import windowed_encoder
from cached_ds.watch.card import Place
from cached_ds.watch.watchdog import Watchdog


class WatchedCallback(TrainerCallback):
    """Lets a watchdog see step, window, and whether anything moves, from the first step to the last.

    Args:
        watchdog: what to tell; it asks from a thread of its own.
    """

    def __init__(self, watchdog: Watchdog) -> None:
        """Take the watchdog."""
        self.watchdog, self.events = watchdog, 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Be asked from now on."""
        attached = windowed_encoder(kwargs["model"])._cached_ds

        def place() -> Place:
            call, moves = attached.call, self.events + attached.counters.encoder_forwards
            return Place(step=state.global_step + 1, window=call.last_window, windows=len(call.windows), moves=moves)

        self.watchdog.follow(place)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Be asked no longer."""
        self.watchdog.follow(None)

    def _moved(self, *_: Any, **__: Any) -> None:
        self.events += 1

    on_step_begin = on_substep_end = on_step_end = on_prediction_step = on_evaluate = on_save = on_log = _moved
