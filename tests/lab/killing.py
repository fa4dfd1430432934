"""Stages of writing a checkpoint and the trained model, and a rank that kills itself when it comes to one.

A stage is a function, and when to die: before it, after it, or with half of its work on the disk. SIGKILL leaves no
chance to tidy up.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
from pathlib import Path

STAGES = {
    "before the folder": ("cached_ds.checkpoints.staging", "begin", "before"),
    "empty folder": ("cached_ds.checkpoints.staging", "begin", "after"),
    "weights": ("transformers.Trainer", "_save_optimizer_and_scheduler", "before"),
    "half a file": ("torch", "save", "half"),
    "optimizer": ("transformers.Trainer", "_save_rng_state", "before"),
    "random state": ("transformers.Trainer", "_save_rng_state", "after"),
    "all files": ("cached_ds.checkpoints.staging", "sync", "before"),
    "synced": ("cached_ds.checkpoints.staging", "sync", "after"),
    "digests": ("cached_ds.checkpoints.manifest", "digests", "after"),
    "half a manifest": ("cached_ds.checkpoints.manifest", "write", "half"),
    "before the rename": ("cached_ds.checkpoints.commit", "_publish", "before"),
    "after the rename": ("pathlib.Path", "rename", "after"),
    "published": ("cached_ds.checkpoints.commit", "_publish", "after"),
    "half a removal": ("shutil", "rmtree", "half"),
    "model, staged": ("cached_ds.checkpoints.replacing", "_place", "before"),
    "model, no weights": ("cached_ds.checkpoints.replacing", "_rename", "before"),
    "model, but weights": ("cached_ds.checkpoints.replacing", "_rename", "after"),
    "model, in place": ("cached_ds.checkpoints.replacing", "_place", "after"),
}
OF_RANK_0 = {"all files", "synced", "half a manifest", "before the rename", "after the rename", "published",
             "half a removal"}  # fmt: skip
OF_THE_MODEL = {stage for stage in STAGES if stage.startswith("model")}  # saved once, by rank 0


def arm(stage, *, call):
    """Let this process die at a stage, when it comes there for the `call`-th time (from 1)."""
    place, name, moment = STAGES[stage]
    owner, calls = _find(place), [0]
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args, **kwargs):
        calls[0] += 1
        if calls[0] < call:
            return original(*args, **kwargs)
        if moment == "half" and name == "rmtree":
            _halve(Path(args[0]))
        elif moment != "before":
            original(*args, **kwargs)
        if moment == "half" and name != "rmtree":
            _halve(args[0] / "manifest.json" if name == "write" else args[1])
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, wrapped)


def _find(place):
    """A module, or a class in one."""
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError:
        module, name = place.rsplit(".", 1)
        return getattr(importlib.import_module(module), name)


def _halve(place):
    """Leave half of a file, or every second file of a folder; not of what is written into memory first."""
    if isinstance(place, str | Path) and Path(place).is_file():
        os.truncate(place, Path(place).stat().st_size // 2)
    elif isinstance(place, Path):
        for path in sorted(path for path in place.rglob("*") if path.is_file())[::2]:
            path.unlink()
