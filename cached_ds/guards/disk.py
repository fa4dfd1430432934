"""Disk: an output folder that cannot be written to is told before any work, a disk that fills up later when it does.

A file of `PROBE_BYTES` is written and flushed to the disk. It never has a name, so nothing is left of it, whatever
happens. Before a run its folder may not exist yet: then the nearest one above it takes the file. A save that fails says
different things in torch, safetensors and torch.distributed.checkpoint, so after one the folder is asked again.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from cached_ds.guards.faults import TrainingFault

PROBE_BYTES = 1 << 20
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
SAVING_ERRORS = (OSError, RuntimeError, SafetensorError, CheckpointException)


def check_writable(folder: str | Path) -> None:
    """Refuse a folder, there or not, in which no file of a mebibyte can be written.

    Raises:
        ValueError: `--output_dir`, the reason that the system gives, and what to do.
    """
    if (reason := fault_of(folder)) is not None:
        raise ValueError(
            f"--output_dir {folder}: nothing can be written there ({reason}); free some space, or name another folder"
        )


def fault_of(folder: str | Path) -> str | None:
    """Why nothing can be written to a folder, there or not; None: it can."""
    path = Path(folder).absolute()
    there = next(each for each in (path, *path.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return None


@contextmanager
def disk_faults(folder: str | Path, *, said: Callable[[], str]) -> Iterator[None]:
    """Turn an error that comes when nothing can be written any more into one sentence; other errors pass.

    Args:
        folder: that the block writes into.
        said: gives the step; called only when the disk is at fault.

    Raises:
        TrainingFault: the folder is full or read-only.
    """
    try:
        yield
    except TrainingFault:
        raise
    except SAVING_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.errno in OF_THE_DISK else fault_of(folder)
        if reason is None:
            raise
        raise TrainingFault(
            f"{said()}: nothing can be written to {folder} any more ({reason}); free some space, and go on from the "
            "last checkpoint with --resume_from_checkpoint true"
        ) from error
