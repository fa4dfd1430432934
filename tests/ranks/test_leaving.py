"""Leaving: exit handlers run, output arrives, and a gloo thread that lets go late cannot abort the process."""

from __future__ import annotations

import mmap
import os

import pytest

from cached_ds import leaving
from lab import commands
from lab.programs import PROGRAMS


@pytest.mark.timeout(100)
def test_a_rank_ends_with_its_handlers_and_no_crash():
    done = commands.run([*commands.launcher("torchrun"), PROGRAMS / "leaving_rank.py"], timeout=80)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("handlers ran") == 2
    assert "still here" not in done.stdout


def test_without_a_group_it_returns():
    assert leaving.leave() is None


def test_only_the_ranks_own_shared_memory_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(leaving, "SHARED_MEMORY", tmp_path)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    names = [
        f"deepspeed_allreduce_buffer_{os.getuid()}_10.0.0.1_{port}_{rank}"
        for port, rank in ((29500, 0), (29500, 1), (1, 0))
    ]
    for name in names:
        (tmp_path / name).touch()
    leaving.remove_shared_buffer(0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    leaving.remove_shared_buffer(0)  # nothing left: nothing to do


def test_the_memory_of_mpi_that_is_mapped_here_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(leaving, "SHARED_MEMORY", tmp_path)
    for name in ("sm_segment.host.0.1.0", "sm_segment.host.0.2.0"):
        (tmp_path / name).write_bytes(b"0" * mmap.PAGESIZE)
    with (tmp_path / "sm_segment.host.0.1.0").open("r+b") as file, mmap.mmap(file.fileno(), mmap.PAGESIZE):
        leaving._remove_mpi_segments()
    assert [path.name for path in tmp_path.iterdir()] == ["sm_segment.host.0.2.0"]
