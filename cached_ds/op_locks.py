"""Locks of compiled operators: those that a killed run has left are removed, before anyone waits for them.

Problem. DeepSpeed compiles its operators through torch, which guards each build by a file named `lock` and waits while
the file exists. A process that is killed while it holds the lock leaves it, and every later run waits for ever, without
a word. torch keeps the file open as long as it holds the lock, so a lock that no process has open is a dead one.

A process on another host may hold a lock on a shared file system. Such a lock is left alone until it is older than any
build takes.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

import psutil
from torch.utils.cpp_extension import get_default_build_root

BUILD_SECONDS = 600  # no operator takes longer to compile
LOOKS, PAUSE = 3, 0.2  # torch closes the file a moment before it removes it: look again after so many seconds
REMOTE = {"nfs", "nfs4", "cifs", "smb3", "lustre", "beegfs", "gpfs", "ceph", "fuse.glusterfs", "9p"}
logger = logging.getLogger(__name__)


def remove_stale_locks() -> list[Path]:
    """Remove the locks that nobody holds any more, and say so; returns their paths.

    Raises:
        ValueError: a lock on a shared file system that nobody on this host holds, and that may be another host's.
    """
    stale = stale_locks()
    for lock in stale:
        age = _age(lock)
        if age < BUILD_SECONDS and _is_remote(lock):
            raise ValueError(
                f"{lock}: nobody on this host holds this lock of a DeepSpeed operator, {age:.0f} s old; if no other "
                "host compiles it now, remove the file: DeepSpeed would wait for it for ever"
            )
        lock.unlink(missing_ok=True)
        logger.warning("removed %s, the lock of a run that was killed %.0f s ago", lock, age)
    return stale


def stale_locks() -> list[Path]:
    """Locks that no process of this host holds."""
    suspects = _locks()
    for _ in range(LOOKS if suspects else 0):
        suspects = [lock for lock in suspects if lock.exists() and not _is_held(lock)]
        time.sleep(PAUSE if suspects else 0)
    return suspects


def extensions_root() -> Path:
    """Where torch keeps the extensions that it has built."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def _locks() -> list[Path]:
    """All locks in the folder where torch builds operators."""
    root = extensions_root()
    return sorted({*root.glob("*/lock"), *root.glob("*/*/lock")})


def _is_held(lock: Path) -> bool:
    """Whether a process of this host has the file open."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if any(file.path == str(lock.resolve()) for file in process.open_files()):
                return True
    return False


def _age(lock: Path) -> float:
    with suppress(OSError):
        return time.time() - lock.stat().st_mtime
    return 0.0


def _is_remote(lock: Path) -> bool:
    mounts = [part for part in psutil.disk_partitions(all=True) if lock.is_relative_to(part.mountpoint)]
    return bool(mounts) and max(mounts, key=lambda part: len(part.mountpoint)).fstype in REMOTE
