"""Trials: two ranks that train a small model, are killed, and are started again until they have finished.

Ranks are forked from a server that has imported all libraries (multiprocessing's `forkserver`), so a start takes a
second or two. When one rank dies the other is killed a little later, as a launcher does.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from cached_ds.ranks.mpi import free_port
from helpers.repo import ROOT
from lab import workshop

ENGINES = ("ddp", "zero1", "zero2", "zero3", "fsdp")
WORLD, STEPS, SAVE_STEPS, SECONDS = 2, 6, 2, 120
SAVES = STEPS // SAVE_STEPS
PRELOADED = [  # the server finds installed modules only: those of tests/ and launch/ are imported by each rank
    "accelerate.commands.launch", "deepspeed", "torch.distributed.checkpoint", "cached_ds.fsdp", "cached_ds.zero",
    "cached_ds.training.trainer", "cached_ds.run.build", "cached_ds.evaluation.bertscore",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Kill:
    """When a run dies: after so many seconds, or when a rank comes to a stage for the so-manieth time."""

    seconds: float | None = None
    stage: str | None = None
    call: int = 1
    rank: int = 0

    def __str__(self):
        """For the log."""
        return f"after {self.seconds:.2f} s" if self.stage is None else f"{self.stage}, call {self.call}, {self.rank=}"


@functools.cache
def server():
    """Where ranks are forked from."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def flags(folder, output, engine, **changes):
    """A run with dropout and AdamW, so that random states, moments and steps must all come back."""
    changes = {
        "gradient_accumulation_steps": 1, "max_steps": STEPS, "optim": "adamw_torch", "learning_rate": 0.01,
        "save_strategy": "steps", "save_steps": SAVE_STEPS, "save_total_limit": 1, "use_cpu": True,
        "deepspeed": ROOT / "ds_configs" / f"{engine}.json" if engine.startswith("zero") else None,
    } | changes  # fmt: skip
    return workshop.flags(folder, output, **changes)


def run(folder, output, engine, *, kill=None, world=WORLD, **changes):
    """Train, perhaps until the ranks are killed; returns their exit codes, and what they wrote."""
    ranks, logs = start(folder, output, engine, kill=kill, world=world, **changes)
    wait(ranks, kill.seconds if kill else None)
    return [process.exitcode for process in ranks], "".join(log.read_text(errors="replace") for log in logs)


def start(folder, output, engine, *, kill=None, world=WORLD, **changes):
    """Start the ranks of a run; returns their processes and logs."""
    output.mkdir(parents=True, exist_ok=True)
    port, logs = free_port(), [output.parent / f"{output.name}-rank{rank}.log" for rank in range(world)]
    ranks = []
    for rank, log in enumerate(logs):
        log.write_bytes(b"")  # a rank may be killed before it writes a word
        environ = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world,
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **_environ(engine)}  # fmt: skip
        arguments = {"words": flags(folder, output, engine, **changes), "log": log,
                     "environ": {name: str(value) for name, value in environ.items()},
                     "kill": kill if kill and kill.rank == rank else None}  # fmt: skip
        ranks.append(server().Process(target=_rank, kwargs=arguments, daemon=True))
    for process in ranks:
        process.start()
    return ranks, logs


def weights(output):
    """The trained model."""
    return load_file(output / "model.safetensors")


@functools.cache
def _environ(engine):
    """What accelerate's launcher would tell its ranks."""
    if engine != "fsdp":
        return {}
    words = ["--config_file", str(ROOT / "ds_configs/fsdp.yaml"), "train.py"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    told = prepare_multi_gpu_env(arguments)
    return {name: value for name, value in told.items() if name.startswith(("FSDP_", "ACCELERATE_"))}


def wait(ranks, seconds=None):
    """Until all have ended; after some seconds, or a little after one was killed, all are."""
    begin = time.monotonic()
    while any(process.is_alive() for process in ranks):
        time.sleep(0.01)
        passed = time.monotonic() - begin
        is_due = seconds is not None and passed > seconds
        if is_due or passed > SECONDS or any(process.exitcode not in (None, 0) for process in ranks):
            time.sleep(0 if is_due else random.uniform(0, 0.3))
            for process in ranks:
                process.kill()
            for process in ranks:
                process.join()


def _rank(*, words, log, environ, kill):
    """A rank's life, in a child of the server."""
    os.environ |= environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(log, "wb") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    sys.path.insert(0, str(ROOT / "launch"))
    import torch

    torch.set_num_threads(1)
    if kill is not None and kill.stage is not None:
        from lab import killing

        killing.arm(kill.stage, call=kill.call)
    import train

    train.main(words)
