"""Commands as a user types them: run to their end, alone or together; the words that start two ranks."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

from cached_ds.ranks.mpi import free_port
from helpers.repo import ROOT
from lab.running import environment


def run(command, *, timeout=150, **changes):
    """Run a command in this environment, with changes; return the finished process, output as text."""
    return subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=environment(**changes), timeout=timeout, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


def run_together(commands, **options):
    """Run commands at the same time: most of what they do is starting, one thing after another on one core."""
    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(lambda command: run(command, **options), commands))


def launcher(name):
    """The words before the script for two ranks: `torchrun`, `deepspeed`, or an accelerate config's name."""
    port = free_port()
    if name == "torchrun":
        return ["torchrun", "--nproc_per_node", 2, "--master_port", port]
    if name == "deepspeed":
        return ["deepspeed", "--num_gpus", 2, "--master_port", port]
    config = ROOT / "ds_configs" / f"{name}.yaml"
    return ["accelerate", "launch", "--config_file", config, "--main_process_port", port]
