"""What goes wrong under each launcher on two hosts: both end in time, it is said who is at fault, and nothing stays."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager

import pytest

from lab import host_scripts
from lab.programs import PROGRAMS
from lab.slow import slow_but

TRAIN = PROGRAMS / "failing_rank.py"

# What a host says; * stands for a word that no test can know.
MISSING = "rank 0 of 2 on host host0: rank 1 of 2 did not arrive within 3 s; those that did: rank 0 (host host0)"
DIFFER = "the ranks differ: --learning_rate is '0.1' on rank 0 (host host0), '0.2' on rank 1 (host host1)"
OTHER_CODE = "the ranks differ: the source code of train.py is * on rank 0 (host host0), * on rank 1 (host host1)"
LOST = "rank 0 of 2 on host host0 ends: rank 1 (host host1) has ended, or stands still"
DIED = "process rank 1 with PID * on node host1 exited on signal 9"
KILLED = "Signal 9 (SIGKILL)"
KILLED_BY_DEEPSPEED = "return code = -9"

# script and failure -> what host 0 says, and host 1; mpirun has one output for both
FAILURES = {
    ("torchrun.sh", "start"): [MISSING, KILLED],
    ("torchrun.sh", "step"): [LOST, KILLED],
    ("torchrun.sh", "differ"): [DIFFER, DIFFER],
    ("torchrun.sh", "code"): [OTHER_CODE, OTHER_CODE],
    ("deepspeed_no_ssh.sh", "start"): [MISSING, KILLED_BY_DEEPSPEED],
    ("deepspeed_no_ssh.sh", "step"): [LOST, KILLED_BY_DEEPSPEED],
    ("deepspeed_no_ssh.sh", "differ"): [DIFFER, DIFFER],
    ("deepspeed_no_ssh.sh", "code"): [OTHER_CODE, OTHER_CODE],
    ("accelerate_fsdp.sh", "start"): [MISSING, KILLED],
    ("accelerate_fsdp.sh", "step"): [LOST, KILLED],
    ("accelerate_fsdp.sh", "differ"): [DIFFER, DIFFER],
    ("accelerate_fsdp.sh", "code"): [OTHER_CODE, OTHER_CODE],
    ("mpirun.sh", "start"): [DIED],
    ("mpirun.sh", "step"): [DIED],
    ("mpirun.sh", "differ"): [DIFFER],
    ("mpirun.sh", "code"): [OTHER_CODE],
}
QUICK = [("mpirun.sh", "start"), ("accelerate_fsdp.sh", "differ"), ("deepspeed_no_ssh.sh", "step")]
WRONG_LINES = {"nowhere slots=1": "nowhere", "host1 slot=1": "line number 2"}  # of a hostfile -> what is said of it

pytestmark = pytest.mark.timeout(200)


def assert_failed(hosts, found, messages):
    """Every host ended by itself with an error and its message, and without a process that stays."""
    for number, (each, message) in enumerate(zip(found, messages, strict=True)):
        assert each.returncode, f"host {number} ended with {each.returncode}:\n{each.output}"
        assert says(each.output, message, hosts), f"host {number} does not say {message!r}:\n{each.output}"
        assert not each.survivors, f"host {number}: {each.survivors}"


def says(output, message, hosts):
    """Whether the message is in the output, however that is broken into lines; hosts may have other names."""
    message = message if hosts.isolated else re.sub("host[01]", "*", message)
    return re.search(re.escape(message).replace(r"\*", r"\S+"), " ".join(output.split()))


@pytest.mark.parametrize(("script", "failure"), slow_but(QUICK, FAILURES))
def test_a_rank_that_fails_ends_all_and_is_named(script, failure, hosts, tmp_path):
    words = ["--failure", failure]
    commands, environment = host_scripts.prepare(hosts, script, words, folder=tmp_path, train=TRAIN)
    environment["CACHED_DS_JOIN_TIMEOUT"] = "3" if failure == "start" else "60"
    assert_failed(hosts, hosts.run(commands, timeout=100, **environment), FAILURES[script, failure])


@contextmanager
def held_port(hosts, port):
    """A port of host 0 that a silent program has."""
    held = hosts.start(0, [sys.executable, "-S", PROGRAMS / "silent_listener.py", port])
    try:
        waiting = f"until true > /dev/tcp/{hosts.names[0]}/{port}; do sleep 0.05; done"
        hosts.run([["bash", "-c", waiting]], timeout=20)
        yield
    finally:
        held.kill()


TAKEN = "port {} of host0 is in use by another program"
OPENED = "port {} of host0 is in use; choose another MASTER_PORT"  # what rank 0 says, which opens the store itself


@pytest.mark.parametrize(
    "messages",
    [
        {"torchrun.sh": TAKEN, "accelerate_fsdp.sh": TAKEN},
        pytest.param({"mpirun.sh": OPENED, "deepspeed_no_ssh.sh": TAKEN}, marks=pytest.mark.slow),
    ],
    ids=" and ".join,
)
def test_a_port_in_use_is_named(messages, hosts, tmp_path):
    """Two launchers at once, one per host."""
    commands = []
    for host, script in enumerate(messages):
        (folder := tmp_path / script).mkdir()
        both, environment = host_scripts.prepare(hosts, script, ["--failure", "none"], folder=folder, train=TRAIN)
        commands.append(both[host % len(both)])
    port = environment["MASTER_PORT"]
    environment |= {"MASTER_ADDR": hosts.names[0]} if "mpirun.sh" in messages else {}
    with held_port(hosts, port):
        found = hosts.run(commands, **environment | {"CACHED_DS_JOIN_TIMEOUT": "4"})
    assert_failed(hosts, found, [message.format(port) for message in messages.values()])


FEWER = "on host0 ended with exit code *. If its error is *: fewer than 2 nodes arrived at port * of host0"
MISSING_NODE = {
    "torchrun.sh": f"torchrun {FEWER}",
    "accelerate_fsdp.sh": f"accelerate {FEWER}",
    "deepspeed_no_ssh.sh": MISSING,
}


@pytest.mark.parametrize("script", slow_but(["torchrun.sh"], MISSING_NODE))
def test_a_node_that_is_missing_is_named(script, hosts, tmp_path):
    commands, environment = host_scripts.prepare(hosts, script, ["--failure", "none"], folder=tmp_path, train=TRAIN)
    found = hosts.run(commands[:1], **environment | {"CACHED_DS_JOIN_TIMEOUT": "3"})
    assert_failed(hosts, found, [MISSING_NODE[script]])


def test_deepspeed_names_a_wrong_hostfile(hosts, tmp_path):
    texts = {"unknown": "elsewhere slots=1\n", "malformed": "elsewhere slots=1\nhost1 slot=1\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    commands = [["deepspeed", "--hostfile", tmp_path / name, "nothing.py"] for name in texts]
    assert_failed(hosts, hosts.run(commands), ["host=elsewhere was not reachable via ssh", "bad entry: host1 slot=1"])


@pytest.mark.parametrize("line", WRONG_LINES)
def test_mpirun_names_a_wrong_hostfile(line, hosts, tmp_path):
    commands, environment = host_scripts.prepare(hosts, "mpirun.sh", ["--x", "1"], folder=tmp_path, train=TRAIN)
    (tmp_path / "hosts").write_text(f"{hosts.names[0]} slots=1\n{line}\n", encoding="utf-8")
    assert_failed(hosts, hosts.run(commands, **environment), [WRONG_LINES[line]])
