"""Scaling: exact collectives and bytes under every engine, real and fake ranks alike; tables, limits, plots, crews."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import scaling
import torch.distributed as dist
from harness import cells, crew
from harness.cells import Cell, Machine
from harness.crew import Launched, Local, Rank
from helpers.repo import ROOT
from probes import collectives, held
from reports import scaling_plots, scaling_report
from reports.scaling_results import Scaling
from subjects.engines import ALONE, ENGINES
from subjects.shape import Shape
from workers import scaling_step

TINY, SHAPE = scaling.TINY, Shape(**scaling.TINY)
WEIGHTS = 184_320  # bytes of all parameters of the tiny model, which has 91
ROOT_UNIT = 4 * (64 * 32 + 18 * 32 + 64)  # tied embeddings, the decoder's positions and norm: gathered once
BOUNDARY, SCALARS = 8192, 4 * 91  # a parameter across the border of two partitions is held whole; AdamW's step counts
FAKE = (
    "import json, test_scaling; "
    "test_scaling.scaling_step.join({'fake': True, 'ranks': 2}); print(json.dumps(test_scaling.looked_at()))"
)


def looked_at():
    """Variant -> what a step costs with one window and with twenty; on a rank, or on one with a fake group."""
    trainers = {variant: scaling_step.make_trainer(variant, SHAPE, {}) for variant in ENGINES}
    return {name: scaling_step.look(trainer, SHAPE, scaling.TWO_LENGTHS) for name, trainer in trainers.items()}


def found(**kinds):
    names = {name: name.replace("_", "-") for name in kinds}
    return {names[name]: {"count": count, "bytes": size} for name, (count, size) in kinds.items()}


ZERO12 = found(all_reduce=(2, WEIGHTS + 4), all_gather=(1, WEIGHTS))  # gradients and their norm; updated weights
EXPECTED = {
    "ddp": found(broadcast=(1, 256), all_reduce=(1, WEIGHTS)),  # the bias of the logits is a buffer
    "zero1": ZERO12,
    "zero2": ZERO12,
    "zero3": found(all_gather=(79, WEIGHTS), reduce_scatter=(1, WEIGHTS), all_reduce=(1, 8)),
    "fsdp2": found(all_gather=(7, 2 * WEIGHTS - ROOT_UNIT), reduce_scatter=(4, WEIGHTS), all_reduce=(1, 4 * 91)),
}


@pytest.fixture(scope="module")
def looks(zero_ranks):
    """What two real ranks saw, and after them one with a fake group of two."""
    paths = [str(Path(__file__).parent), str(ROOT / "tests"), str(ROOT / "benchmarks")]
    environment = {**os.environ, **Rank(0, 1, 0).environment(), "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", FAKE]
    options = {"text": True, "stdout": subprocess.PIPE, "check": True, "timeout": 100}
    child = subprocess.run(command, cwd=ROOT, env=environment, **options)
    return [*zero_ranks.run(looked_at), json.loads(child.stdout.splitlines()[-1])]


@pytest.mark.parametrize("variant", ENGINES)
def test_collectives_are_exact_on_real_and_fake_ranks_at_any_length(looks, variant):
    for look in looks:
        short, long = look[variant]
        assert short["collectives"] == long["collectives"] == EXPECTED[variant]


@pytest.mark.parametrize("variant", ENGINES)
def test_a_rank_holds_what_the_formula_says(looks, variant):
    first, second, fake = (look[variant][0]["held"] for look in looks)
    assert fake == first
    expected = held.formula({"parameters": WEIGHTS, "optimizer": 2 * WEIGHTS}, variant=variant, ranks=2)
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
    """A cell as ranks of a launcher run it."""
    place = Rank(dist.get_rank(), 2, dist.get_rank())
    own, machine = Launched(place), Machine(cores=tuple(os.sched_getaffinity(0)), timeout=90)
    if not own.leads:
        return own.serve(machine)
    result = own.run(Cell(settings, script=scaling.SCRIPT), machine)
    own.dismiss(3)
    return result


def test_a_launched_crew_times_and_counts_a_cell(ranks):
    (cell,) = (cell for cell in scaling.plan(flags(rounds=1, steps=2)) if is_timed(cell, "ddp"))
    result, code = ranks.run(launched, settings=cell.settings)
    assert code == 3 and len(result["ranks"]) == 2, result
    for rank in result["ranks"]:
        assert rank["counted"][0]["collectives"] == EXPECTED["ddp"]
        assert len(rank["seconds"]) == 2 and 0 < min(rank["seconds"]) <= max(rank["seconds"])
    assert result["seconds"] > 0


def test_a_local_crew_gives_each_rank_a_core_and_names_the_one_that_failed(monkeypatch):
    seen = {}

    def run(cell, machine, *, environment):  # noqa: ARG001
        seen[environment["RANK"]] = machine.cores
        return {"failed": "out of memory"} if environment["RANK"] == "1" else {"seconds": [1.0, 3.0, 2.0]}

    monkeypatch.setattr(cells, "run", run)
    settings = {"fake": False, "ranks": 3}
    assert Local().run(Cell(settings), Machine(cores=(4, 7))) == {"failed": "rank 1: out of memory"}
    assert seen == {"0": (4,), "1": (7,), "2": (4,)}
    assert Local().run(Cell({**settings, "fake": True}), Machine())["seconds"] == 2.0
    Local().dismiss(0)
    assert isinstance(crew.make_crew(None, timeout=1), Local)


def test_a_launcher_says_who_this_process_is(monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # noted, to be put back as it was
        monkeypatch.delenv(name)
    assert crew.discover() is None
    monkeypatch.setattr(crew.ranks.mpi, "master", lambda **_: ("10.0.0.7", 29400))
    for name, value in {"RANK": "3", "SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    assert crew.discover() == Rank(3, 4, 1, "10.0.0.7")
    assert (os.environ["WORLD_SIZE"], os.environ["MASTER_PORT"]) == ("4", "29400")
    monkeypatch.setenv("RANK", "0")
    assert scaling.main() == 2 and "contradict each other" in capsys.readouterr().err


def flags(**values):
    defaults = {"ranks": [1, 2], "length": 64, "documents": 2, "rounds": 2, "steps": 1, "engines": list(ENGINES)}
    return argparse.Namespace(**defaults | {"counted": [8], "shape": TINY, "cached_fields": {}} | values)


def is_timed(cell, variant, ranks=2):
    return cell.settings["steps"] and (cell.settings["variant"], cell.settings["ranks"]) == (variant, ranks)


def made_up(settings, *, slow=None):
    """A row's result: engines reach 0.98 of what independent processes do, those 0.97 of one alone."""
    variant, ranks = settings["variant"], settings["ranks"]
    looks = [{"collectives": EXPECTED[variant], "held": made_up_bytes(variant, ranks)}] if variant in ENGINES else []
    per_rank = settings["documents"] / ranks * settings["length"] / 100
    seconds = (
        per_rank / (1 if ranks == 1 else 0.97) / (0.98 if variant in ENGINES else 1) * (2 if variant == slow else 1)
    )
    one = {"counted": looks * len(settings["counted"]), "seconds": [seconds] * settings["steps"]}
    return {"ranks": [one] * (1 if settings["fake"] else ranks), "seconds": seconds}


