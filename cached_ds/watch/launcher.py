"""Launcher: whether the command that started this rank is still there.

A launcher that is killed cannot end its ranks; they have to see it themselves. Its end shows in the number of the
parent, which becomes another. Linux can also send a signal then (PR_SET_PDEATHSIG), but it does so when the *thread*
ends that started the process, and SLURM and MPI start theirs from threads.

DeepSpeed puts a process of its own between its command and the ranks, which goes on when the command is killed; so that
process is looked at in the same way.
"""

from __future__ import annotations

import os

import psutil

BETWEEN = "deepspeed.launcher.launch"


class Launcher:
    """The processes that started this one."""

    def __init__(self) -> None:
        """Remember them."""
        self.parent = os.getppid()
        self.between = self._between()
        self.command = self.between.ppid() if self.between is not None else None

    @classmethod
    def of_rank(cls) -> Launcher | None:
        """What has started this process; None where no launcher says so: a user may leave a process alone."""
        return cls() if "LOCAL_RANK" in os.environ else None

    def is_gone(self) -> bool:
        """Whether one of them has ended."""
        if os.getppid() != self.parent:
            return True
        try:
            return self.between is not None and self.between.ppid() != self.command
        except psutil.NoSuchProcess:
            return True

    def _between(self) -> psutil.Process | None:
        try:
            parent = psutil.Process(self.parent)
            return parent if any(BETWEEN in word for word in parent.cmdline()) else None
        except psutil.Error:
            return None
