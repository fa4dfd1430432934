"""Ranks that a launcher has started and that serve many tests: starting takes longer than a few steps of training.

They run `programs/serving_rank.py` in the environment that torchrun, DeepSpeed or accelerate gives them, connect to a
socket of the test run and do what is asked of them there, as the ranks of `helpers.rank_pool` do.
"""

from __future__ import annotations

import socket
import tempfile
from multiprocessing.connection import Connection

from helpers.rank_pool import RankError, RankPool
from lab.commands import launcher
from lab.programs import PROGRAMS
from lab.running import Running

START_SECONDS = 90


class LaunchedPool(RankPool):
    """The ranks of one launcher, named as in `commands.launcher`."""

    def __init__(self, name):
        super().__init__()
        self.name, self.command = name, None

    def start(self):
        """Start the launcher, and wait until every rank has called."""
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{folder}/pool")
            server.listen()
            server.settimeout(START_SECONDS)
            self.command = Running([*launcher(self.name), PROGRAMS / "serving_rank.py", f"{folder}/pool"])
            try:
                pipes = dict(_greeting(server) for _ in range(self.world))
            except TimeoutError:
                output = self.command.finish(0).output
                raise RankError(f"not all ranks of {self.name} came within {START_SECONDS} s:\n{output}") from None
        self.pipes = [pipes[rank] for rank in range(self.world)]

    def death(self, rank):  # noqa: ARG002
        """What the launcher says of it."""
        return f"died:\n{self.command.finish(20).output}"

    def kill(self):
        """End the launcher and all its ranks at once."""
        self.command.kill()
        self.pipes = []

    def stop(self):
        """Let all ranks leave; the launcher must be content."""
        if self.pipes:
            for pipe in self.pipes:
                pipe.send(None)
            finished = self.command.finish(60)
            assert finished.returncode == 0 and not finished.survivors, finished


class Pools:
    """The pool of one launcher at a time: that of another one leaves before."""

    def __init__(self):
        self.pool = None

    def run(self, launcher, function, **arguments):
        """Results of `function(**arguments)` on every rank of this launcher."""
        if self.pool is None or self.pool.name != launcher:
            self.stop()
            self.pool = LaunchedPool(launcher)
        return self.pool.run(function, **arguments)

    def stop(self):
        """Let the ranks that there are leave."""
        if self.pool is not None:
            self.pool.stop()


def _greeting(server):
    """The rank that calls next, and the pipe to it."""
    caller, _ = server.accept()
    pipe = Connection(caller.detach())
    return pipe.recv(), pipe
