"""Discovery: rank, world size and master address of this process, from the variables that its launcher set.

torchrun, DeepSpeed's and accelerate's launchers set RANK and its companions; SLURM's srun and the mpirun of Open MPI,
MPICH, Intel MPI and MVAPICH set names of their own. The first launcher found, in this order, counts; `export` then
writes torchrun's names for everything that reads them (accelerate, DeepSpeed, transformers).

If two are found they must agree, with one exception: srun or mpirun may start one launcher per node, whose ranks then
differ from its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from cached_ds.ranks import mpi

FIRST_SPECIAL_STEP = 0xFFFFFFF0  # SLURM numbers batch scripts and interactive shells from here: not started by srun
FIRST_PORT, NUM_PORTS = 10_000, 20_000  # below the ports that the kernel hands out by itself


@dataclass(frozen=True, kw_only=True)
class RankInfo:
    """One process among `world_size`.

    Attributes:
        rank: among all processes.
        world_size: the number of all processes.
        local_rank: among the processes of this node.
        local_world_size: the number of processes of this node; None where the launcher does not say.
        master_addr: the host where rank 0 runs.
        master_port: the port where all ranks meet.
        source: which launcher said so.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int | None
    master_addr: str
    master_port: int
    source: str


@dataclass(frozen=True)
class _Names:
    """The environment variables of one launcher; the last may be spelt in two ways."""

    source: str
    rank: str
    size: str
    local_rank: str
    local_size: tuple[str, ...]


def _comm_world(source: str, prefix: str) -> _Names:
    """The variables of Open MPI or MVAPICH, which differ only in the prefix."""
    words = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    rank, size, local_rank, local_size = (f"{prefix}_COMM_WORLD_{word}" for word in words)
    return _Names(source, rank, size, local_rank, (local_size,))


