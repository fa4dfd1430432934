"""The doctor on two hosts, started by a script of launch/: a healthy pair passes, a slow wire is named."""

from __future__ import annotations

import pytest

from lab import host_scripts
from lab.slow import slow_but

pytestmark = pytest.mark.timeout(200)
LIMITS = ["--min_memory", "1MiB", "--min_disk", "1MiB"]


def examined(hosts, script, folder):
    commands, environment = host_scripts.prepare(hosts, script, ["doctor", *LIMITS], folder=folder)
    found = hosts.run(commands, timeout=100, **environment)
    assert not any(each.survivors for each in found)
    return [each.returncode for each in found], "".join(each.output for each in found)


@pytest.mark.parametrize("script", slow_but(["mpirun.sh"], [*host_scripts.PER_HOST, *host_scripts.ONCE]))
def test_a_healthy_pair_passes_under_every_launcher(script, hosts, tmp_path):
    codes, output = examined(hosts, script, tmp_path)
    assert not any(codes), output
    table = f"cached-ds doctor: 2 ranks on {2 if hosts.isolated else 1} host"
    assert output.count(table) == 1, output


@pytest.mark.slow
def test_a_slow_wire_is_named(hosts, tmp_path):
    with hosts.slow_link() as slowed:
        if not slowed:
            pytest.skip("no wire here that may be slowed down: neither namespaces nor netem nor tbf")
        codes, output = examined(hosts, "torchrun.sh", tmp_path)
    assert all(codes), output
    for here, there in ((0, 1), (1, 0)):
        assert f"- rank {here} (host{here}): the link to rank {there} (host{there}) moves" in output, output
