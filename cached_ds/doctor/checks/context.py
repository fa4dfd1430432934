"""Context of a check: its rank, the command line of the run, the limits, and how the ranks talk to each other."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import secrets
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import convert_file_size_to_int

from cached_ds.run.arguments import read_flags
from cached_ds.run.flags import value_of


def size(text: str) -> int:
    """Bytes, from text such as 1GiB; the type of a flag."""
    try:
        return convert_file_size_to_int(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is refused; allowed are bytes, or a size such as 1GiB") from error


def positive(text: str) -> float:
    """A number above 0, from text; the type of a flag."""
    if not text.replace(".", "", 1).isdecimal() or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is refused; allowed is a number above 0")
    return float(text)


def _limit(default: Any, kind: Any, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"type": kind, "help": help})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What counts as healthy; each field is a flag."""

    min_bandwidth: float = _limit(10.0, positive, "MB/s of every link between neighbours, and of the all-reduce")
    max_latency: float = _limit(50.0, positive, "milliseconds to a neighbour")
    max_skew: float = _limit(1.0, positive, "seconds between a rank's clock and that of rank 0")
    min_memory: int = _limit(2**30, size, "free host memory for each rank, such as 1GiB")
    min_disk: int = _limit(2**30, size, "free disk in the output, temporary and cache folders, such as 1GiB")
    min_open_files: int = _limit(1024, int, "files that a process may open (ulimit -n)")
    timeout: float = _limit(120.0, positive, "seconds that ranks wait for each other")
    accelerate_config: str | None = _limit(None, str, "the file of accelerate's --config_file, to be checked as well")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give `parser` a flag for every limit."""
    for field in dataclasses.fields(Limits):
        text = f"{field.metadata['help']} (default: {field.default})"
        parser.add_argument(f"--{field.name}", type=field.metadata["type"], default=field.default, help=text)


@dataclass(frozen=True, kw_only=True)
class RankContext:
    """One rank among the others, and its task.

    Attributes:
        rank: among all processes.
        world_size: the number of all processes.
        local_rank: among the processes of this host.
        host: its name.
        device: where this rank's tensors live.
        argv: the command line of the run to come, for launch/train.py; may be empty.
        limits: what counts as healthy.
        talk: a gloo group of all ranks for the doctor's own use; None: there is only one rank.
        token: a random word, the same on all ranks, for this examination only.
    """

    rank: int
    world_size: int
    local_rank: int
    host: str
    device: torch.device
    argv: tuple[str, ...]
    limits: Limits
    talk: dist.ProcessGroup | None
    token: str

    @functools.cached_property
    def flags(self) -> list[str]:
        """The run's flags; none if they cannot be read, which is a finding of the check of arguments."""
        try:
            return read_flags(self.argv)
        except (ValueError, OSError):
            return []

    def flag(self, name: str) -> str | None:
        """The value of a flag of the run, in either spelling."""
        return value_of(self.flags, name) or value_of(self.flags, name.replace("_", "-"))

    def wait(self) -> None:
        """Wait until all ranks are here.

        Raises:
            TimeoutError: some are not; on rank 0 the message says which.
        """
        if self.talk is None:
            return
        limit = timedelta(seconds=self.limits.timeout)
        try:
            dist.monitored_barrier(self.talk, timeout=limit, wait_all_ranks=True)
        except RuntimeError as error:
            raise TimeoutError(f"not all ranks answer within {self.limits.timeout:.0f} s: {error}") from error

    def gather(self, facts: Any) -> list[Any]:
        """All ranks' facts by rank, on every rank.

        Raises:
            TimeoutError: as `wait`.
        """
        if self.talk is None:
            return [facts]
        self.wait()
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, facts, group=self.talk)
        return found


def make_context(argv: list[str], limits: Limits) -> RankContext:
    """This rank's context in the default process group, or alone if there is none."""
    together = dist.is_initialized()
    talk = dist.new_group(backend="gloo", timeout=timedelta(seconds=limits.timeout)) if together else None
    token = [secrets.token_hex(8)]
    if together:
        dist.broadcast_object_list(token, src=0, group=talk)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return RankContext(
        rank=dist.get_rank() if together else 0,
        world_size=dist.get_world_size() if together else 1,
        local_rank=local_rank,
        host=socket.gethostname(),
        device=torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu"),
        argv=tuple(argv),
        limits=limits,
        talk=talk,
        token=token[0],
    )
