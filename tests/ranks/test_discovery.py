"""Who this process is: every launcher's environment, simulated; contradictions and broken values are named."""

from __future__ import annotations

import pytest

from cached_ds.ranks import discovery, mpi
from cached_ds.ranks.discovery import discover

MASTER = {"MASTER_ADDR": "a", "MASTER_PORT": "29500"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", **MASTER}
DEEPSPEED = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2", **MASTER}
SLURM = {
    "SLURM_JOB_ID": "41", "SLURM_STEP_ID": "1", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_STEP_NODELIST": "gpu[07,09]",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}  # fmt: skip
MPICH = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
MVAPICH = {name.replace("OMPI", "MV2"): value for name, value in OPEN_MPI.items()}
LAUNCHERS_BY_SRUN = SLURM | {
    "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}  # fmt: skip
LAUNCHERS_BY_MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_mpi(monkeypatch):
    monkeypatch.setattr(mpi, "master", lambda *, rank, world_size: (f"mpi-{world_size}", 1000 + rank))


@pytest.mark.parametrize(
    ("environ", "source", "master"),
    [
        (TORCHRUN, "torchrun", ("a", 29500)),
        (DEEPSPEED, "torchrun", ("a", 29500)),
        (SLURM, "SLURM", ("gpu07", 10042)),
        (SLURM | MASTER, "SLURM", ("a", 29500)),
        (OPEN_MPI, "Open MPI", ("mpi-4", 1003)),
        (OPEN_MPI | MASTER, "Open MPI", ("a", 29500)),
        (MPICH, "MPICH", ("mpi-4", 1003)),
        (MVAPICH, "MVAPICH", ("mpi-4", 1003)),
        (TORCHRUN | SLURM | OPEN_MPI, "torchrun", ("a", 29500)),
        (SLURM | {"PMI_RANK": "3", "PMI_SIZE": "4"}, "SLURM", ("gpu07", 10042)),  # srun --mpi=pmi2
        (TORCHRUN | LAUNCHERS_BY_SRUN, "torchrun", ("a", 29500)),
        (DEEPSPEED | LAUNCHERS_BY_MPIRUN, "torchrun", ("a", 29500)),
        (OPEN_MPI | LAUNCHERS_BY_SRUN, "Open MPI", ("mpi-4", 1003)),
    ],
)
def test_each_launcher_says_who_this_is(environ, source, master):
    info = discover(environ)
    assert (info.rank, info.world_size, info.local_rank, info.local_world_size) == (3, 4, 1, 2)
    assert (info.source, (info.master_addr, info.master_port)) == (source, master)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"PATH": "/bin", "LOCAL_RANK": "-1"},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        {name: value for name, value in SLURM.items() if "STEP_" not in name},  # a batch script
        SLURM | {"SLURM_STEP_ID": "4294967290"},  # an salloc shell
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_one_process_has_no_place(environ):
    assert discover(environ) is None


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANK": "1"}, "WORLD_SIZE is missing"),
        ({"WORLD_SIZE": "2"}, "RANK is missing"),
        (TORCHRUN | {"RANK": "4"}, "RANK='4' is refused; allowed is 0 to 3"),
        (TORCHRUN | {"RANK": "-1"}, "RANK='-1' is refused"),
        (TORCHRUN | {"WORLD_SIZE": "four"}, "WORLD_SIZE='four' is refused; allowed is a number >= 1"),
        (TORCHRUN | {"LOCAL_RANK": "2"}, "LOCAL_RANK='2' is refused; allowed is 0 to 1"),
        (TORCHRUN | {"MASTER_PORT": "70000"}, "MASTER_PORT='70000' is refused; allowed is 1 to 65535"),
        ({"RANK": "1", "WORLD_SIZE": "2", **MASTER}, "LOCAL_RANK is missing"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a"}, "MASTER_PORT is missing"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(y2)"}, "SLURM_STEP_TASKS_PER_NODE='2(y2)' is refused"),
        (SLURM | {"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST is missing"),
        (SLURM | {"SLURM_JOB_ID": "x"}, "SLURM_JOB_ID='x' is refused"),
        ({"OMPI_COMM_WORLD_RANK": "1"}, "OMPI_COMM_WORLD_SIZE is missing"),
    ],
)
def test_broken_values_are_named(environ, message):
    with pytest.raises(ValueError) as caught:
        discover(environ)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "both"),
    [
        (
            TORCHRUN | SLURM | {"RANK": "2"},
            ("torchrun (RANK=2, WORLD_SIZE=4)", "SLURM (SLURM_PROCID=3, "),
        ),
        (TORCHRUN | OPEN_MPI | {"WORLD_SIZE": "8"}, ("WORLD_SIZE=8", "Open MPI (OMPI_COMM_WORLD_RANK=3, ")),
        (SLURM | MPICH | {"PMI_SIZE": "5"}, ("SLURM_NTASKS=4", "MPICH (PMI_RANK=3, PMI_SIZE=5)")),
        # One task per node, but nothing says that a launcher made RANK: it was exported by hand.
        (
            LAUNCHERS_BY_SRUN | MASTER | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
            ("RANK=0", "SLURM_PROCID=1"),
        ),
    ],
)
def test_contradictions_name_both(environ, both):
    with pytest.raises(ValueError) as caught:
        discover(environ)
    assert all(words in str(caught.value) for words in both), caught.value


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[07,09-12],login1", "gpu07"), ("a,b", "a"), ("rack[1-2]gpu[3-4]-ib", "rack1gpu3-ib"), ("one", "one")],
)
def test_the_first_host_of_a_node_list(nodes, first):
    assert discover(SLURM | {"SLURM_STEP_NODELIST": nodes}).master_addr == first


def test_uneven_nodes_know_their_own_number_of_tasks():
    uneven = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_LOCALID": "0"}
    assert discover(uneven).local_world_size == 1


def test_announced_names_are_those_that_torchrun_sets():
    environ = {"OTHER": "x"}
    discovery.export(discover(SLURM), environ)
    assert environ == TORCHRUN | {"MASTER_ADDR": "gpu07", "MASTER_PORT": "10042", "OTHER": "x"}


def test_an_unknown_interface_is_refused(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nothere0")
    with pytest.raises(ValueError, match="nothere0.*there are"):
        mpi.own_address()
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert mpi.own_address().startswith("127.")
