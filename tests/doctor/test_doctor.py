"""Doctor: each planted fault is found and the right rank named, and a healthy pair passes."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import psutil
import pytest
import torch.distributed as dist
from helpers.repo import ROOT
from lab import commands, workshop
from lab.commands import launcher
from lab.programs import PROGRAMS

from cached_ds.doctor import Limits, examine
from cached_ds.doctor.checks import clock, files, machine, network, software
from cached_ds.doctor.checks.check import Finding, bytes_text
from cached_ds.doctor.checks.context import make_context
from cached_ds.doctor.examination import judge
from cached_ds.doctor.table import Row, render
from cached_ds.provenance import facts

GIB = 2**30
GPU = {"host": "a", "name": "H100", "device": "GPU-1", "free": 79 * GIB, "total": 80 * GIB}
ROOM = {"host": "a", "free": {"out (--output_dir)": 9 * GIB}, "shared": GIB}
LINK = {"latency": 1e-4, "bandwidth": 1e9}
NEAR = {"host": "a", "all_reduce": LINK, "link": LINK}
CALM = Limits(min_bandwidth=1e-3, max_latency=1e4, min_memory=1, min_disk=1, min_open_files=1, timeout=60)

# check, healthy facts, what is different on rank 1, what is said of it
FAULTS = {
    "version": (software.VERSIONS, {"versions": {"torch": "2"}}, {"versions": {"torch": "1"}},
                "torch 1; other ranks have 2"),
    "package": (software.VERSIONS, {"versions": {"nccl": "2"}}, {"versions": {}}, "nccl is missing"),
    "code": (software.CODE, {"files": {"cached_ds/cli.py": "x"}}, {"files": {"cached_ds/cli.py": "y"}},
             "not the same as on other ranks: cached_ds/cli.py"),
    "file missing": (files.FILES, {"files": {"train.jsonl": "x"}}, {"files": {}}, "missing here, but not everywhere"),
    "same device": (machine.DEVICES, GPU, {}, "is on the same device as rank 0: H100 GPU-1"),
    "memory": (machine.MEMORY, {"host": "a", "free": 9 * GIB}, {"host": "b", "free": GIB // 2},
               "512 MiB of host memory are free for it; --min_memory is 1 GiB"),
    "disk": (machine.DISK, ROOM, {"free": {"out (--output_dir)": 2**20}}, "1 MiB free in out (--output_dir)"),
    "/dev/shm": (machine.DISK, ROOM, {"host": "b", "shared": 2**20}, "1 MiB free in /dev/shm"),
    "open files": (machine.LIMITS, {"files": 4096, "locked": 1}, {"files": 256}, "may open 256 files (ulimit -n)"),
    "clock": (clock.CLOCK, {"skew": 0.0}, {"skew": -3.0}, "its clock is 3.0 s behind that of rank 0; --max_skew is 1"),
    "output": (files.OUTPUT, {"folder": "out", "problem": None, "shared": True}, {"problem": "no space"},
               "cannot write to out: no space"),
    "bandwidth": (network.NETWORK, NEAR | {"to": 0}, {"link": LINK | {"bandwidth": 5e6}}, "to rank 0 (a) moves 5 MB/s"),
    "latency": (network.NETWORK, NEAR | {"to": 0}, {"link": LINK | {"latency": 0.2}}, "to rank 0 (a) takes 200 ms"),
    "flags": (software.ARGUMENTS, {"read": ["x"], "flags": {"--window": "8"}}, {"flags": {"--window": "9"}},
              "--window 9; other ranks have 8"),
    "raised": (machine.MEMORY, {"host": "a", "free": 9 * GIB}, {"failed": "no /proc here"}, "no /proc here"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_its_rank_named(name):
    check, healthy, change, words = FAULTS[name]
    row = judge(check, {0: healthy, 1: healthy | change, 2: healthy | {"host": "c", "device": "GPU-3"}}, Limits())
    assert row.verdict == "FAULT"
    assert {finding.rank for finding in row.findings} == {1}
    assert words in row.findings[0].text


@pytest.mark.parametrize("name", FAULTS)
def test_equal_and_healthy_ranks_pass(name):
    check, healthy, _, _ = FAULTS[name]
    row = judge(check, {rank: healthy | {"device": f"GPU-{rank}"} for rank in range(3)}, Limits())
    assert (row.verdict, list(row.findings)) == ("ok", []) and row.text


def test_of_two_opinions_that_of_rank_0_counts_and_of_three_the_usual_one():
    def odd(*versions):
        reports = {rank: {"versions": {"torch": version}} for rank, version in enumerate(versions)}
        return [finding.rank for finding in judge(software.VERSIONS, reports, Limits()).findings]

    assert odd("1", "2") == [1] and odd("1", "2", "2") == [0]


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


def test_large_files_are_told_apart_by_samples(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(facts.WHOLE + 1))
    before = facts.digest(path)
    with path.open("r+b") as file:
        file.seek(facts.WHOLE)
        file.write(b"x")
    assert facts.digest(path) != before


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


# On two ranks: what is planted on rank 1 only, and what is said of it.


def other_version(patch):
    patch.setattr(facts, "_version", lambda name: f"{name}-99")


def no_train_script(patch):
    patch.setattr(software, "TRAIN", facts.PACKAGE / "nowhere.py")


def clock_ahead(patch):
    now = clock.time.time
    patch.setattr(clock, "time", SimpleNamespace(time=lambda: now() + 60))


def slow_link(patch):
    exchange = network._exchange
    patch.setattr(network, "_exchange", lambda context, to, count: exchange(context, to, count) * 1e5)


def no_memory_figures(patch):
    patch.setattr(psutil, "virtual_memory", lambda: (_ for _ in ()).throw(OSError("no /proc/meminfo")))


PLANTS = {
    other_version: "torch torch-99; other ranks have 2",
    no_train_script: "missing here, but not everywhere: launch/train.py",
    clock_ahead: "its clock is 60.0 s ahead of that of rank 0",
    slow_link: "the link to rank 0",
    no_memory_figures: "no /proc/meminfo",
}


def examined(*, argv, plant=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "SLOWER", 1e3)  # two ranks on a busy machine may differ by more than 4
        patch.setattr(network, "LARGEST", 2**20)
        if plant and dist.get_rank() == 1:
            plant(patch)
        examination = examine(argv, CALM)
    return examination.healthy, examination.text


def test_a_healthy_pair_passes(ranks, folder, tmp_path):
    words = workshop.flags(folder, tmp_path / "out")
    (healthy, text), other = ranks.run(examined, argv=words)
    assert healthy, text
    assert other == (healthy, text), "every rank judges the same facts"
    assert "healthy" in text.splitlines()[-1]
    assert "2 of 2 ranks see what rank 0 writes" in text and "nothing to check" not in text
    assert list(tmp_path.iterdir()) == [], "the doctor leaves nothing behind"


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_what_is_planted_on_one_rank(ranks, plant):
    for healthy, text in ranks.run(examined, argv=[], plant=plant):
        assert not healthy, text
        line = next(line for line in text.splitlines() if PLANTS[plant] in line)
        assert line.strip().startswith("- rank 1 (")
        assert "at fault: rank 1 (" in text.splitlines()[-1]


def test_an_output_folder_that_cannot_be_written(ranks, folder):
    words = workshop.flags(folder, folder / "train.jsonl" / "out")  # below a file
    for healthy, text in ranks.run(examined, argv=words):
        assert not healthy and "all ranks: cannot write to" in text


def wait_alone():
    context = make_context([], Limits(timeout=2))
    if dist.get_rank() == 0:
        with pytest.raises(TimeoutError) as caught:
            context.wait()
        return str(caught.value)
    return None


def test_a_rank_that_does_not_answer_is_named(ranks):
    message, _ = ranks.run(wait_alone)
    assert "not all ranks answer within" in message and "1" in message.split("Ranks")[1][:4], message


# As users call it: two processes, faults that are really there.


@pytest.fixture
def homes(folder, tmp_path):
    """A folder for each rank; the one of rank 1 has another training file and no validation file."""
    for rank in range(2):
        (tmp_path / f"home{rank}" / "out").mkdir(parents=True)
        workshop.write_documents(tmp_path / f"home{rank}" / "train.jsonl", (5, 9), seed=rank)
        (tmp_path / f"home{rank}" / "ds.json").write_text(json.dumps({"zero_optimisation": {"stage": 2}}))
    shutil.copy(folder / "validation.jsonl", tmp_path / "home0")
    return tmp_path


@pytest.mark.timeout(200)
def test_real_faults_under_torchrun(homes):
    words = ["--config_name", "tiny-bart", "--train_file", "train.jsonl", "--validation_file", "validation.jsonl"]
    words += ["--deepspeed", "ds.json", "--output_dir", "out"]
    command = [*launcher("torchrun"), "--no-python", "sh", PROGRAMS / "at_home.sh", "cached-ds", "doctor"]
    done = commands.run([*command, "--min_disk", "2MiB", *words], PLANT=str(homes))
    assert done.returncode == 1, done.stdout
    for words in (
        "missing here, but not everywhere: validation.jsonl",
        "not the same as on other ranks: train.jsonl",
        "may open 256 files (ulimit -n); --min_open_files is 1024",
        "out is not the folder of rank 0: checkpoints will lie on several disks",
    ):
        line = next(line for line in done.stdout.splitlines() if words in line)
        assert line.strip().startswith("- rank 1 ("), line
    if "no mounts here" not in done.stdout:
        assert "1 MiB free in out (--output_dir); --min_disk is 2 MiB" in done.stdout
    assert "all ranks: ds.json: zero_optimisation: unknown DeepSpeed key 'zero_optimisation'" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_healthy_pair_under_deepspeed(folder, tmp_path):
    command = [*launcher("deepspeed"), "--no_python", "cached-ds", "doctor", "--min_disk", "1MiB", "--min_memory", 1]
    command += ["--min_bandwidth", 0.1, "--max_latency", 1000]
    done = commands.run([*command, *workshop.flags(folder, tmp_path / "out")])
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("cached-ds doctor: 2 ranks on 1 host") == 1, "rank 0 alone speaks"
    assert sum(line.startswith("healthy") for line in done.stdout.splitlines()) == 1, "so does the verdict"
