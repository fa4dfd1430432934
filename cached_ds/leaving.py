"""Leaving: how a rank ends after its work, without the crash that gloo can cause.

Problem. gloo's worker threads release a tensor some time after the collective on it has returned. If the last one does
so while the interpreter is shutting down, it asks for a GIL that is already gone, and the process aborts with all its
work done: "terminate called without an active exception", exit code -6, and the launcher reports a failed run
(pytorch/pytorch#179291). `destroy_process_group` does not end those threads while anything, such as DeepSpeed's engine,
holds the group.

So a rank ends as a forked worker of torch does: exit handlers run, streams are flushed, and the process ends without
tearing the interpreter down. What that leaves out is done here: the shared memory of DeepSpeed and of MPI is removed.
"""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist

SHARED_MEMORY = Path("/dev/shm")


def leave(code: int = 0) -> None:
    """Wait for the other ranks, then end this process with the given exit code; without a process group, only return.

    Call it last, once all files are written: nothing after it runs, `finally` blocks included.
    """
    if not dist.is_initialized():
        return
    dist.barrier()
    rank = dist.get_rank()
    dist.destroy_process_group()
    remove_shared_buffer(rank)
    _end(code=code)


def give_up(code: int) -> NoReturn:
    """End this process with the given exit code, without waiting for the other ranks, which will see it gone."""
    if dist.is_initialized():
        remove_shared_buffer(dist.get_rank())
    _end(code=code)


def drop(code: int) -> NoReturn:
    """End this process at once, from any thread; its main thread may hold what exit handlers would wait for."""
    if dist.is_initialized():
        remove_shared_buffer(dist.get_rank())
    _remove_mpi_segments()
    os._exit(code)


def _end(*, code: int) -> NoReturn:
    atexit._run_exitfuncs()
    _remove_mpi_segments()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _remove_mpi_segments() -> None:
    """Remove Open MPI's shared memory that this process has mapped: 16 MiB, which MPI's own end leaves as well.

    DeepSpeed asks MPI who a process is that no launcher has started.
    """
    if (maps := Path("/proc/self/maps")).exists():
        mapped = maps.read_text(encoding="utf-8")
        for path in SHARED_MEMORY.glob("sm_segment.*"):
            if f"{path}\n" in mapped:
                path.unlink(missing_ok=True)


def remove_shared_buffer(rank: int) -> None:
    """Remove a rank's shared memory of DeepSpeed's collectives on one host: 66 MiB, which DeepSpeed leaves behind."""
    shared_buffer(rank).unlink(missing_ok=True)


def shared_buffer(rank: int) -> Path:
    """The file of that memory."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    return SHARED_MEMORY / f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{rank}"
