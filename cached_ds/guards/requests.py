"""Requests: what somebody outside asks of a run: to save and end, by a signal, or to save, by a file.

A signal may reach one rank only, and the ranks not at the same moment. So a rank merely notes it; what follows is
decided for all ranks together (rounds.py).
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
SAVE_NOW = "save_now"


class Requests:
    """Signals that have come, from `listen` to `restore`."""

    def __init__(self) -> None:
        """Nothing is heard before `listen`."""
        self.signal: int = 0  # the last one that came
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Note the signals from now on, instead of ending."""
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def restore(self) -> None:
        """Let the signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: object) -> None:  # noqa: ARG002
        self.signal = number


def take_save_now(folder: str | Path) -> bool:
    """Whether the file `save_now` is in a run's output folder; it is removed."""
    try:
        Path(folder, SAVE_NOW).unlink()
    except FileNotFoundError:
        return False
    return True
