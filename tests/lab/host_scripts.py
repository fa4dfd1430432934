"""The scripts of launch/ on two hosts, one rank on each, beside another train.py."""

from __future__ import annotations

from cached_ds.ranks.mpi import free_port
from helpers.repo import TRAIN
from lab import launch_copy
from lab.running import BIN

PER_HOST = {
    "torchrun.sh": [2, 1, "MASTER"],
    "deepspeed_no_ssh.sh": [2, 1, "HOST", "MASTER"],
    "accelerate_fsdp.sh": [2, 1, "HOST", "MASTER"],
}
ONCE = {"mpirun.sh": [2]}  # it reaches the other host itself


def prepare(hosts, script, words, *, folder, train=TRAIN):
    """The commands that run a script with these words, one per host or one in all, and their environment."""
    launch_copy.prepare(folder, train=train)
    (folder / "hosts").write_text("".join(f"{name} slots=1\n" for name in hosts.names), encoding="utf-8")
    environment = {
        "CACHED_DS_BIN": str(BIN), "CACHED_DS_INTERFACE": hosts.interface, "HOSTFILE": str(folder / "hosts"),
        "MASTER_PORT": str(free_port()), "MAX_RESTARTS": "0", "PRTE_MCA_plm_ssh_agent": str(hosts.agent),
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }  # fmt: skip
    every_host = [ONCE[script]] if script in ONCE else [_filled(PER_HOST[script], number, hosts) for number in range(2)]
    return [["bash", folder / "launch" / script, *arguments, *words] for arguments in every_host], environment


def _filled(arguments, number, hosts):
    return [{"HOST": number, "MASTER": hosts.names[0]}.get(word, word) for word in arguments]