def made_up_bytes(variant, ranks):
    whole = {"parameters": WEIGHTS, "optimizer": 2 * WEIGHTS}
    return held.formula(whole, variant=variant, ranks=ranks) | {"master": 0, "buckets": 0}


def rows_of(plan, **options):
    return [
        {
            "script": cell.script,
            "round": cell.round,
            "settings": cell.settings,
            "result": made_up(cell.settings, **options),
        }
        for cell in plan
    ]


def test_the_plan_has_every_engine_in_every_round():
    timed = [cell for cell in scaling.plan(flags()) if cell.settings["steps"]]
    names = [(cell.settings["variant"], cell.settings["ranks"], cell.settings["documents"]) for cell in timed]
    of_a_round = [(ALONE, 1, 1), (ALONE, 1, 2), (ALONE, 2, 2), *((variant, 2, 2) for variant in ENGINES)]
    assert names == of_a_round * 2
    counted = [cell.settings for cell in scaling.plan(flags()) if cell.settings["fake"]]
    assert [(each["ranks"], each["steps"]) for each in counted] == [(2, 0)] * 5 + [(8, 0)] * 5


def test_tables_and_plot_say_what_was_measured(tmp_path):
    rows = rows_of(scaling.plan(flags(length=16384)))
    text = scaling_report.table(rows)
    assert "| 1 | 1 | one process | 163.8 (163.8–163.8) | 100 | – | – | – |" in text
    assert "| 2 | 2 | independent processes | 168.9 (168.9–168.9) | 194 | – | 0.970 | – |" in text
    assert "| 2 | 2 | ZeRO-3 | 172.4 (172.4–172.4) | 190 | 0.980 | 0.951 | 0.951 |" in text
    assert "| 2 | DDP | measured | 2: 1 all-reduce, 1 broadcast | 0.2 | 0.2 (0.2) | 0.2 (0.2) | 0.4 (0.4) |" in text
    assert text.count("| counted, not timed |") == 10
    scaling_plots.draw(Scaling(rows), tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_the_benchmark_from_flags_to_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "discover", lambda: None)
    monkeypatch.setattr(cells, "run", lambda cell, machine, environment: made_up(cell.settings)["ranks"][0])  # noqa: ARG005
    command = ["scaling.py", "--cores", "0", "1", "--output_dir", str(tmp_path), "--rounds", "2", "--counted"]
    monkeypatch.setattr(sys, "argv", command)
    assert scaling.main() == 0
    assert capsys.readouterr().out.count("PASS") == 5 + 4 + 10 + 1
    assert {path.name for path in tmp_path.iterdir()} == {"scaling.md", "scaling.json", "scaling.png"}
    assert (tmp_path / "scaling.md").read_text(encoding="utf-8").count("\n| 2 | 2 |") == 1 + len(ENGINES)


