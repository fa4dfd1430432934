"""The scripts of launch/ beside another train.py, and stand-ins for programs of a cluster that this machine lacks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from lab.workshop import BIN, ROOT

TIMEOUT = 100

# Says which environment and command line each rank got. It imports nothing heavy; of the package only the file mpi.py.
REPORTER = """
import importlib.util, json, os, sys
from pathlib import Path
environ = dict(os.environ)
if "OMPI_COMM_WORLD_RANK" in environ and "MASTER_ADDR" not in environ:
    spec = importlib.util.spec_from_file_location("mpi", environ["MPI_FILE"])
    spec.loader.exec_module(mpi := importlib.util.module_from_spec(spec))
    rank, size = (int(environ["OMPI_COMM_WORLD_" + name]) for name in ("RANK", "SIZE"))
    environ["MASTER_ADDR"], port = mpi.master(rank=rank, world_size=size)
    environ["MASTER_PORT"] = str(port)
arguments = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
Path(environ["REPORTS"], str(os.getpid())).write_text(json.dumps([environ, arguments]))
"""

# Trains as train.py does, but rank 1 comes to an end in the middle of its third step.
MORTAL = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, os.environ["LAUNCH_FOLDER"])
import train
reports = Path(os.environ["REPORTS"])
class Mortal(train.CachedSeq2SeqTrainer):
    def training_step(self, *arguments, **more):
        attempt = reports / ("attempt_" + os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        if not attempt.exists():
            attempt.write_text(str(self.state.global_step))
        if self.state.global_step == 2 and os.environ["RANK"] == "1" and attempt.name == "attempt_0":
            if os.environ["DEATH"] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("planned")
        return super().training_step(*arguments, **more)
train.CachedSeq2SeqTrainer = Mortal
train.main(sys.argv[1:])
"""

PROGRAMS = {
    "pdsh": """#!/usr/bin/env bash
# pdsh -S -f N -w HOSTS COMMAND...: runs the command here, once for each host
while [ "$1" != -w ]; do shift; done
IFS=, read -ra hosts <<< "$2"; shift 2
for node in "${!hosts[@]}"; do bash -c "${*//%n/$node}" & jobs+=($!); done
for job in "${jobs[@]}"; do wait "$job" || code=$?; done
exit "${code:-0}"
""",
    "ssh": """#!/usr/bin/env bash
# ssh HOST hostname -I: where the master is
echo 127.0.0.1
""",
    "srun": """#!/usr/bin/env bash
# srun [--name=value]... COMMAND...: two tasks on this host, ended together when one fails
while [[ "$1" == --* ]]; do shift; done
export SLURM_STEP_ID=0 SLURM_NTASKS=2 SLURM_NODEID=0 SLURM_STEP_TASKS_PER_NODE=2 SLURM_STEP_NODELIST=localhost
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & jobs+=($!); done
for job in "${jobs[@]}"; do wait -n || { code=$?; kill "${jobs[@]}" 2> /dev/null; }; done
exit "${code:-0}"
""",
    "mpirun": """#!/usr/bin/env bash
# MPICH's mpirun -n N [-flag value]... PYTHON...: two ranks on this host
[ "$1" = --version ] && echo "HYDRA build details" && exit
while [[ "$1" == -* ]]; do
  if [ "$1" = -genv ]; then
    if [[ "$2" == *=* ]]; then export "${2?}"; shift 2; else export "$2=$3"; shift 3; fi
  else shift 2; fi
done
export PMI_SIZE=2 MPI_LOCALNRANKS=2
for rank in 0 1; do PMI_RANK=$rank MPI_LOCALRANKID=$rank "$@" & jobs+=($!); done
for job in "${jobs[@]}"; do wait "$job" || code=$?; done
exit "${code:-0}"
""",
}


def prepare(folder, *, train, programs=()):
    """A copy of launch/ in `folder` with the text `train` as its train.py, and stand-ins of `programs`."""
    shutil.copytree(ROOT / "launch", folder / "launch")
    shutil.copytree(ROOT / "ds_configs", folder / "ds_configs")
    (folder / "launch" / "train.py").write_text(train)
    for name in ("bin", "reports"):
        (folder / name).mkdir()
    for name in programs:
        (folder / "bin" / name).write_text(PROGRAMS[name])
        (folder / "bin" / name).chmod(0o755)
    return folder


def run(folder, words, **environment):
    """Run a script of the copy to its end, as a new user would."""
    with started(folder, words, **environment) as process:
        output, _ = process.communicate(timeout=TIMEOUT)
    return subprocess.CompletedProcess(process.args, process.returncode, output)


@contextmanager
def started(folder, words, **environment):
    """Start a script of the copy; whatever of it still runs in the end is killed."""
    ours = {
        "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]), "CACHED_DS_BIN": str(BIN),
        "REPORTS": str(folder / "reports"), "LAUNCH_FOLDER": str(ROOT / "launch"),
        "MPI_FILE": str(ROOT / "cached_ds" / "ranks" / "mpi.py"), "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }  # fmt: skip
    process = subprocess.Popen(
        ["bash", folder / "launch" / words[0], *map(str, words[1:])], text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder, env=os.environ | ours | environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        for left in running(folder):
            left.kill()
        process.kill()


def running(folder):
    """The processes that a script of the copy started and that still run: they have its REPORTS."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("REPORTS") == str(folder / "reports"):
                found.append(process)
    return found


def reports(folder):
    """Environment and arguments of every rank that came so far."""
    return [json.loads(path.read_text()) for path in Path(folder, "reports").iterdir()]
