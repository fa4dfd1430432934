"""What goes wrong under each launcher on two hosts: both end in time, it is said who is at fault, and nothing stays."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager

import host_scripts
import pytest

TRAIN = "import failing_rank\nfailing_rank.main(sys.argv[-1])\n"
LISTENER = "import socket, sys, time; s = socket.create_server(('', int(sys.argv[1]))); time.sleep(600)"  # says nothing
MISSING = r"rank 0 of 2 on host host0: rank 1 of 2 did not arrive within 3 s; those that did: rank 0 \(host host0\)"
DIFFER = r"the ranks differ: --learning_rate is '0\.1' on rank 0 \(host host0\), '0\.2' on rank 1 \(host host1\)"
LOST = r"rank 0 of 2 on host host0: RuntimeError"
FAILURES = {
    ("torchrun.sh", "start"): [MISSING, r"Signal 9 \(SIGKILL\)"],
    ("accelerate_fsdp.sh", "differ"): [DIFFER, DIFFER],
    ("deepspeed_no_ssh.sh", "step"): [LOST, "return code = -9"],
    ("mpirun.sh", "step"): [r"process rank 1 with PID \d+ on node host1 exited on\s+signal 9"],
}
WRONG_LINES = {"nowhere slots=1": "nowhere", "host1 slot=1": "line number 2"}

pytestmark = pytest.mark.timeout(200)


def assert_failed(hosts, found, messages):
    """Every host ended by itself with an error and its message, and without a process that stays."""
    for number, (each, message) in enumerate(zip(found, messages, strict=True)):
        wanted = message if hosts.isolated else re.sub("host[01]", r"\\S+", message)
        assert each.returncode, f"host {number} ended with {each.returncode}:\n{each.output}"
        assert re.search(wanted, each.output), f"host {number} does not say {wanted!r}:\n{each.output}"
        assert not each.survivors, f"host {number}: {each.survivors}"


@pytest.mark.parametrize(("script", "failure"), FAILURES)
def test_a_rank_that_fails_ends_all_and_is_named(script, failure, hosts, tmp_path):
    words = ["--failure", failure]
    commands, environment = host_scripts.prepare(hosts, script, words, folder=tmp_path, train=TRAIN)
    environment["CACHED_DS_JOIN_TIMEOUT"] = "3" if failure == "start" else "60"
    assert_failed(hosts, hosts.run(commands, timeout=100, **environment), FAILURES[script, failure])


@contextmanager
def held_port(hosts, port):
    """A port of host 0 that a silent program has."""
    held = hosts.start(0, [sys.executable, "-S", "-c", LISTENER, port])
    try:
        waiting = f"until true > /dev/tcp/{hosts.names[0]}/{port}; do sleep 0.05; done"
        hosts.run([["bash", "-c", waiting]], timeout=20)
        yield
    finally:
        held.kill()


def test_a_port_in_use_is_named(hosts, tmp_path):
    commands = []
    for host, script in enumerate(("torchrun.sh", "accelerate_fsdp.sh")):
        (folder := tmp_path / script).mkdir()
        both, environment = host_scripts.prepare(hosts, script, ["--failure", "none"], folder=folder, train=TRAIN)
        commands.append(both[host])
    port = environment["MASTER_PORT"]
    with held_port(hosts, port):
        found = hosts.run(commands, **environment | {"CACHED_DS_JOIN_TIMEOUT": "4"})
    assert_failed(hosts, found, [f"port {port} of host0 is in use by another program"] * 2)


def test_torchrun_says_where_nodes_are_missing(hosts, tmp_path):
    commands, environment = host_scripts.prepare(hosts, "torchrun.sh", ["--x", "1"], folder=tmp_path, train=TRAIN)
    found = hosts.run(commands[:1], **environment | {"CACHED_DS_JOIN_TIMEOUT": "1"})
    assert_failed(hosts, found, [r"torchrun on host0 ended.*\n?.*fewer than 2 nodes arrived at port \d+ of host0"])


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
