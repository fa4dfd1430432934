"""Rank 0 of two under torch's fake process group: prints the costs of a step under every engine, as JSON.

PYTHONPATH names benchmarks/ and the folder of step_costs.py.
"""

from __future__ import annotations

import json

from step_costs import costs_by_engine

from workers.rank import init_process_group

if __name__ == "__main__":
    init_process_group({"fake": True, "ranks": 2})
    print(json.dumps(costs_by_engine()))
