"""What the doctor says of facts that are made up: each fault is found, the right rank named, and nothing else said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from cached_ds.doctor import Limits
from cached_ds.doctor.checks import clock, files, machine, network, software
from cached_ds.doctor.checks.check import Check, Finding, bytes_text
from cached_ds.doctor.examination import judge
from cached_ds.doctor.table import Row, render
from helpers.repo import ROOT

GIB = 2**30
GPU = {"host": "a", "name": "H100", "device": "GPU-1", "free": 79 * GIB, "total": 80 * GIB}
ROOM = {"host": "a", "free": {"out (--output_dir)": 9 * GIB}, "shared": GIB}
LINK = {"latency": 1e-4, "bandwidth": 1e9}
NEAR = {"host": "a", "all_reduce": LINK, "link": LINK}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A check, what healthy ranks tell it, in what rank 1 differs, and what is then said of rank 1."""

    check: Check
    healthy: dict[str, Any]
    rank_1: dict[str, Any]
    said: str


FAULTS = {
    "version": Fault(
        check=software.VERSIONS,
        healthy={"versions": {"datasets": "2"}},
        rank_1={"versions": {"datasets": "1"}},
        said="datasets 1; other ranks have 2",
    ),
    "package": Fault(
        check=software.VERSIONS,
        healthy={"versions": {"nccl": "2"}},
        rank_1={"versions": {}},
        said="nccl is missing",
    ),
    "code": Fault(
        check=software.CODE,
        healthy={"files": {"cached_ds/cli.py": "x"}},
        rank_1={"files": {"cached_ds/cli.py": "y"}},
        said="not the same as on other ranks: cached_ds/cli.py",
    ),
    "file missing": Fault(
        check=files.FILES,
        healthy={"files": {"train.jsonl": "x"}},
        rank_1={"files": {}},
        said="missing here, but not everywhere",
    ),
    "same device": Fault(
        check=machine.DEVICES,
        healthy=GPU,
        rank_1={},
        said="is on the same device as rank 0: H100 GPU-1",
    ),
    "memory": Fault(
        check=machine.MEMORY,
        healthy={"host": "a", "free": 9 * GIB},
        rank_1={"host": "b", "free": GIB // 2},
        said="512 MiB of host memory are free for it; --min_memory is 1 GiB",
    ),
    "disk": Fault(
        check=machine.DISK,
        healthy=ROOM,
        rank_1={"free": {"out (--output_dir)": 2**20}},
        said="1 MiB free in out (--output_dir)",
    ),
    "/dev/shm": Fault(
        check=machine.DISK,
        healthy=ROOM,
        rank_1={"host": "b", "shared": 2**20},
        said="1 MiB free in /dev/shm",
    ),
    "open files": Fault(
        check=machine.LIMITS,
        healthy={"files": 4096, "locked": 1},
        rank_1={"files": 256},
        said="may open 256 files (ulimit -n)",
    ),
    "clock": Fault(
        check=clock.CLOCK,
        healthy={"skew": 0.0},
        rank_1={"skew": -3.0},
        said="its clock is 3.0 s behind that of rank 0; --max_skew is 1",
    ),
    "output": Fault(
        check=files.OUTPUT,
        healthy={"folder": "out", "problem": None, "shared": True},
        rank_1={"problem": "no space"},
        said="cannot write to out: no space",
    ),
    "bandwidth": Fault(
        check=network.NETWORK,
        healthy=NEAR | {"to": 0},
        rank_1={"link": LINK | {"bandwidth": 5e6}},
        said="to rank 0 (a) moves 5 MB/s",
    ),
    "latency": Fault(
        check=network.NETWORK,
        healthy=NEAR | {"to": 0},
        rank_1={"link": LINK | {"latency": 0.2}},
        said="to rank 0 (a) takes 200 ms",
    ),
    "flags": Fault(
        check=software.ARGUMENTS,
        healthy={"read": ["x"], "flags": {"--window": "8"}},
        rank_1={"flags": {"--window": "9"}},
        said="--window 9; other ranks have 8",
    ),
    "raised": Fault(
        check=machine.MEMORY,
        healthy={"host": "a", "free": 9 * GIB},
        rank_1={"failed": "no /proc here"},
        said="no /proc here",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_its_rank_named(name):
    fault = FAULTS[name]
    reports = {0: fault.healthy, 1: fault.healthy | fault.rank_1, 2: fault.healthy | {"host": "c", "device": "GPU-3"}}
    row = judge(fault.check, reports, Limits())
    assert row.verdict == "FAULT"
    assert {finding.rank for finding in row.findings} == {1}, "rank 2 has a host and a device of its own"
    assert fault.said in row.findings[0].text


@pytest.mark.parametrize("name", FAULTS)
def test_equal_and_healthy_ranks_pass(name):
    fault = FAULTS[name]
    row = judge(fault.check, {rank: fault.healthy | {"device": f"GPU-{rank}"} for rank in range(3)}, Limits())
    assert (row.verdict, list(row.findings)) == ("ok", []) and row.text


def test_of_two_opinions_that_of_rank_0_counts_and_of_three_the_usual_one():
    def odd(*versions):
        reports = {rank: {"versions": {"datasets": version}} for rank, version in enumerate(versions)}
        return [finding.rank for finding in judge(software.VERSIONS, reports, Limits()).findings]

    assert odd("1", "2") == [1] and odd("1", "2", "2") == [0]


def test_a_version_that_is_too_old_is_found_once_and_one_that_is_too_new_is_a_warning():
    reports = {rank: {"versions": {"torch": "2.1.0", "transformers": "99.0"}} for rank in range(2)}
    old, new = judge(software.VERSIONS, reports, Limits()).findings
    assert (old.rank, old.warning) == (None, False) and "torch 2.13.0 or newer, not 2.1.0" in old.text
    assert (new.rank, new.warning) == (None, True) and "untested with transformers 99.0" in new.text


def test_links_within_a_host_and_between_hosts_are_compared_among_themselves():
    hosts, fast, slow = "aabbccdd", LINK | {"bandwidth": 1e11}, LINK | {"bandwidth": 1e9}
    facts = {
        rank: NEAR | {"host": host, "to": (rank + 1) % 8, "link": slow if rank % 2 else fast}
        for rank, host in enumerate(hosts)
    }
    assert judge(network.NETWORK, facts, Limits()).verdict == "ok"
    facts[3] = facts[3] | {"link": LINK | {"bandwidth": 2e8}}
    facts[4] = facts[4] | {"link": slow}
    row = judge(network.NETWORK, facts, Limits())
    assert [finding.rank for finding in row.findings] == [4, 3]
    assert row.findings[1].text == "the link to rank 4 (c) moves 200 MB/s; the median is 1 GB/s"


def test_the_ring_never_asks_a_rank_for_two_links_at_once():
    for world in range(2, 9):
        phases = [network._phase(rank, world) for rank in range(world)]
        assert all(phases[rank] != phases[rank - 1] for rank in range(world))


def test_warnings_leave_a_run_healthy():
    crowded = {"host": "a", "cores": [0], "threads": 8}
    row = judge(machine.CORES, {0: crowded, 1: crowded}, Limits())
    assert row.verdict == "warning" and "16 threads of 2 ranks share 1 core(s) of a" in row.findings[0].text
    elsewhere = {"folder": "out", "problem": None, "shared": True}
    row = judge(files.OUTPUT, {0: elsewhere, 1: elsewhere | {"shared": False}}, Limits())
    assert row.verdict == "warning" and row.findings[0].rank == 1


def test_table_names_ranks_and_hosts():
    findings = [Finding(rank=1, text="late"), Finding(rank=2, text="late"), Finding(text="slow", warning=True)]
    rows = [Row(name="a", text="good", findings=[]), Row(name="bb", text="", findings=findings)]
    assert render(rows, {0: "x", 1: "x", 2: "y"}).splitlines() == [
        "cached-ds doctor: 3 ranks on 2 hosts",
        "ok       a   good",
        "FAULT    bb",
        "             - ranks 1 (x), 2 (y): late",
        "             - all ranks: slow",
        "2 faults, 1 warning; at fault: ranks 1 (x), 2 (y)",
    ]
    assert render(rows[:1], {0: "x"}).endswith("\nhealthy")


def test_bytes_are_written_as_people_do():
    assert [bytes_text(count) for count in (0, 1023, 1536, 2**40)] == ["0 B", "1023 B", "1.5 KiB", "1 TiB"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("fsdp_config: {fsdp_verson: 2}", "fsdp_config: unknown key 'fsdp_verson': did you mean 'fsdp_version'"),
        ("num_proceses: 2", "unknown accelerate key 'num_proceses': did you mean 'num_processes'"),
    ],
)
def test_unknown_keys_of_an_accelerate_config(tmp_path, content, message):
    path = tmp_path / "fsdp.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        software.check_accelerate_config(str(path))


@pytest.mark.parametrize("name", ["fsdp.yaml", "fsdp_offload.yaml"])
def test_the_shipped_accelerate_configs_are_known(name):
    software.check_accelerate_config(str(ROOT / "ds_configs" / name))
