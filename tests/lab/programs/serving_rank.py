"""A rank that a launcher starts and that serves the test run behind a socket: `serving_rank.py ADDRESS`."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Client

from cached_ds.leaving import leave
from helpers.rank_pool import serve

if __name__ == "__main__":
    (address,) = (word for word in sys.argv[1:] if not word.startswith("--local_rank"))  # DeepSpeed's launcher adds it
    with Client(address) as pipe:
        pipe.send(int(os.environ["RANK"]))
        serve(pipe)
    leave()
