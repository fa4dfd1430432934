"""The two hosts of the tests: as separate as two machines where namespaces are allowed, and nothing is left of them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import hosts as hosts_module
from lab import running
from lab.programs import PROGRAMS

WIRE = [sys.executable, PROGRAMS / "wire.py"]


@pytest.fixture
def isolated(hosts):
    if not hosts.isolated:
        pytest.skip("network namespaces are not allowed here")
    return hosts


def outputs(found):
    assert [each.returncode for each in found] == [0, 0], found
    return [each.output.split() for each in found]


def test_each_host_has_a_name_an_address_and_shared_memory_of_its_own(isolated):
    command = ["sh", "-c", "hostname; ls /dev/shm | wc -l; touch /dev/shm/mine; hostname -I; pwd"]
    root = str(Path(__file__).parents[2])
    expected = [[name, "0", address, root] for name, address in zip(isolated.names, isolated.addresses, strict=True)]
    assert outputs(isolated.run([command, command])) == expected


def test_they_reach_each_other_by_name(hosts):
    found = hosts.run([[*WIRE, "receive"], [*WIRE, "send", hosts.names[0], 5]])
    (peer, length), _ = outputs(found)
    assert length == "5"
    assert peer == hosts.addresses[1] or not hosts.isolated


def test_the_agent_runs_a_command_on_the_host_that_it_is_given(isolated):
    here, there = outputs(isolated.run([[isolated.agent, name, "hostname"] for name in reversed(isolated.names)]))
    assert [*here, *there] == ["host1", "host0"]
    assert "no host elsewhere" in isolated.run([[isolated.agent, "elsewhere", "hostname"]])[0].output


def test_a_slow_link_is_slow(isolated):
    with isolated.slow_link() as slowed:
        if not slowed:
            pytest.skip("this kernel has neither netem nor tbf")
        begin = time.monotonic()
        outputs(isolated.run([[*WIRE, "receive"], [*WIRE, "send", isolated.names[0], 480_000]]))
        assert time.monotonic() - begin > 0.4  # 480,000 bytes at 8 Mbit/s: 0.48 s


def test_children_that_stay_are_named_and_killed(hosts, monkeypatch):
    monkeypatch.setattr(running, "GRACE", 0.3)
    found = hosts.run([["sh", "-c", "setsid sleep 1234 & sleep 0.2; echo done"], ["sleep", "1235"]], timeout=2)
    assert [each.returncode for each in found] == [0, None]
    assert found[0].survivors == ["sleep 1234"]
    assert not [line for line in subprocess.check_output(["ps", "ax"], text=True).splitlines() if "sleep 123" in line]


def test_without_namespaces_there_are_loopback_addresses(monkeypatch):
    monkeypatch.setattr(hosts_module, "LAB", "exit 1")
    with hosts_module.two_hosts() as found:
        assert not found.isolated
        assert found.names == ("127.0.0.2", "127.0.0.3")
        assert outputs(found.run([["echo", "a"], [found.agent, found.names[1], "echo", "b"]])) == [["a"], ["b"]]


def test_nothing_is_left_when_the_tests_are_killed(isolated):  # noqa: ARG001
    done = running.Running([sys.executable, PROGRAMS / "abandoned_hosts.py"]).finish(60)
    assert done.returncode == -9
    time.sleep(0.2)
    assert not [line for line in subprocess.check_output(["ps", "ax"], text=True).splitlines() if "sleep 1236" in line]
