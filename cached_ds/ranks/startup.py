"""The first thing a rank does: find out who it is, say so to the libraries, and meet the others."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from cached_ds.ranks import discovery as ranks
from cached_ds.ranks import logs as rank_logs
from cached_ds.ranks.agreement import facts, settings
from cached_ds.ranks.rendezvous import join

DEFAULT_PATIENCE = "300"  # seconds to wait for the other ranks
DEFAULT_TIMEOUT = 1800  # seconds of a collective, as in TrainingArguments


def begin(argv: Sequence[str]) -> ranks.Place | None:
    """This rank's place, once all ranks are there; None for a process that is alone.

    Raises:
        ValueError: what `ranks.discover` and `rendezvous.join` refuse; CACHED_DS_JOIN_TIMEOUT is no number of seconds.
    """
    place = ranks.discover(os.environ)
    if place is None:
        return None
    ranks.announce(place, os.environ)
    told = settings(argv)
    stated = facts(argv, os.environ, script=Path(sys.argv[0]))
    join(place, facts=stated, backend=backend(told, os.environ), patience=patience(), timeout=_timeout(told))
    rank_logs.name_failures(place)  # after torch has set a hook of its own, which would swallow what ours says
    return place


def backend(told: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """The backend that accelerate would choose: gloo on CPUs, the device's own elsewhere; both for FSDP on the host."""
    device = torch.accelerator.current_accelerator(check_available=True)
    on_cpu = (told.get("use_cpu", "false") or "true").lower() in ("true", "1", "yes")
    if device is None or on_cpu or environ.get("ACCELERATE_USE_CPU", "false").lower() == "true":
        return "gloo"
    own = told.get("ddp_backend") or dist.get_default_backend_for_device(device)
    uses_fsdp = environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    on_host = environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true"
    whole = environ.get("FSDP_STATE_DICT_TYPE") == "FULL_STATE_DICT"
    return f"{device.type}:{own},cpu:gloo" if uses_fsdp and (on_host or whole) else own


def patience() -> float:
    """Seconds to wait for the other ranks: CACHED_DS_JOIN_TIMEOUT."""
    text = os.environ.get("CACHED_DS_JOIN_TIMEOUT", DEFAULT_PATIENCE)
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"CACHED_DS_JOIN_TIMEOUT={text!r} is refused; allowed is a number of seconds >= 1")
    return float(text)


def _timeout(told: Mapping[str, str]) -> timedelta:
    text = told.get("ddp_timeout", "")
    return timedelta(seconds=int(text) if text.isdecimal() else DEFAULT_TIMEOUT)
