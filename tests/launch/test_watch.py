"""A rank that stands still, or is killed, or whose launcher is: all ranks end in time, and the right one is named."""

from __future__ import annotations

import re
import socket
import time

import pytest

from helpers.repo import ROOT
from lab import commands
from lab.programs import PROGRAMS
from lab.running import Running
from lab.slow import slow_but
from lab.workshop import flags

ENGINES = {"ddp": ("torchrun", None), "zero2": ("deepspeed", "zero2"), "fsdp": ("fsdp", None)}
ENGINES["zero3"] = ("deepspeed", "zero3")
LIMIT, IN_TIME = 6, 30  # seconds: --step_timeout, and until everything has ended
HERE = rf"host {socket.gethostname()}, step 3, window \d+ of \d+"
SAID = {
    "asleep": rf"rank 1 \({HERE}\) has not moved for \d+ s; the stacks of its threads are in its log",
    "stopped": rf"rank 1 \({HERE}\) has not moved for \d+ s: its process is stopped or gone",
    "killed": r"SIGKILL|-9",  # by the launcher, which ends all others
    "launcher": rf"the launcher of rank [01] \(host {socket.gethostname()}\) has ended",
}
PAIRS = [(engine, death) for engine in ENGINES for death in SAID]
QUICK = [("fsdp", "asleep"), ("zero2", "stopped"), ("zero2", "launcher")]  # test_launchers.py has ranks that are killed

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("zero_ops")]


def await_step(log, command, *, seconds=100):
    """Wait until the ranks have come to the fatal step."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and command.process.poll() is None and not log.is_file():
        time.sleep(0.1)


@pytest.mark.parametrize(("engine", "death"), slow_but(QUICK, PAIRS))
def test_all_ranks_end_and_the_one_at_fault_is_named(engine, death, folder, tmp_path):
    launcher, config = ENGINES[engine]
    (tmp_path / "reports").mkdir()
    changes = {} if config is None else {"deepspeed": ROOT / f"ds_configs/{config}.json"}
    words = flags(folder, tmp_path / "out", step_timeout=LIMIT, **changes)
    environment = {
        "DEATH": "asleep" if death == "launcher" else death,
        "REPORTS": str(tmp_path / "reports"),
        "DS_ACCELERATOR": "cpu",
    }
    command = Running([*commands.launcher(launcher), PROGRAMS / "mortal_rank.py", *words], **environment)
    await_step(tmp_path / "reports" / "fatal", command)
    if death == "launcher":
        command.process.kill()
    finished = command.finish(IN_TIME)
    logs = "".join(path.read_text() for path in sorted((tmp_path / "out").glob("logs/*")))
    assert (tmp_path / "reports" / "fatal").is_file(), finished.output
    assert finished.returncode, f"it ended with {finished.returncode}:\n{finished.output}"
    assert not finished.survivors, finished.survivors
    assert re.search(SAID[death], finished.output + logs), finished.output
    if death != "launcher":
        assert "rank 0 (" not in finished.output, "a rank that waits is not at fault"
    if death in ("asleep", "stopped"):
        assert "most recent call first" in logs, "the stacks are in the logs"
