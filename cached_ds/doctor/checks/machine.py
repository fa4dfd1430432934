"""Machine: the device, cores, memory, disk space and limits that each rank has."""

from __future__ import annotations

import os
import resource
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub.constants import HF_HUB_CACHE

from cached_ds.doctor.checks.check import Check, Facts, Finding, Reports, by_host, bytes_text, span
from cached_ds.doctor.checks.context import Limits, RankContext

MOSTLY_FREE = 0.9  # of a device's memory before a run; less means that somebody else uses it
SHARED_MEMORY = Path("/dev/shm")
SHARED_BYTES = 66 * 2**20  # DeepSpeed takes as much of it for each rank of a host without GPUs


def devices(context: RankContext) -> Facts:
    """The rank's GPU with its free and total bytes, or "CPU" where there is none.

    Raises:
        ValueError: the host has GPUs, but fewer than ranks.
    """
    if context.device.type == "cpu":
        return {"host": context.host, "name": "CPU", "device": None}
    count = torch.cuda.device_count()
    if context.local_rank >= count:
        raise ValueError(f"local rank {context.local_rank} has no device: {context.host} shows {count}")
    properties = torch.cuda.get_device_properties(context.device)
    free, total = torch.cuda.mem_get_info(context.device)
    return {
        "host": context.host, "name": properties.name, "device": str(properties.uuid), "free": free, "total": total,
    }  # fmt: skip


def judge_devices(reports: Reports, _: Limits) -> Iterator[Finding]:
    """Find ranks that share a device; warn of devices that differ from most, or are partly in use."""
    owners: dict[str, int] = {}
    usual = Counter(facts["name"] for facts in reports.values()).most_common(1)[0][0]
    for rank, facts in sorted(reports.items()):
        if facts["name"] != usual:
            yield Finding(rank=rank, text=f"computes on {facts['name']}; other ranks on {usual}", warning=True)
        if facts["device"] is None:
            continue
        owner = owners.setdefault(facts["device"], rank)
        if owner != rank:
            yield Finding(rank=rank, text=f"is on the same device as rank {owner}: {facts['name']} {facts['device']}")
        if facts["free"] < MOSTLY_FREE * facts["total"]:
            share = f"{bytes_text(facts['free'])} of {bytes_text(facts['total'])}"
            yield Finding(rank=rank, text=f"only {share} of the device are free before the run", warning=True)


def show_devices(reports: Reports) -> str:
    """How many devices of each name, and how much memory is free on them."""
    names = Counter(facts["name"] for facts in reports.values())
    free = [facts["free"] for facts in reports.values() if facts["device"]]
    text = ", ".join(f"{count} x {name}" for name, count in names.items())
    return f"{text}, {span(free, bytes_text)} free" if free else text


def cores(context: RankContext) -> Facts:
    """The cores that this rank may run on, and its number of threads."""
    return {"host": context.host, "cores": sorted(os.sched_getaffinity(0)), "threads": torch.get_num_threads()}


def judge_cores(reports: Reports, _: Limits) -> Iterator[Finding]:
    """Warn of hosts whose ranks have more threads than cores."""
    for host, ranks in by_host(reports).items():
        count = len({core for rank in ranks for core in reports[rank]["cores"]})
        threads = sum(reports[rank]["threads"] for rank in ranks)
        if threads > count:
            text = f"{threads} threads of {len(ranks)} ranks share {count} core(s) of {host}: set OMP_NUM_THREADS"
            yield Finding(rank=ranks[0], text=text, warning=True)


def show_cores(reports: Reports) -> str:
    """Cores and threads of a rank, fewest to most."""
    count = span([len(facts["cores"]) for facts in reports.values()], str)
    return f"{count} core(s), {span([facts['threads'] for facts in reports.values()], str)} thread(s) a rank"


def memory(context: RankContext) -> Facts:
    """Free memory of the host, in bytes."""
    return {"host": context.host, "free": psutil.virtual_memory().available}


