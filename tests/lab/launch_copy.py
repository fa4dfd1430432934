"""A copy of launch/ with another train.py, and stand-ins for programs of a cluster that this machine lacks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from helpers.repo import ROOT, TRAIN
from lab.programs import PROGRAMS
from lab.running import BIN

TIMEOUT = 100


def prepare(folder, *, train=TRAIN, programs=()):
    """A copy of launch/ in `folder`, with a link to `train` as its train.py, and stand-ins of `programs`."""
    shutil.copytree(ROOT / "launch", folder / "launch")
    shutil.copytree(ROOT / "ds_configs", folder / "ds_configs")
    (folder / "launch" / "train.py").unlink()
    (folder / "launch" / "train.py").symlink_to(train)
    for name in ("bin", "reports"):
        (folder / name).mkdir()
    for name in programs:
        shutil.copy(PROGRAMS / "bin" / name, folder / "bin")
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
        "REPORTS": str(folder / "reports"),
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
