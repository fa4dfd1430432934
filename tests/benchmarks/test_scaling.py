"""Scaling: exact collectives and bytes under every engine, real and fake ranks alike; tables, promises, runners."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch.distributed as dist
from made_up import broken, rows_of
from step_costs import costs_by_engine

import scaling
from harness import runners, trials
from harness.machine import BENCHMARKS, Machine
from harness.runners import LaunchedRunner, LocalRunner
from harness.trials import Trial
from probes import collectives, state_bytes
from reports import scaling_plots, scaling_report
from subjects.trainers import ALONE, COMPARED, PEER

WEIGHTS = 184_320  # bytes of all parameters of the tiny model, which has 91
ROOT_UNIT = 4 * (64 * 32 + 18 * 32 + 64)  # tied embeddings, the decoder's positions and norm: gathered once
BOUNDARY, SCALARS = 8192, 4 * 91  # a parameter across the border of two partitions is held whole; AdamW's step counts
HERE = Path(__file__).parent


def found(**kinds):
    names = {name: name.replace("_", "-") for name in kinds}
    return {names[name]: {"count": count, "bytes": size} for name, (count, size) in kinds.items()}


ZERO12 = found(all_reduce=(2, WEIGHTS + 4), all_gather=(1, WEIGHTS))  # gradients and their norm; updated weights
EXPECTED = {
    "ddp": found(broadcast=(1, 256), all_reduce=(1, WEIGHTS)),  # the bias of the logits is a buffer
    "zero1": ZERO12,
    "zero2": ZERO12,
    PEER: ZERO12,
    "zero3": found(all_gather=(79, WEIGHTS), reduce_scatter=(1, WEIGHTS), all_reduce=(1, 8)),
    "fsdp2": found(all_gather=(7, 2 * WEIGHTS - ROOT_UNIT), reduce_scatter=(4, WEIGHTS), all_reduce=(1, 4 * 91)),
}


@pytest.fixture(scope="module")
def counts(zero_ranks):
    """The costs that two real ranks counted, and meanwhile, one under a fake group of two."""
    info = runners.local_rank_info(0, world_size=1, port=0)
    path = os.pathsep.join([str(HERE), str(BENCHMARKS)])
    environment = {**os.environ, **runners.rank_environment(info), "PYTHONPATH": path}
    command = [sys.executable, str(HERE / "programs" / "fake_rank.py")]
    with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE) as child:
        real = zero_ranks.run(costs_by_engine, timeout=200)
        output, _ = child.communicate(timeout=200)
    assert child.returncode == 0
    return [*real, json.loads(output.splitlines()[-1])]


@pytest.mark.slow
@pytest.mark.parametrize("variant", COMPARED)
def test_collectives_are_exact_on_real_and_fake_ranks_at_any_length(counts, variant):
    for of_rank in counts:
        short, long = of_rank[variant]
        assert short["collectives"] == long["collectives"] == EXPECTED[variant]


@pytest.mark.parametrize("variant", COMPARED)
def test_a_rank_holds_what_the_formula_says(counts, variant):
    first, second, fake = (of_rank[variant][0]["state_bytes"] for of_rank in counts)
    assert fake == first
    expected = state_bytes.formula({"parameters": WEIGHTS, "optimizer": 2 * WEIGHTS}, variant=variant, ranks=2)
    for rank in (first, second):
        assert 0 <= rank["optimizer"] - expected["optimizer"] <= SCALARS
    if variant in ("ddp", "fsdp2"):
        assert (first["parameters"], first["gradients"]) == (expected["parameters"], expected["gradients"])
    else:
        assert WEIGHTS / 2 <= first["gradients"] <= WEIGHTS / 2 + 2 * BOUNDARY


def test_unknown_collectives_are_an_error_and_rings_send_what_they_must():
    assert [collectives.kind(name) for name in ("allreduce_", "_allgather_base_", "reduce_scatter_tensor")] == [
        "all-reduce", "all-gather", "reduce-scatter",
    ]  # fmt: skip
    with pytest.raises(LookupError, match="alltoall_"):
        collectives.kind("alltoall_")
    assert collectives.sent(found(all_reduce=(1, 100), all_gather=(2, 40)), 4) == 180
    assert collectives.count(found(all_reduce=(1, 100), all_gather=(2, 40))) == 3


def launched(settings):
    """A trial as ranks of a launcher run it."""
    rank = dist.get_rank()
    runner = LaunchedRunner(runners.local_rank_info(rank, world_size=2, port=0))
    machine = Machine(cores=tuple(os.sched_getaffinity(0)), timeout=90)
    if not runner.is_lead:
        return runner.serve(machine)
    result = runner.run(Trial(settings, script=scaling.SCRIPT), machine)
    runner.finish(3)
    return result


def test_launched_ranks_time_and_count_a_trial(ranks):
    (trial,) = (trial for trial in scaling.plan(flags(rounds=1, steps=2)) if is_timed(trial, "ddp"))
    result, code = ranks.run(launched, settings=trial.settings)
    assert code == 3 and len(result["ranks"]) == 2, result
    for rank in result["ranks"]:
        assert rank["counted"][0]["collectives"] == EXPECTED["ddp"]
        assert len(rank["seconds"]) == 2 and 0 < min(rank["seconds"]) <= max(rank["seconds"])
    assert result["seconds"] > 0


def test_local_ranks_have_a_core_each_and_the_one_that_failed_is_named(monkeypatch):
    seen = {}

    def run(trial, machine, *, environment):  # noqa: ARG001
        seen[environment["RANK"]] = machine.cores
        return {"failed": "out of memory"} if environment["RANK"] == "1" else {"seconds": [1.0, 3.0, 2.0]}

    monkeypatch.setattr(trials, "run", run)
    settings, runner = {"fake": False, "ranks": 3}, runners.make_runner(None, timeout=1)
    assert isinstance(runner, LocalRunner)
    assert runner.run(Trial(settings), Machine(cores=(4, 7))) == {"failed": "rank 1: out of memory"}
    assert seen == {"0": (4,), "1": (7,), "2": (4,)}
    assert runner.run(Trial({**settings, "fake": True}), Machine())["seconds"] == 2.0
    runner.finish(0)


def test_a_launcher_says_who_this_process_is(monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # noted, to be put back as it was
        monkeypatch.delenv(name)
    assert runners.discover() is None
    monkeypatch.setattr(runners.discovery.mpi, "master", lambda **_: ("10.0.0.7", 29400))
    for name, value in {"RANK": "3", "SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    info = runners.discover()
    assert (info.rank, info.world_size, info.local_rank, info.master_addr) == (3, 4, 1, "10.0.0.7")
    assert (os.environ["WORLD_SIZE"], os.environ["MASTER_PORT"]) == ("4", "29400")
    monkeypatch.setenv("RANK", "0")
    assert scaling.main() == 2 and "contradict each other" in capsys.readouterr().err


def flags(**values):
    defaults = {"ranks": [1, 2], "length": 64, "documents": 2, "rounds": 2, "steps": 1, "counted": [8]}
    defaults |= {"engines": [*COMPARED, PEER], "shape": scaling.TINY, "cached_fields": {}}
    return argparse.Namespace(**defaults | values)


def is_timed(trial, variant, ranks=2):
    return trial.settings["steps"] and (trial.settings["variant"], trial.settings["ranks"]) == (variant, ranks)


# Made-up rates, in documents' tokens per second and process. Two independent processes disturb each other a little, and
# an engine communicates besides: two factors below 1 and unlike each other, so that a share of the wrong base shows.
RATE, SIDE_BY_SIDE, WITH_ENGINE, WITH_PEER = 100, 0.97, 0.98, 0.75


def result_of(settings, *, slow=None):
    """A made-up result: ideal but for the two factors; the engine `slow` takes twice as long."""
    variant, ranks = settings["variant"], settings["ranks"]
    rate = RATE * (1 if ranks == 1 else SIDE_BY_SIDE) * {ALONE: 1, PEER: WITH_PEER}.get(variant, WITH_ENGINE)
    seconds = settings["documents"] / ranks * settings["length"] / rate * (2 if variant == slow else 1)
    count = {"collectives": EXPECTED.get(variant), "state_bytes": bytes_of(variant, ranks)}
    one = {"counted": [count] * len(settings["counted"]), "seconds": [seconds] * settings["steps"]}
    return {"ranks": [one] * (1 if settings["fake"] else ranks), "seconds": seconds}


def bytes_of(variant, ranks):
    whole = {"parameters": WEIGHTS, "optimizer": 2 * WEIGHTS}
    return state_bytes.formula(whole, variant=variant, ranks=ranks) | {"master": 0, "buckets": 0}


def test_the_plan_has_every_engine_in_every_round():
    timed = [trial for trial in scaling.plan(flags()) if trial.settings["steps"]]
    names = [(each.settings["variant"], each.settings["ranks"], each.settings["documents"]) for each in timed]
    of_a_round = [(ALONE, 1, 1), (ALONE, 1, 2), (ALONE, 2, 2), *((variant, 2, 2) for variant in (*COMPARED, PEER))]
    assert names == of_a_round * 2
    counted = [trial.settings for trial in scaling.plan(flags()) if trial.settings["fake"]]
    assert [(each["ranks"], each["steps"]) for each in counted] == [(2, 0)] * 5 + [(8, 0)] * 5


def test_tables_and_plot_say_what_was_measured(tmp_path):
    rows = rows_of(scaling.plan(flags(length=16384)), result_of)
    text = scaling_report.table(rows)
    assert "| 1 | 1 | one process | 163.8 (163.8–163.8) | 100 | – | – | – |" in text
    assert "| 2 | 2 | independent processes | 168.9 (168.9–168.9) | 194 | – | 0.970 | – |" in text
    assert "| 2 | 2 | ZeRO-3 | 172.4 (172.4–172.4) | 190 | 0.980 | 0.951 | 0.951 |" in text
    assert "| 2 | DDP | measured | 2: 1 all-reduce, 1 broadcast | 0.2 | 0.2 (0.2) | 0.2 (0.2) | 0.4 (0.4) |" in text
    assert "| 2 | 2 | ZeRO-2, plain two-phase caching | 225.2 (225.2–225.2) | 0.765 | 3 |" in text
    assert text.count("| counted, not timed |") == 10
    scaling_plots.draw(rows, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_the_benchmark_from_flags_to_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "discover", lambda: None)
    monkeypatch.setattr(trials, "run", lambda trial, *_, **__: result_of(trial.settings)["ranks"][0])
    command = ["scaling.py", "--cores", "0", "1", "--output_dir", str(tmp_path), "--rounds", "2", "--counted"]
    monkeypatch.setattr(sys, "argv", command)
    assert scaling.main() == 0
    assert capsys.readouterr().out.count("PASS") == 5 + 4 + 10 + 1
    assert {path.name for path in tmp_path.iterdir()} == {"scaling.md", "scaling.json", "scaling.png"}
    assert (tmp_path / "scaling.md").read_text(encoding="utf-8").count("\n| 2 | 2 |") == 1 + len(COMPARED) + 1


def failing(rows):
    return broken(scaling_report.promises(rows))


def test_each_promise_can_be_broken():
    plan, slow = scaling.plan(flags(length=16384)), partial(result_of, slow="zero2")
    rows = rows_of(plan, result_of)
    promises = scaling_report.promises(rows)
    assert not broken(promises) and all(promise.value is not None for promise in promises)
    assert len(promises) == 5 + 4 + 10 + 1
    assert failing(rows_of(plan, slow)) == ["2 ranks: ZeRO-2's tokens/s / those of 2 independent processes"]
    assert not failing(rows_of(scaling.plan(flags()), slow)), "documents of 64 tokens promise nothing"
    for change, words in ((more_calls, "real and fake ranks"), (more_bytes, "FSDP2's optimizer bytes")):
        rows = json.loads(json.dumps(rows_of(plan, result_of)))
        change(next(row for row in rows if is_timed(argparse.Namespace(**row), "fsdp2")))
        (what,) = failing(rows)
        assert words in what
    rows[0] = {**rows[0], "result": {"failed": "rank 1: out of memory"}}
    assert "trials that failed" in failing(rows)
    assert scaling_report.failures(rows) == ["failed: DDP on 2 ranks: rank 1: out of memory"]


def more_calls(row):
    row["result"]["ranks"][1]["counted"][0]["collectives"]["all-gather"]["count"] += 1


def more_bytes(row):
    row["result"]["ranks"][1]["counted"][0]["state_bytes"]["optimizer"] *= 1.03


@pytest.mark.parametrize(
    ("words", "count", "message"),
    [
        (["--ranks", "2", "3"], 0, "--documents 3 cannot be dealt evenly over --ranks [2, 3]"),
        (["--ranks", "4"], 2, "a launcher started 2 ranks"),
        (["--threads", "4", "--cores", "0", "1"], 0, "--threads 4 is more than the cores [0, 1]"),
        (["--ranks", "2", "--documents", "0"], 0, "--documents 0 cannot be dealt evenly"),
    ],
)
def test_flags_that_cannot_be(monkeypatch, capsys, words, count, message):
    monkeypatch.setattr(sys, "argv", ["scaling.py", *words])
    with pytest.raises(SystemExit):
        scaling.parse(launched=count)
    assert message in capsys.readouterr().err


def test_flags_follow_the_cores_or_the_launcher(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--cores", "0", "1", "2", "3", "5"])
    assert (scaling.parse(launched=0).ranks, scaling.parse(launched=0).documents) == ([1, 2, 4], 4)
    assert (scaling.parse(launched=6).ranks, scaling.parse(launched=6).documents) == ([6], 6)
    assert Machine.from_flags(scaling.parse(launched=0)).cores == (0, 1, 2, 3, 5)
