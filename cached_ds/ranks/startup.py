"""Startup: the first steps of a rank: find out who it is, tell the libraries, and meet the other ranks."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from cached_ds.provenance.facts import facts, settings
from cached_ds.ranks import discovery
from cached_ds.ranks import logs as rank_logs
from cached_ds.ranks.rendezvous import init_process_group
from cached_ds.watch.launcher import Launcher
from cached_ds.watch.watchdog import Watchdog

DEFAULT_PATIENCE = "300"  # seconds to wait for the other ranks
DEFAULT_TIMEOUT = 1800  # seconds of a collective, as in TrainingArguments


def start_rank(argv: Sequence[str]) -> discovery.RankInfo | None:
    """Meet the other ranks; returns this one's info, or None for a process that is alone.

    Args:
        argv: the command line after the program's name, whose settings the ranks compare.

    Raises:
        ValueError: what `discovery.discover` and `rendezvous.init_process_group` refuse; CACHED_DS_JOIN_TIMEOUT is not
            a number of seconds.
        MissingExtra: as `discovery.discover`.
    """
    info = discovery.discover(os.environ)
    if info is None:
        return None
    discovery.export(info, os.environ)
    told = settings(argv)
    stated = facts(argv, os.environ, script=Path(sys.argv[0]))
    own_backend, timeout = backend(told, os.environ), _timeout(told)
    _set_default_timeout(timeout)
    init_process_group(info, facts=stated, backend=own_backend, patience=patience(), timeout=timeout)
    rank_logs.install_excepthook(info)  # after torch has set its own, which would hide the message of ours
    return info


def start_watchdog(info: discovery.RankInfo | None, *, limit: float, launcher: Launcher | None) -> Watchdog:
    """Watch this rank from now on.

    Args:
        info: this rank; None for a process that is alone.
        limit: seconds without any movement after which training is ended; 0: it never is.
        launcher: what has started this process, if a launcher has.
    """
    rank, size = (0, 1) if info is None else (info.rank, info.world_size)
    watchdog = Watchdog(rank=rank, size=size, limit=limit, launcher=launcher)
    watchdog.start()
    return watchdog


def backend(told: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """The backend that accelerate would choose: gloo on CPUs, elsewhere the device's own; both for FSDP on the host.

    Args:
        told: the run's settings by name, as `provenance.facts.settings` reads them.
        environ: the environment.
    """
    device = torch.accelerator.current_accelerator(check_available=True)
    use_cpu = told.get("use_cpu", "false") or "true"  # a bare `--use_cpu` is the empty text
    on_cpu = use_cpu.lower() in ("true", "1", "yes")
    if device is None or on_cpu or environ.get("ACCELERATE_USE_CPU", "false").lower() == "true":
        return "gloo"
    own = told.get("ddp_backend") or dist.get_default_backend_for_device(device)
    uses_fsdp = environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    on_host = environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true"
    whole = environ.get("FSDP_STATE_DICT_TYPE") == "FULL_STATE_DICT"
    return f"{device.type}:{own},cpu:gloo" if uses_fsdp and (on_host or whole) else own


def patience() -> float:
    """Seconds to wait for the other ranks: CACHED_DS_JOIN_TIMEOUT.

    Raises:
        ValueError: it is not a number of seconds >= 1.
    """
    text = os.environ.get("CACHED_DS_JOIN_TIMEOUT", DEFAULT_PATIENCE)
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"CACHED_DS_JOIN_TIMEOUT={text!r} is refused; allowed is a number of seconds >= 1")
    return float(text)


def _timeout(told: Mapping[str, str]) -> timedelta:
    text = told.get("ddp_timeout", "")
    return timedelta(seconds=int(text) if text.isdecimal() else DEFAULT_TIMEOUT)


def _set_default_timeout(timeout: timedelta) -> None:
    """Let every group have the run's timeout: DeepSpeed, among others, makes its own without naming one."""
    distributed_c10d.default_pg_timeout = distributed_c10d.default_pg_nccl_timeout = timeout
