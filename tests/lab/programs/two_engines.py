"""A train.py that trains once per engine: `train.py OUTPUT ENGINE[,ENGINE] FLAGS...`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for a rank on another host, which has no PYTHONPATH

from cached_ds.leaving import leave  # noqa: E402
from lab import training  # noqa: E402

if __name__ == "__main__":
    output, engines, *words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    training.run_engines(output, engines=engines.split(","), words=words)
    leave()
