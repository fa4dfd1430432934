"""Runners start the ranks of a trial. Each rank is a fresh process on cores of its own.

`LocalRunner` serves a benchmark that was started by hand: this process starts all ranks. `LaunchedRunner` serves one
that a launcher started (torchrun, srun, mpirun, deepspeed), with one process of the benchmark per rank: rank 0 tells
the others which trial comes next and gets their results; each starts the process of its own rank.
"""

from __future__ import annotations

import os
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cached_ds.ranks import discovery
from cached_ds.ranks.discovery import RankInfo
from cached_ds.ranks.mpi import free_port
from harness import trials
from harness.machine import Machine
from harness.trials import Result, Trial

PROGRAMS = Path(sys.executable).parent  # DeepSpeed looks for ninja on the path
MARGIN = 600  # seconds between a trial's timeout and that of the ranks that wait for it


def rank_environment(info: RankInfo) -> dict[str, str]:
    """The environment variables that tell a process its rank, and where DeepSpeed finds what it compiles.

    Without LOCAL_SIZE DeepSpeed makes no shared memory (in /dev/shm) for a collective that training never calls.
    """
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    built = os.environ.get("TORCH_EXTENSIONS_DIR") or str(PROGRAMS.parent / "torch_extensions")
    environment = {"PATH": path, "TORCH_EXTENSIONS_DIR": built, "LOCAL_SIZE": "0"}
    discovery.export(info, environment)
    return environment


def run_rank(trial: Trial, machine: Machine, info: RankInfo) -> Result:
    """The result of one rank, in a process on its own cores; where there are fewer cores than ranks, they share."""
    return trials.run(trial, machine.share(info.local_rank), environment=rank_environment(info))


def merge_results(results: list[Result | None]) -> Result:
    """The results of all ranks that took part and the time of the slowest, or the failure of the first that failed."""
    found = [result for result in results if result is not None]
    failed = [f"rank {number}: {result['failed']}" for number, result in enumerate(found) if "failed" in result]
    if failed:
        return {"failed": failed[0]}
    times = [statistics.median(each["seconds"]) for each in found if each["seconds"]]
    return {"ranks": found} | ({"seconds": max(times)} if times else {})


def num_processes(trial: Trial) -> int:
    """How many processes a trial has: one per rank, but only one under a fake process group."""
    return 1 if trial.settings["fake"] else int(trial.settings["ranks"])


class LocalRunner:
    """Starts all ranks as children of this process."""

    is_lead = True

    def run(self, trial: Trial, machine: Machine) -> Result:
        """The results of all ranks of a trial."""
        count, port = num_processes(trial), free_port()
        ranks = [local_rank_info(rank, world_size=count, port=port) for rank in range(count)]
        with ThreadPoolExecutor(count) as pool:
            return merge_results(list(pool.map(lambda info: run_rank(trial, machine, info), ranks)))

    def finish(self, code: int) -> None:
        """Do nothing: no other process waits for the exit code."""


class LaunchedRunner:
    """Starts one rank, of as many as a launcher started; rank 0 leads."""

    def __init__(self, info: RankInfo) -> None:
        """Take this process's rank; the process group must exist."""
        self.info, self.is_lead = info, info.rank == 0

    def run(self, trial: Trial, machine: Machine) -> Result:
        """Rank 0: announce a trial to all ranks and return the results of all."""
        task = self._broadcast((trial, free_port()))
        return merge_results(self._all_gather(self._run_own_rank(*task, machine)))

    def serve(self, machine: Machine) -> int:
        """All other ranks: take part in trials until rank 0 has no more; returns the exit code it gives."""
        while (task := self._broadcast(None))[0] is not None:
            self._all_gather(self._run_own_rank(*task, machine))
        return int(task[1])

    def finish(self, code: int) -> None:
        """Rank 0: end `serve` on the other ranks, with this exit code."""
        self._broadcast((None, code))

    def _run_own_rank(self, trial: Trial, port: int, machine: Machine) -> Result | None:
        """The result of this rank; None where the trial has fewer ranks than the launcher started."""
        world_size = num_processes(trial)
        if self.info.rank >= world_size:
            return None
        return run_rank(trial, machine, replace(self.info, world_size=world_size, master_port=port))

    def _broadcast(self, task: Any) -> Any:
        box = [task]
        dist.broadcast_object_list(box)
        return box[0]

    def _all_gather(self, result: Result | None) -> list[Result | None]:
        found: list[Result | None] = [None] * self.info.world_size
        dist.all_gather_object(found, result)
        return found


Runner = LocalRunner | LaunchedRunner


def local_rank_info(rank: int, *, world_size: int, port: int) -> RankInfo:
    """One of the ranks that a LocalRunner starts."""
    return RankInfo(
        rank=rank, world_size=world_size, local_rank=rank, local_world_size=None,
        master_addr="127.0.0.1", master_port=port, source="benchmark",
    )  # fmt: skip


def discover() -> RankInfo | None:
    """This process among those of a launcher; None without one.

    Raises:
        ValueError: the launcher's variables contradict each other or are incomplete.
    """
    info = discovery.discover(os.environ)
    if info is not None:
        discovery.export(info, os.environ)
    return info


def make_runner(info: RankInfo | None, *, timeout: float) -> Runner:
    """The runner for the way this process was started; `timeout` is how long the other ranks may wait for a trial."""
    if info is None:
        return LocalRunner()
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout + MARGIN))
    return LaunchedRunner(info)
