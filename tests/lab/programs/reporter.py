"""A train.py that says which environment and command line a rank got: a file in the folder REPORTS for each.

It imports nothing heavy; of the package only the file mpi.py, by its path in MPI_FILE.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path


def master(environ):
    """Where the ranks of MPI meet."""
    spec = importlib.util.spec_from_file_location("mpi", environ["MPI_FILE"])
    mpi = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mpi)
    rank, size = (int(environ[f"OMPI_COMM_WORLD_{name}"]) for name in ("RANK", "SIZE"))
    return mpi.master(rank=rank, world_size=size)


def main(words):
    """Ask MPI where nobody else has said it, and report."""
    environ = dict(os.environ)
    if "OMPI_COMM_WORLD_RANK" in environ and "MASTER_ADDR" not in environ:
        address, port = master(environ)
        environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    arguments = [word for word in words if not word.startswith("--local_rank")]
    Path(environ["REPORTS"], str(os.getpid())).write_text(json.dumps([environ, arguments]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
