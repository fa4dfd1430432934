"""A train.py of which one of SLURM's tasks fails at once, while the other would go on."""

from __future__ import annotations

import os
import sys
import time

if __name__ == "__main__":
    if os.environ["SLURM_PROCID"] == "1":
        sys.exit(3)
    time.sleep(60)
