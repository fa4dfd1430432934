"""The doctor on two ranks: what is planted on one of them is found and its rank named, and a healthy pair passes."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import psutil
import pytest
import torch.distributed as dist

from cached_ds.doctor import Limits, examine
from cached_ds.doctor.checks import clock, network, software
from cached_ds.doctor.checks.context import make_context
from cached_ds.provenance import facts
from lab import commands, workshop
from lab.commands import launcher
from lab.programs import PROGRAMS

CALM = Limits(min_bandwidth=1e-3, max_latency=1e4, min_memory=1, min_disk=1, min_open_files=1, timeout=60)


# What is planted on rank 1 only, and what is said of it.


def other_version(patch):
    patch.setattr(facts, "_version", lambda _: "99.1")


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
    other_version: "torch 99.1; other ranks have 2",
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


def test_groups_of_ranks_that_do_not_come_out_even(ranks, folder, tmp_path):
    words = [*workshop.flags(folder, tmp_path / "out"), "--document_parallel"]
    for size, verdict in (("2", True), ("3", False)):
        for healthy, text in ranks.run(examined, argv=[*words, size]):
            assert healthy == verdict, text
    assert "document_parallel=3 is refused; allowed is a divisor of the number of ranks, 2" in text


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
