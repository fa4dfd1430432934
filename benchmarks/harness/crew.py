"""Crews: who runs the ranks of a cell. Each rank is a fresh process on cores of its own.

Started by hand, this process starts them all. Started by a launcher (torchrun, srun, mpirun, deepspeed), there is one
process of the benchmark per rank: rank 0 leads, tells the others which cell comes next, and gets their results; each
starts the process of its own rank.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from harness import cells
from harness.cells import Cell, Machine

from cached_ds.ranks import discovery

PROGRAMS = Path(sys.executable).parent  # DeepSpeed looks for ninja on the path
MARGIN = 600  # seconds between a cell's timeout and that of the ranks that wait for it
Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Rank:
    """Where a process stands among the others."""

    rank: int
    world: int
    local: int
    address: str = "127.0.0.1"
    port: int = 0

    def environment(self) -> dict[str, str]:
        """What its process is told, in torchrun's words.

        Without LOCAL_SIZE DeepSpeed makes no shared memory (in /dev/shm) for a collective that training never calls.
        """
        words = {"RANK": self.rank, "WORLD_SIZE": self.world, "LOCAL_RANK": self.local, "MASTER_ADDR": self.address}
        path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
        built = os.environ.get("TORCH_EXTENSIONS_DIR") or str(PROGRAMS.parent / "torch_extensions")
        own = {"MASTER_PORT": self.port, "PATH": path, "TORCH_EXTENSIONS_DIR": built, "LOCAL_SIZE": 0}
        return {name: str(value) for name, value in (words | own).items()}


def run_rank(cell: Cell, machine: Machine, rank: Rank) -> Result:
    """The result of one rank, in a process on its own cores; where there are fewer cores than ranks, they share."""
    first = rank.local * machine.threads
    cores = tuple(machine.cores[(first + thread) % len(machine.cores)] for thread in range(machine.threads))
    return cells.run(cell, dataclasses.replace(machine, cores=cores), environment=rank.environment())


def joined(results: list[Result | None]) -> Result:
    """The results of all ranks that took part, or the failure of the first that failed."""
    found = [result for result in results if result is not None]
    failed = [f"rank {number}: {result['failed']}" for number, result in enumerate(found) if "failed" in result]
    if failed:
        return {"failed": failed[0]}
    times = [statistics.median(each["seconds"]) for each in found if each["seconds"]]
    return {"ranks": found} | ({"seconds": max(times)} if times else {})


def processes(cell: Cell) -> int:
    """How many processes a cell has: one per rank, but one alone where the others are faked."""
    return 1 if cell.settings["fake"] else int(cell.settings["ranks"])


class Local:
    """All ranks are children of this process."""

    leads = True

    def run(self, cell: Cell, machine: Machine) -> Result:
        """The joint result of a cell."""
        count, port = processes(cell), free_port()
        places = [Rank(rank, count, rank, port=port) for rank in range(count)]
        with ThreadPoolExecutor(count) as pool:
            return joined(list(pool.map(lambda place: run_rank(cell, machine, place), places)))

    def dismiss(self, code: int) -> None:
        """Nobody waits for the exit code."""


class Launched:
    """One rank, of as many as a launcher started; rank 0 leads."""

    def __init__(self, rank: Rank) -> None:
        """The process group must exist."""
        self.rank, self.leads = rank, rank.rank == 0

    def run(self, cell: Cell, machine: Machine) -> Result:
        """Rank 0: the joint result of a cell, which all ranks are told."""
        task = self._share((cell, free_port()))
        return joined(self._gather(self._own(*task, machine)))

    def serve(self, machine: Machine) -> int:
        """All other ranks: take part in cells until rank 0 has no more; returns the exit code it gives."""
        while (task := self._share(None))[0] is not None:
            self._gather(self._own(*task, machine))
        return int(task[1])

    def dismiss(self, code: int) -> None:
        """Rank 0: let the others go, with this exit code."""
        self._share((None, code))

    def _own(self, cell: Cell, port: int, machine: Machine) -> Result | None:
        if self.rank.rank >= processes(cell):
            return None
        return run_rank(cell, machine, dataclasses.replace(self.rank, world=processes(cell), port=port))

    def _share(self, task: Any) -> Any:
        box = [task]
        dist.broadcast_object_list(box)
        return box[0]

    def _gather(self, result: Result | None) -> list[Result | None]:
        found: list[Result | None] = [None] * self.rank.world
        dist.all_gather_object(found, result)
        return found


Crew = Local | Launched


def discover() -> Rank | None:
    """This process among those of a launcher; None without one.

    Raises:
        ValueError: the launcher's variables contradict each other or are incomplete.
    """
    place = discovery.discover(os.environ)
    if place is None:
        return None
    discovery.export(place, os.environ)
    return Rank(place.rank, place.world_size, place.local_rank, place.master_addr)


def make_crew(place: Rank | None, *, timeout: float) -> Crew:
    """The crew for the way this process was started; `timeout` is how long the others may wait for a cell."""
    if place is None:
        return Local()
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout + MARGIN))
    return Launched(place)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
