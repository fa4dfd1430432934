"""A benchmark of one trial, whose settings are the only argument as JSON; PYTHONPATH names benchmarks/."""

from __future__ import annotations

import json
import sys

from harness import trials
from harness.machine import Machine, all_cores

if __name__ == "__main__":
    trials.run(trials.Trial(json.loads(sys.argv[1])), Machine(cores=tuple(all_cores()[:1]), timeout=60))
