"""Leaving: exit handlers run, output arrives, and a gloo thread that lets go late cannot abort the process."""

from __future__ import annotations

import os

import pytest
from lab.workshop import launch, launcher

from cached_ds import leaving

# Exit handlers end with the first registered. Holding the group is what DeepSpeed does.
SCRIPT = """
import atexit, sys, time, torch, torch.distributed as dist
from cached_ds.leaving import leave
atexit.register(sys.stdout.write, "handlers ran\\n")
dist.init_process_group("gloo")
torch.held = dist.group.WORLD
values = [torch.ones(1 << 20) for _ in range(8)]
works = [dist.all_reduce(value, async_op=True) for value in values]
for work in works:
    work.wait()
del values, works, work
try:
    leave()
finally:
    print("still here")
"""


@pytest.mark.timeout(100)
def test_a_rank_ends_with_its_handlers_and_no_crash(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = launch([*launcher("torchrun"), tmp_path / "script.py"], timeout=80)
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
