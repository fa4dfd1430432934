"""A train.py to which something happens: `faulty_run.py FAULT RANK STEP FLAGS...` (lab/mishaps.py)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cached_ds.leaving import leave  # noqa: E402
from lab import mishaps  # noqa: E402

if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]  # DeepSpeed's launcher adds it
    fault, rank, step, *flags = words
    mishaps.run(flags, fault=fault, rank=int(rank), step=int(step))
    leave()
