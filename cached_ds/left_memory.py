"""Left memory: shared memory of runs that were killed is removed, before it fills /dev/shm.

Problem. DeepSpeed's collectives on one host and Open MPI keep files in /dev/shm, 66 and 16 MiB for each process, and a
process that is killed leaves them behind. Who uses such a file has it open or mapped as long as it lives, so a file of
this user that no process holds is a dead one. It is removed once it is older than any start takes: a process that
begins now, and that another container hides, would not find it.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

import psutil

from cached_ds.leaving import SHARED_MEMORY

PATTERNS = ("deepspeed_allreduce_buffer_*", "sm_segment.*")
START_SECONDS = 60
logger = logging.getLogger(__name__)


def remove_left_memory(folder: Path = SHARED_MEMORY) -> list[Path]:
    """Remove files that processes of this user have left in shared memory, and say so; returns their paths."""
    suspects = [path for pattern in PATTERNS for path in folder.glob(pattern) if _is_old_and_ours(path)]
    held = _held() if suspects else set()
    left = [path for path in suspects if str(path) not in held]
    for path in left:
        path.unlink(missing_ok=True)
        logger.warning("removed %s, the shared memory of a run that was killed", path)
    return left


def _is_old_and_ours(path: Path) -> bool:
    with suppress(OSError):
        status = path.stat()
        return status.st_uid == os.getuid() and time.time() - status.st_ctime > START_SECONDS
    return False


def _held() -> set[str]:
    """Files that processes of this host have open or mapped, as far as this user may see them."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            found |= {file.path for file in process.memory_maps()} | {file.path for file in process.open_files()}
    return found