def judge_memory(reports: Reports, limits: Limits) -> Iterator[Finding]:
    """Find ranks whose share of the host's free memory is below `min_memory`."""
    for ranks in by_host(reports).values():
        for rank in ranks:
            share = reports[rank]["free"] // len(ranks)
            if share < limits.min_memory:
                text = f"{bytes_text(share)} of host memory are free for it; --min_memory is "
                yield Finding(rank=rank, text=text + bytes_text(limits.min_memory))


def show_memory(reports: Reports) -> str:
    """Free memory of a host, least to most."""
    return f"{span([facts['free'] for facts in reports.values()], bytes_text)} of host memory free"


def disk(context: RankContext) -> Facts:
    """Free bytes in the folders that a run writes to, or the nearest existing parent of one that is yet to be made."""
    folders = {"the folder of temporary files": tempfile.gettempdir()}
    folders |= {"the cache of models": str(HF_HUB_CACHE), "the cache of data sets": str(HF_DATASETS_CACHE)}
    folders |= {name: path for name in ("--output_dir", "--offload_folder") if (path := context.flag(name))}
    free = {f"{path} ({role})": psutil.disk_usage(str(existing(Path(path)))).free for role, path in folders.items()}
    shared = psutil.disk_usage(str(SHARED_MEMORY)).free if SHARED_MEMORY.is_dir() else None
    return {"host": context.host, "free": free, "shared": shared}


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def judge_disk(reports: Reports, limits: Limits) -> Iterator[Finding]:
    """Find folders with less than `min_disk` free, and hosts whose /dev/shm is too small for DeepSpeed's ranks."""
    for ranks in by_host(reports).values():
        for rank in ranks:
            for folder, free in reports[rank]["free"].items():
                if free < limits.min_disk:
                    text = f"{bytes_text(free)} free in {folder}; --min_disk is {bytes_text(limits.min_disk)}"
                    yield Finding(rank=rank, text=text)
            shared, need = reports[rank]["shared"], SHARED_BYTES * len(ranks)
            if shared is not None and shared < need:
                text = f"{bytes_text(shared)} free in {SHARED_MEMORY}; its host's ranks may take {bytes_text(need)}"
                yield Finding(rank=rank, text=text)


def show_disk(reports: Reports) -> str:
    """The folder with the least free space."""
    free, folder = min((free, folder) for facts in reports.values() for folder, free in facts["free"].items())
    return f"least: {bytes_text(free)} free in {folder}"


def open_files(__: RankContext) -> Facts:
    """How many files a process may open, and how many bytes of memory it may lock."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return {"files": _number(files), "locked": _number(locked)}


def _number(limit: int) -> float:
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def judge_open_files(reports: Reports, limits: Limits) -> Iterator[Finding]:
    """Find ranks that may open fewer than `min_open_files` files; locked memory is only shown."""
    for rank, facts in sorted(reports.items()):
        if facts["files"] < limits.min_open_files:
            text = f"may open {facts['files']} files (ulimit -n); --min_open_files is {limits.min_open_files}"
            yield Finding(rank=rank, text=text)


def show_open_files(reports: Reports) -> str:
    """Both limits, lowest to highest; RDMA needs unlimited locked memory."""
    files = span([facts["files"] for facts in reports.values()], lambda count: f"{count:.0f}")
    locked = span([facts["locked"] for facts in reports.values()], _locked_text)
    return f"{files} open files, {locked} of locked memory"


def _locked_text(limit: float) -> str:
    return "any amount" if limit == float("inf") else bytes_text(limit)


DEVICES = Check(name="devices", measure=devices, judge=judge_devices, show=show_devices)
CORES = Check(name="cores", measure=cores, judge=judge_cores, show=show_cores)
MEMORY = Check(name="memory", measure=memory, judge=judge_memory, show=show_memory)
DISK = Check(name="disk", measure=disk, judge=judge_disk, show=show_disk)
LIMITS = Check(name="limits", measure=open_files, judge=judge_open_files, show=show_open_files)
