"""Rows: what a stage gets to know, and what it says."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Settings = dict[str, Any]


class Rows:
    """The output of a stage: rows only. What libraries print goes to the log."""

    def __init__(self) -> None:
        """Take stdout, and leave stderr in its place."""
        self.out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def add(self, settings: Settings, result: dict[str, Any], *, round: int = 0) -> None:
        """Write a row; a reader has it at once."""
        self.out.write(json.dumps({"settings": settings, "round": round, "result": result}) + "\n")


def seconds_left(settings: Settings) -> float:
    """Seconds until the stage should be ready."""
    return float(settings["until"]) - time.time()


def serve(run: Callable[[Settings, Rows], None]) -> None:
    """Run a stage with the settings of the command line."""
    run(json.loads(sys.argv[1]), Rows())
