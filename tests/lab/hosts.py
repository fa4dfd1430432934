"""Two hosts on one machine: network namespaces joined by a veth pair or, where these are forbidden, loopback addresses.

Each host has its own network, its own name, which /etc/hosts of both resolves, and its own /dev/shm, so that nothing
but the wire joins their processes; files are shared, as on a cluster. All live in one PID namespace, the lab, whose
first process ends when this one does, even if it is killed: the kernel then removes processes, network and mounts.
Root is not needed where users may make user namespaces.

    with two_hosts() as hosts:
        hosts.run([["hostname"], ["hostname"]])  # one command per host
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from helpers.repo import ROOT
from lab.running import MARKER, Running

NAMES, ADDRESSES, INTERFACE = ("host0", "host1"), ("10.0.0.1", "10.0.0.2"), "veth0"
LOOPBACK = ("127.0.0.2", "127.0.0.3")
HOLDER = "unshare --net --uts --mount sh -c 'echo $$; exec sleep infinity'"
LAB = f"{HOLDER} & {HOLDER} & cat"  # the shell reaps orphans; cat ends with this process's end of the pipe
NOT_ALLOWED = (OSError, ValueError, subprocess.CalledProcessError)  # no such program; no answer of the lab; refused
SLOW = (("netem", "delay", "5ms", "rate", "8mbit"), ("tbf", "rate", "8mbit", "burst", "4kb", "latency", "1s"))


class Hosts:
    """Two loopback addresses that stand for two hosts.

    Attributes:
        isolated: whether they are more than that: namespaces.
        names: what each host is called.
        addresses: where each host is reached.
        interface: of the wire between them.
        agent: a script that runs a command on a host, as `ssh HOST COMMAND` would, without this environment.
    """

    isolated, names, addresses, interface = False, LOOPBACK, LOOPBACK, "lo"

    def __init__(self, folder):
        self.agent = folder / "agent"
        unknown = 'echo "agent: no host $1" >&2; exit 255'
        cases = "".join(f"{name}) enter='{' '.join(self._door(n))}';; " for n, name in enumerate(self.names))
        keep = f'HOME="$HOME" PATH=/usr/bin:/bin {MARKER}="${MARKER}"'
        lines = ("#!/bin/sh", f"case $1 in {cases}*) {unknown};; esac", f'shift; exec $enter env -i {keep} sh -c "$*"')
        self.agent.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.agent.chmod(0o755)

    def start(self, number, command, **changes):
        """Start a command on a host, with these changes to the environment."""
        return Running([*self._prefix(number), *command], **changes)

    def run(self, commands, *, timeout=90, **changes):
        """Run one command per host at the same time, and return what became of each."""
        deadline = time.monotonic() + timeout
        with ExitStack() as stack:
            running = []
            for number, command in enumerate(commands):
                running.append(self.start(number, command, **changes))
                stack.callback(running[-1].kill)
            return [each.finish(deadline - time.monotonic()) for each in running]

    @contextmanager
    def slow_link(self):
        """Slow the wire down to 8 Mbit/s where that is allowed; the value says whether it was."""
        yield False

    def _door(self, number):  # noqa: ARG002
        """The words that start a command on a host, from the other."""
        return []

    def _prefix(self, number):  # noqa: ARG002
        """The words that start a command on a host, from here."""
        return []


class Namespaces(Hosts):
    """Two hosts of namespaces; `lab` is the process that made them."""

    isolated, names, addresses, interface = True, NAMES, ADDRESSES, INTERFACE

    def __init__(self, folder, lab):
        self._lab = lab
        self._holders = [int(lab.stdout.readline()) for _ in NAMES]  # their numbers in the lab
        super().__init__(folder)
        one, other = ([INTERFACE, "netns", str(holder)] for holder in self._holders)
        _call([*self._enter(), "ip", "link", "add", *one, "type", "veth", "peer", *other])
        table = folder / "hosts"
        lines = zip(("127.0.0.1", *ADDRESSES), ("localhost", *NAMES), strict=True)
        table.write_text("".join(f"{address} {name}\n" for address, name in lines), encoding="utf-8")
        for number in range(len(NAMES)):
            self._set_up(number, table)

    def _set_up(self, number, table):
        for command in (
            f"hostname {NAMES[number]}",
            f"mount --bind {table} /etc/hosts",
            "mount -t tmpfs tmpfs /dev/shm",
            "ip link set lo up",
            f"ip address add {ADDRESSES[number]}/24 dev {INTERFACE}",
            f"ip link set {INTERFACE} up",
        ):
            _call([*self._prefix(number), *command.split()])

    def _enter(self):
        """The words that start a command in the lab; users who are not root have made a user namespace as well."""
        spaces = f"/proc/{self._lab.pid}/ns"
        user = [] if os.geteuid() == 0 else [f"--user={spaces}/user", "--preserve-credentials"]
        return ["nsenter", *user, f"--pid={spaces}/pid_for_children", f"--mount={spaces}/mnt", f"--net={spaces}/net"]

    def _door(self, number):
        return [
            "nsenter",
            "--target",
            str(self._holders[number]),
            "--net",
            "--uts",
            "--mount",
            "env",
            f"--chdir={ROOT}",
        ]

    def _prefix(self, number):
        return [*self._enter(), *self._door(number)]

    @contextmanager
    def slow_link(self):
        """As in `Hosts`, by netem, which delays too, or by tbf where the kernel has no netem."""
        ends, device = range(len(NAMES)), ["dev", INTERFACE, "root"]
        try:
            yield any(all(self._traffic(end, "replace", *device, *kind) for end in ends) for kind in SLOW)
        finally:
            for end in ends:
                self._traffic(end, "delete", *device)

    def _traffic(self, number, *words):
        """Whether the kernel accepts a rule for what leaves this host."""
        done = subprocess.run([*self._prefix(number), "tc", "qdisc", *words], capture_output=True, check=False)
        return done.returncode == 0


@contextmanager
def two_hosts():
    """Two hosts, as separate as this machine allows; nothing of them is left afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            hosts = Namespaces(folder, stack.enter_context(_lab()))
        except NOT_ALLOWED:
            hosts = Hosts(folder)
        yield hosts


def _lab():
    """Start the process that holds the namespaces; leaving its context closes the pipe and ends it."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    words = ["unshare", *user, "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "sh", "-c", LAB]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(words, text=True, start_new_session=True, **pipes)


def _call(words):
    subprocess.run(words, check=True, capture_output=True)
