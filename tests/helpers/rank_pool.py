"""Ranks: ordinary pytest functions that run on two gloo processes, with a timeout that ends them.

One pool of processes serves the whole session, since importing torch, transformers and DeepSpeed takes longer than most
tests. `run(function, **arguments)` calls a module-level function on every rank and returns the list of its results. A
failure on one rank, or a rank that does not answer in time, ends all of them and fails the test; the next test gets a
new pool.
"""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from multiprocessing import connection, get_context
from pathlib import Path

import torch.distributed as dist

from cached_ds.leaving import leave
from cached_ds.ranks.mpi import free_port


class RankError(AssertionError):
    """A rank failed or did not answer in time."""


def serve(pipe):
    """Answer requests until told to stop."""
    while (request := pipe.recv()) is not None:
        function, arguments = request
        try:
            pipe.send(("ok", _call(function, arguments)))
        except BaseException:
            pipe.send(("failed", traceback.format_exc()))
            raise


def _call(function, arguments):
    """A function's result; what it wrote into the environment (accelerate, DeepSpeed) does not reach the next one."""
    before = dict(os.environ)
    try:
        return function(**arguments)
    finally:
        os.environ.clear()
        os.environ.update(before)


def _live(rank, world, store, port, pipe):
    """A rank's life: join the group, serve, leave."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"), str(world))
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    import torch

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    serve(pipe)
    leave()


class RankPool:
    """Ranks that are started when they are first needed: `start`, `death`, `kill` and `stop` say how."""

    def __init__(self, world=2):
        self.world, self.processes, self.pipes = world, [], []

    def run(self, function, *, timeout=100, **arguments):
        """Results of `function(**arguments)` on every rank."""
        if not self.pipes:
            self.start()
        for pipe in self.pipes:
            pipe.send((function, arguments))
        try:
            return self._collect(time.monotonic() + timeout)
        except BaseException:
            self.kill()
            raise

    def _collect(self, deadline):
        results = {}
        while len(results) < self.world:
            waiting = [pipe for rank, pipe in enumerate(self.pipes) if rank not in results]
            ready = connection.wait(waiting, timeout=max(0, deadline - time.monotonic()))
            if not ready:
                raise RankError(f"ranks {sorted(set(range(self.world)) - set(results))} did not answer in time")
            for pipe in ready:
                rank = self.pipes.index(pipe)
                results[rank] = self._answer(rank, pipe)
        return [results[rank] for rank in range(self.world)]

    def _answer(self, rank, pipe):
        try:
            kind, value = pipe.recv()
        except EOFError:
            raise RankError(f"rank {rank} {self.death(rank)}") from None
        if kind == "failed":
            raise RankError(f"rank {rank}:\n{value}")
        return value

    def start(self):
        """Start all ranks."""
        context, store, port = get_context("spawn"), Path(tempfile.mkdtemp()) / "store", free_port()
        for rank in range(self.world):
            here, there = context.Pipe()
            process = context.Process(target=_live, args=(rank, self.world, store, port, there), daemon=True)
            process.start()
            self.processes.append(process)
            self.pipes.append(here)

    def death(self, rank):
        """What became of a rank that does not speak any more."""
        self.processes[rank].join(5)
        return f"died with exit code {self.processes[rank].exitcode}"

    def kill(self):
        """End all ranks at once."""
        for process in self.processes:
            process.kill()
            process.join()
        self.processes, self.pipes = [], []

    def stop(self):
        """End all ranks in order."""
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(20)
        self.kill()