def failing(rows):
    return [limit.what for limit in scaling_report.limits(rows) if not limit.passed]


def test_each_promise_can_be_broken():
    plan = scaling.plan(flags(length=16384))
    rows = rows_of(plan)
    limits = scaling_report.limits(rows)
    assert not failing(rows) and all(limit.value is not None for limit in limits) and len(limits) == 5 + 4 + 10 + 1
    assert failing(rows_of(plan, slow="zero2")) == ["2 ranks: ZeRO-2's tokens/s / those of 2 independent processes"]
    assert not failing(rows_of(scaling.plan(flags()), slow="zero2")), "documents of 64 tokens promise nothing"
    for change, words in ((more_calls, "real and fake ranks"), (more_bytes, "FSDP2's optimizer bytes")):
        rows = json.loads(json.dumps(rows_of(plan)))
        change(next(row for row in rows if is_timed(argparse.Namespace(**row), "fsdp2")))
        (what,) = failing(rows)
        assert words in what
    rows[0] = {**rows[0], "result": {"failed": "rank 1: out of memory"}}
    assert "cells that failed" in failing(rows)
    assert scaling_report.failures(rows) == ["failed: DDP on 2 ranks: rank 1: out of memory"]


def more_calls(row):
    row["result"]["ranks"][1]["counted"][0]["collectives"]["all-gather"]["count"] += 1


def more_bytes(row):
    row["result"]["ranks"][1]["counted"][0]["held"]["optimizer"] *= 1.03


@pytest.mark.parametrize(
    ("words", "launched", "message"),
    [
        (["--ranks", "2", "3"], 0, "--documents 3 cannot be dealt evenly over --ranks [2, 3]"),
        (["--ranks", "4"], 2, "a launcher started 2 ranks"),
    ],
)
def test_flags_that_cannot_be(monkeypatch, capsys, words, launched, message):
    monkeypatch.setattr(sys, "argv", ["scaling.py", *words])
    with pytest.raises(SystemExit):
        scaling.parse(launched)
    assert message in capsys.readouterr().err


def test_flags_follow_the_cores_or_the_launcher(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--cores", "0", "1", "2", "3", "5"])
    assert (scaling.parse(0).ranks, scaling.parse(0).documents) == ([1, 2, 4], 4)
    assert (scaling.parse(6).ranks, scaling.parse(6).documents) == ([6], 6)
    assert cells.machine_of(scaling.parse(0)).cores == (0, 1, 2, 3, 5)
