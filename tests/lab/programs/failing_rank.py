"""A train.py whose ranks meet as those of the real one do, and add up numbers; rank 1 may fail.

The last word of the command line is the failure: `start` or `step` (killed before the ranks meet, or between two of
their sums), `differ` (it is given another learning rate), `code` (it runs another train.py) or `none`.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

from cached_ds.leaving import give_up, leave
from cached_ds.ranks import rendezvous
from cached_ds.ranks.discovery import discover
from cached_ds.ranks.logs import whereabouts
from cached_ds.ranks.startup import start_rank, start_watchdog
from cached_ds.watch.launcher import Launcher

STEPS, FATAL = 4, 2


def other_code():
    """A train.py that is not that of rank 0."""
    path = Path(tempfile.mkdtemp(), "train.py")
    path.write_text("another version", encoding="utf-8")
    return str(path)


def main(failure):
    """Meet, add, fail or leave."""
    rendezvous.ANSWER_SECONDS = 3
    info = discover(os.environ)
    fails = info.rank == 1
    if fails and failure == "start":
        os.kill(os.getpid(), signal.SIGKILL)
    if fails and failure == "code":
        sys.argv[0] = other_code()
    try:
        start_rank(["--learning_rate", "0.2" if fails and failure == "differ" else "0.1"])
    except ValueError as error:
        print(f"error: {whereabouts(info)}{error}", file=sys.stderr, flush=True)
        give_up(2)
    watchdog = start_watchdog(info, limit=60, launcher=Launcher.of_rank())
    for step in range(STEPS):
        if fails and failure == "step" and step == FATAL:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.all_reduce(torch.ones(1))
    watchdog.stop()
    leave()


if __name__ == "__main__":
    main(sys.argv[-1])
