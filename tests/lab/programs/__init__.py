"""Programs that tests start: some stand for launch/train.py, those of `bin/` for the commands of a cluster."""

from __future__ import annotations

from pathlib import Path

PROGRAMS = Path(__file__).parent
