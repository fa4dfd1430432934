"""Shared memory that no process holds is removed, if it is old and this user's; all else stays."""

from __future__ import annotations

import mmap
import os
import time

from cached_ds import left_memory
from cached_ds.left_memory import remove_left_memory


def test_only_old_memory_that_nobody_holds_is_removed(tmp_path, monkeypatch):
    names = (
        "deepspeed_allreduce_buffer_0_a_1_0",
        "sm_segment.host.0.1.0",
        "deepspeed_allreduce_buffer_0_a_1_1",
        "mine",
    )
    for name in names:
        (tmp_path / name).write_bytes(b"0" * mmap.PAGESIZE)
    assert not remove_left_memory(tmp_path), "they are new: their processes may just begin"
    later = time.time() + left_memory.START_SECONDS + 1
    monkeypatch.setattr(left_memory.time, "time", lambda: later)
    descriptor = os.open(tmp_path / names[2], os.O_RDWR)
    with mmap.mmap(descriptor, mmap.PAGESIZE):
        os.close(descriptor)  # mapped, but no longer open
        assert remove_left_memory(tmp_path) == [tmp_path / names[0], tmp_path / names[1]]
    assert remove_left_memory(tmp_path) == [tmp_path / names[2]]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
