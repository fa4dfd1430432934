"""The machine as every trial gets it: threads, cores, allocator settings, and limits of memory and time."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import resource
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

BENCHMARKS = Path(__file__).parents[1]
PR_SET_PDEATHSIG = 1  # prctl(2)
MMAP_THRESHOLD = 1048576  # glibc's default grows with what was freed, and peaks then depend on the order of events
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Machine:
    """The share of this machine that the process of a trial may use.

    Attributes:
        threads: of the process.
        cores: where they run.
        timeout: seconds after which the process is ended.
        memory_gib: GiB that the process may allocate; None: no limit, since CUDA reserves far more than it uses.
    """

    threads: int = 1
    cores: tuple[int, ...] = (0,)
    timeout: float = 3600.0
    memory_gib: float | None = 20.0

    @classmethod
    def from_flags(cls, arguments: argparse.Namespace) -> Machine:
        """The machine that the flags ask for."""
        cores = arguments.cores or all_cores()[: arguments.threads]
        return cls(arguments.threads, tuple(cores), arguments.timeout, arguments.memory_limit)

    def share(self, number: int) -> Machine:
        """The same machine, on the cores of one of several processes at once; they share where cores run out."""
        first = number * self.threads
        return replace(self, cores=tuple(self.cores[(first + i) % len(self.cores)] for i in range(self.threads)))

    def environment(self) -> dict[str, str]:
        """The environment variables of a trial, those of this process among them."""
        threads = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        quiet = {"TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}
        path = f"{BENCHMARKS}{os.pathsep}{BENCHMARKS.parent}"  # cached_ds is this one, installed or not
        own = {"MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD), "PYTHONPATH": path}
        return {**os.environ, **own, **threads, **quiet}

    def confine(self) -> None:
        """In the child, before Python starts: set its cores and memory, and let the kernel end it before any other."""
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a benchmark that is ended leaves no trial behind
        os.sched_setaffinity(0, self.cores)
        if self.memory_gib is not None:
            limit = int(self.memory_gib * 2**30)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")

    def describe(self) -> dict[str, Any]:
        """Processor, versions and settings, for the head of a benchmark's JSON file."""
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return {
            "processor": models[0] if models else platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "threads": self.threads,
            "memory_limit_gib": self.memory_gib,
            "mmap_threshold": MMAP_THRESHOLD,
        }


def all_cores() -> list[int]:
    """The cores on which this process may run."""
    return sorted(os.sched_getaffinity(0))
