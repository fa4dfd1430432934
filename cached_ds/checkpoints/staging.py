"""Staging: a folder for what is not finished, on the disk of its later place, so that a rename moves it."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

STAGING = "tmp-checkpoint"


def begin(staging: Path) -> list[int]:
    """Make the folder, once on every disk, and empty it of what a killed run left; a collective.

    Returns the ranks that share this rank's one, its leader first.
    """
    state, names = PartialState(), [uuid.uuid4().hex]
    broadcast_object_list(names)
    is_first = state.is_local_main_process
    for is_turn in (state.is_main_process, is_first and not state.is_main_process):
        if is_turn:
            make(staging, mark=names[0])
        state.wait_for_everyone()
    return sharers_of(staging / names[0])


def make(staging: Path, *, mark: str) -> None:
    """Leave a mark in the folder; who is first to do so on a disk removes what is older."""
    staging.mkdir(parents=True, exist_ok=True)
    try:
        open(staging / mark, "x").close()
    except FileExistsError:
        return
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != mark:
            path.unlink()


def sharers_of(path: Path) -> list[int]:
    """The ranks that see the very same file, this one among them; a collective.

    Copies of a file on disks of several nodes are told apart by their inodes and times.
    """
    status = path.stat() if path.exists() else None
    mine = status and (status.st_ino, status.st_ctime_ns)
    return [rank for rank, other in enumerate(gather_object([mine])) if other == mine]


def sync(folder: Path) -> None:
    """See `folder`, if it is there, and all below it on the disk."""
    for path in (folder, *folder.rglob("*")) if folder.exists() else ():
        sync_entry(path)


def sync_entry(path: Path) -> None:
    """See one file, or the names in one folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