TORCHRUN = _Names("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"))
SLURM = _Names("SLURM", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", ("SLURM_NTASKS_PER_NODE",))
MPIS = (
    _comm_world("Open MPI", "OMPI"),
    _Names("MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", ("MPI_LOCALNRANKS",)),
    _comm_world("MVAPICH", "MV2"),
)
OUTER_FIRST = (SLURM, *MPIS, TORCHRUN)  # each may start those after it


@dataclass(frozen=True)
class _Claim:
    """What one launcher's variables say about this process."""

    names: _Names
    rank: int
    size: int
    local_rank: int | None
    local_size: int | None

    @property
    def who(self) -> tuple[int, int]:
        return self.rank, self.size

    def __str__(self) -> str:
        return f"{self.names.source} ({self.names.rank}={self.rank}, {self.names.size}={self.size})"


def discover(environ: Mapping[str, str]) -> RankInfo | None:
    """This process among all; None if nothing says that there is more than one.

    Raises:
        ValueError: two launchers contradict each other; a variable is missing, not a number or out of range.
        MissingExtra: MPI has to be asked for the master, and mpi4py is not installed.
    """
    claims = [claim for names in (TORCHRUN, SLURM, *MPIS) if (claim := _claim(environ, names)) is not None]
    if not claims:
        return None
    # Inside SLURM or MPI, torchrun may run once per node: the outer launcher's variables then describe torchrun itself.
    ranks_own_claims = [claim for claim in claims if not any(_started(inner, by=claim) for inner in claims)]
    first, *others = ranks_own_claims
    for other in others:
        if first.who != other.who:
            raise ValueError(f"{first} and {other} contradict each other; unset the variables of the wrong one")
    if first.size == 1:
        return None
    if first.local_rank is None:
        raise ValueError(f"{first.names.local_rank} is missing beside {first}")
    address, port = _master(environ, first)
    return RankInfo(
        rank=first.rank, world_size=first.size, local_rank=first.local_rank, local_world_size=first.local_size,
        master_addr=address, master_port=port, source=first.names.source,
    )  # fmt: skip


def export(info: RankInfo, environ: MutableMapping[str, str]) -> None:
    """Write torchrun's names into the environment."""
    environ["RANK"] = str(info.rank)
    environ["WORLD_SIZE"] = str(info.world_size)
    environ["LOCAL_RANK"] = str(info.local_rank)
    environ["MASTER_ADDR"] = info.master_addr
    environ["MASTER_PORT"] = str(info.master_port)
    if info.local_world_size is not None:
        environ["LOCAL_WORLD_SIZE"] = str(info.local_world_size)


def _claim(environ: Mapping[str, str], names: _Names) -> _Claim | None:
    if not environ.keys() & {names.rank, names.size} or (names is SLURM and not _in_step(environ)):
        return None
    size = _number(environ, names.size, low=1)
    rank = _number(environ, names.rank, below=size)
    local_sizes = [_number(environ, name, low=1) for name in names.local_size if name in environ]
    if names is SLURM and "SLURM_STEP_TASKS_PER_NODE" in environ:
        local_sizes = [_tasks_here(environ)]
    local_size = local_sizes[0] if local_sizes else None
    local_rank = _number(environ, names.local_rank, below=local_size or size) if names.local_rank in environ else None
    return _Claim(names, rank, size, local_rank, local_size)


def _started(inner: _Claim, *, by: _Claim) -> bool:
    """Whether `by` speaks of the one launcher on this node that started `inner`, and so not of this rank."""
    is_outer = OUTER_FIRST.index(by.names) < OUTER_FIRST.index(inner.names)
    return is_outer and inner.who != by.who and by.local_size == 1 and inner.local_size is not None


def _number(environ: Mapping[str, str], name: str, *, low: int = 0, below: int | None = None) -> int:
    text = environ.get(name)
    allowed = f"a number >= {low}" if below is None else f"{low} to {below - 1}"
    if text is None:
        raise ValueError(f"{name} is missing; other variables of its launcher are set. Allowed is {allowed}")
    if not text.isdecimal() or int(text) < low or (below is not None and int(text) >= below):
        raise ValueError(f"{name}={text!r} is refused; allowed is {allowed}")
    return int(text)


def _master(environ: Mapping[str, str], claim: _Claim) -> tuple[str, int]:
    """The master's address and port, from the environment or else from the launcher."""
    address, port = environ.get("MASTER_ADDR"), None
    if "MASTER_PORT" in environ:
        port = _number(environ, "MASTER_PORT", low=1, below=2**16)
    if address and port:
        return address, port
    if claim.names is TORCHRUN:
        raise ValueError(f"{'MASTER_PORT' if address else 'MASTER_ADDR'} is missing beside {claim}")
    found = _slurm_master(environ) if claim.names is SLURM else mpi.master(rank=claim.rank, world_size=claim.size)
    return address or found[0], port or found[1]


def _in_step(environ: Mapping[str, str]) -> bool:
    """Whether srun started this process: a batch script or an salloc shell has SLURM's variables, but no step."""
    return "SLURM_STEP_ID" in environ and _number(environ, "SLURM_STEP_ID") < FIRST_SPECIAL_STEP


def _tasks_here(environ: Mapping[str, str]) -> int:
    """The number of tasks on this node, from a list by node such as `2(x3),1`."""
    text = environ["SLURM_STEP_TASKS_PER_NODE"]
    parts = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    counts = [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))]
    if not all(parts) or not all(counts):
        raise ValueError(f"SLURM_STEP_TASKS_PER_NODE={text!r} is refused; allowed is a list such as '2(x3),1'")
    return counts[_number(environ, "SLURM_NODEID", below=len(counts))]


def _slurm_master(environ: Mapping[str, str]) -> tuple[str, int]:
    """The step's first host, and a port that depends on the job and the step only."""
    name = "SLURM_STEP_NODELIST" if "SLURM_STEP_NODELIST" in environ else "SLURM_JOB_NODELIST"
    if not environ.get(name):
        raise ValueError(f"{name} is missing; srun sets it. Give MASTER_ADDR and MASTER_PORT instead")
    step = _number(environ, "SLURM_JOB_ID") + _number(environ, "SLURM_STEP_ID")
    return _first_host(environ[name]), FIRST_PORT + step % NUM_PORTS


def _first_host(nodes: str) -> str:
    """The first name of a list such as `rack[1-2]gpu[07,09-12],login1`: here `rack1gpu07`."""
    first = re.match(r"(?:\[[^]]*\]|[^,[])*", nodes)
    assert first is not None, "the pattern matches the empty text"
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", first[0])
