"""Locks of operators that DeepSpeed compiles: dead ones go, those of living builders stay, nobody waits for ever."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from cached_ds import op_locks
from helpers.repo import ROOT, TRAIN
from lab import commands, workshop
from lab.programs import PROGRAMS


@pytest.fixture
def lock(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    folder = tmp_path / "deepspeed_shm_comm"
    folder.mkdir()
    return folder / "lock"


@pytest.fixture
def holder(lock):
    """A process that holds the lock as torch's builder does."""
    process = subprocess.Popen([sys.executable, PROGRAMS / "lock_holder.py", lock], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.usefixtures("lock")
def test_without_locks_nothing_is_looked_for(monkeypatch):
    monkeypatch.setattr(op_locks, "_is_held", lambda _: pytest.fail("looked through all processes"))
    assert op_locks.remove_stale_locks() == []


def test_the_lock_of_a_living_builder_stays_and_that_of_a_killed_one_goes(lock, holder, caplog):
    assert op_locks.remove_stale_locks() == [] and lock.exists()
    holder.kill()
    holder.wait()
    assert op_locks.remove_stale_locks() == [lock] and not lock.exists()
    assert f"removed {lock}, the lock of a run that was killed" in caplog.text


def test_on_a_shared_file_system_a_young_lock_is_refused_with_what_to_do(lock, monkeypatch):
    lock.touch()
    monkeypatch.setattr(op_locks, "_is_remote", lambda _: True)
    with pytest.raises(ValueError, match=r"lock: nobody on this host holds .* remove the file"):
        op_locks.remove_stale_locks()
    assert lock.exists()
    old = time.time() - op_locks.BUILD_SECONDS - 1
    os.utime(lock, (old, old))
    assert op_locks.remove_stale_locks() == [lock]


@pytest.mark.timeout(200)
def test_a_run_after_a_killed_build_trains(folder, tmp_path, zero_ops):  # noqa: ARG001
    """As a user sees it, with a copy of the built operator in which a killed run has left its lock."""
    extensions = shutil.copytree(os.environ["TORCH_EXTENSIONS_DIR"], tmp_path / "extensions")
    built = next(path for path in extensions.iterdir() if (path / "build.ninja").is_file())
    (built / "lock").touch()
    changes = {"deepspeed": ROOT / "ds_configs" / "zero2.json", "max_steps": 1}
    words = workshop.flags(folder, tmp_path / "out", **changes)
    done = commands.run([*commands.launcher("deepspeed"), TRAIN, *words], TORCH_EXTENSIONS_DIR=str(extensions))
    assert done.returncode == 0, done.stdout
    assert "the lock of a run that was killed" in done.stdout and not (built / "lock").exists()
