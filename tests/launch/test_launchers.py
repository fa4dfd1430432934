"""The scripts of launch/, each run on two ranks of this machine: who the ranks are, and what happens when one dies."""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest

from cached_ds.ranks import discovery
from cached_ds.ranks.mpi import free_port
from lab import launch_copy, workshop
from lab.programs import PROGRAMS
from lab.slow import slow_but
from lab.workshop import flags

pytestmark = pytest.mark.timeout(150)
ARGUMENTS = ["--window", "16", "--deepspeed", "ds_configs/zero2.json"]
ONCE = {
    "deepspeed_hostfile.sh": (["HOSTFILE"], ["pdsh", "ssh"], "torchrun"),
    "deepspeed_mpi.sh-openmpi": (["openmpi", "HOSTFILE"], [], "Open MPI"),
    "deepspeed_mpi.sh-mpich": (["mpich", "HOSTFILE"], ["mpirun"], "torchrun"),
    "mpirun.sh-openmpi": ([2], [], "Open MPI"),
    "mpirun.sh-mpich": ([2], ["mpirun"], "MPICH"),
    "slurm.sbatch": ([], ["srun"], "SLURM"),
}
PER_NODE = {
    "deepspeed_no_ssh.sh": [2, 1, "NODE", "127.0.0.1"],
    "torchrun.sh": [2, 1, "127.0.0.1"],
    "accelerate_fsdp.sh": [2, 1, "NODE", "127.0.0.1"],
}
SCRIPTS = sorted({name.split("-")[0] for name in (*ONCE, *PER_NODE)})


def assert_two_ranks(folder, source, monkeypatch):
    monkeypatch.setattr(discovery.mpi, "master", lambda **_: ("127.0.0.1", 29500))
    reports = launch_copy.reports(folder)
    places = [discovery.discover(environ) for environ, _ in reports]
    assert sorted(place.rank for place in places) == [0, 1]
    assert {(place.world_size, place.source) for place in places} == {(2, source)}
    assert len({(place.master_addr, place.master_port) for place in places}) == 1
    assert all(arguments == ARGUMENTS for _, arguments in reports), reports
    assert all(environ["GLOO_SOCKET_IFNAME"] == environ["NCCL_SOCKET_IFNAME"] == "lo" for environ, _ in reports)


@pytest.mark.parametrize("name", ONCE)
def test_a_script_that_is_called_once_starts_all_ranks(name, tmp_path, monkeypatch):
    words, programs, source = ONCE[name]
    launch_copy.prepare(tmp_path, train=PROGRAMS / "reporter.py", programs=programs)
    hosts = "localhost slots=2\n" if "mpi" in name else "one slots=1\ntwo slots=1\n"
    (tmp_path / "hosts").write_text(f"# two ranks\n{hosts}")
    words = [str(tmp_path / "hosts") if word == "HOSTFILE" else word for word in words]
    environment = {"CACHED_DS_INTERFACE": "lo", "MASTER_PORT": str(free_port())}
    if source in ("SLURM", "MPICH"):
        environment |= {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(tmp_path), "MASTER_ADDR": "127.0.0.1"}
    done = launch_copy.run(tmp_path, [name.split("-")[0], *words, *ARGUMENTS], **environment)
    assert done.returncode == 0, done.stdout
    assert_two_ranks(tmp_path, source, monkeypatch)


@pytest.mark.parametrize("name", slow_but(["torchrun.sh"], PER_NODE))
def test_a_script_that_is_called_on_each_node_starts_its_ranks(name, tmp_path, monkeypatch):
    launch_copy.prepare(tmp_path, train=PROGRAMS / "reporter.py")
    environment = {"CACHED_DS_INTERFACE": "lo", "MASTER_PORT": str(free_port())}
    with ExitStack() as stack:
        nodes = []
        for node in ("0", "1"):
            words = [node if word == "NODE" else word for word in PER_NODE[name]]
            nodes.append(stack.enter_context(launch_copy.started(tmp_path, [name, *words, *ARGUMENTS], **environment)))
        outputs = [node.communicate(timeout=100)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert_two_ranks(tmp_path, "torchrun", monkeypatch)


@pytest.mark.parametrize("name", SCRIPTS)
def test_wrong_input_prints_the_usage(name, tmp_path):
    launch_copy.prepare(tmp_path)
    done = launch_copy.run(tmp_path, [name], SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 2
    assert f"launch/{name}" in done.stdout and "TRAIN_ARGUMENTS" in done.stdout, done.stdout


@pytest.mark.parametrize("words", [["deepspeed_hostfile.sh"], ["deepspeed_mpi.sh", "openmpi"]])
def test_a_hostfile_that_is_not_there_is_named(words, tmp_path):
    launch_copy.prepare(tmp_path)
    done = launch_copy.run(tmp_path, [*words, "nowhere", "--window", "16"])
    assert done.returncode == 2 and "hostfile nowhere: no such file" in done.stdout, done.stdout


def test_torchrun_restarts_a_killed_rank_from_the_last_checkpoint(folder, expected, tmp_path):
    launch_copy.prepare(tmp_path, train=PROGRAMS / "mortal_rank.py")
    words = flags(folder, tmp_path / "out", save_strategy="steps", save_steps=1)
    environment = {"MASTER_PORT": str(free_port()), "MAX_RESTARTS": "1", "DEATH": "killed"}
    done = launch_copy.run(tmp_path, ["torchrun.sh", 1, 2, "127.0.0.1", *words], **environment)
    assert done.returncode == 0, done.stdout
    starts = [(tmp_path / "reports" / f"attempt_{number}").read_text() for number in (0, 1)]
    assert starts == ["0", "2"], "the second attempt goes on after step 2"
    assert workshop.saved_error(tmp_path / "out", expected[0]) < workshop.TOLERANCE


@pytest.mark.slow
def test_a_rank_that_fails_in_mid_step_ends_all_and_is_named(folder, tmp_path):
    launch_copy.prepare(tmp_path, train=PROGRAMS / "mortal_rank.py")
    done = launch_copy.run(tmp_path, ["mpirun.sh", 2, *flags(folder, tmp_path / "out")], DEATH="raised")
    assert done.returncode != 0
    assert re.search(r"rank 1 of 2 on host \S+: RuntimeError", done.stdout), done.stdout
    assert "planned" in (tmp_path / "out" / "logs" / "rank_00001.log").read_text()
    assert not launch_copy.running(tmp_path)


def test_a_rank_that_fails_at_the_start_ends_all(tmp_path):
    launch_copy.prepare(tmp_path, train=PROGRAMS / "failing_task.py", programs=["srun"])
    done = launch_copy.run(tmp_path, ["slurm.sbatch", *ARGUMENTS], SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode != 0
    assert not launch_copy.running(tmp_path)
