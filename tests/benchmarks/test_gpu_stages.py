"""make gpu: a part of its rehearsal on the CPU, the time of stages, tables and promises on rows that are made up."""

from __future__ import annotations

import itertools
import json
import sys
import time
import venv

import pytest
import torch
from made_up import broken
from packaging.requirements import Requirement

import gpu
from cached_ds.replay.rng import ReplayRng
from harness import timetable
from harness.machine import BENCHMARKS, Machine
from harness.timetable import Stage
from harness.trials import Store
from helpers import on_device
from lab.installed import link
from probes import device
from reports import gpu_plots, gpu_report
from reports.gpu_promises import promises
from stages import checks, generation, steps

MACHINE = Machine(cores=(0,), memory_gib=None)


class Heard:
    """What a stage said, in this process."""

    def __init__(self, stage):
        self.stage, self.rows = stage, []

    def add(self, settings, result, *, round=0):
        self.rows.append({"settings": {"stage": self.stage, **settings}, "result": result, "round": round})


def heard(run, stage, **settings):
    rows = Heard(stage.name)
    run(stage.settings | {"until": time.time() + 60} | settings, rows)
    return rows.rows


@pytest.fixture(scope="module")
def rehearsed():
    """Most of the rehearsal, without new processes."""
    stages = {stage.name: stage for stage in gpu.plan(rehearse=True)}
    rows = heard(checks.run, stages["dropout"]) + heard(checks.run, stages["offload"])
    rows += heard(steps.run, stages["speed, BART-large"], lengths=[48], variants={"full": {}, "cached": {}})
    return rows + heard(generation.run, stages["generation"])


def test_the_rehearsal_keeps_its_promises_and_has_a_table_for_every_stage(rehearsed):
    text, found = gpu_report.table(rehearsed), promises(rehearsed)
    assert text.startswith("A rehearsal on the CPU: no figure of it means anything.")
    assert not broken(found), [promise.line() for promise in found]
    known = [promise.what for promise in found if promise.value is not None]
    assert sum(what.startswith(("dropout", "offload")) for what in known) == 5
    assert "| dropout | bart, layer | autocast |" in text and "| offload | disk, window | float32 |" in text
    assert "| BART-large | 48 | **cached_ds** |" in text and "| BART-large | 100 | 4 | 4 |" in text


def test_a_document_grows_until_time_is_out():
    stage = gpu.plan(rehearse=True)[4]
    rows = heard(steps.run, stage, grow=True, lengths=[64], variants={"cached": {}}, until=time.time() + 3)
    assert [row["settings"]["length"] for row in rows] == [64 * 2**number for number in range(len(rows))]
    assert [row["settings"].get("grown", False) for row in rows] == [False, *[True] * (len(rows) - 1)]
    assert [row["result"].get("failed") for row in rows[1:]] == [*[None] * (len(rows) - 2), steps.NO_TIME]
    assert not gpu_report.failed(rows), "it was to grow until then"


@pytest.mark.parametrize("autocast", [False, True])
def test_a_replay_with_other_masks_is_found(monkeypatch, autocast):
    seeds = itertools.count()
    monkeypatch.setattr(ReplayRng, "_seed_generators", lambda *_: torch.manual_seed(next(seeds)))
    assert on_device.dropout_replay("bart", torch.device("cpu"), autocast=autocast) > 3 * on_device.AUTOCAST


SCRIPT = """
import json, sys, time
settings = json.loads(sys.argv[1])
print("to the log", file=sys.stderr)
print(json.dumps({"settings": {"dtype": "x"}, "round": 0, "result": {"error": settings["until"] - time.time()}}))
sys.stdout.flush()
time.sleep(settings["sleep"])
sys.exit(settings["code"])
"""


def test_stages_end_at_their_limits_and_leave_their_time_to_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(timetable, "BENCHMARKS", tmp_path)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "x.py").write_text(SCRIPT, encoding="utf-8")
    kinds = {"slow": {"sleep": 60, "code": 0}, "broken": {"sleep": 0, "code": 3}, "whole": {"sleep": 0, "code": 0}}
    stages = [Stage(name, "x.py", settings, 3) for name, settings in kinds.items()]
    store, ended = Store(tmp_path / "x.json", resume=False, about={}), []
    timetable.run_all(stages, MACHINE, store, log=tmp_path / "x.log", after_each=lambda: ended.append(len(store.rows)))
    assert ended == [2, 4, 6], "a row of its own and its end for each, also of the one that was ended"
    ends = {row["settings"]["stage"]: row["result"].get("failed") for row in store.rows if len(row["settings"]) == 1}
    assert ends == {"slow": "more than 3 s: to the log", "broken": "exit code 3: to the log", "whole": None}
    left = [row["result"]["error"] + timetable.GRACE for row in store.rows if "dtype" in row["settings"]]
    assert left[0] < 3 < left[2] <= 6, "what the broken one left"


def test_all_stages_end_within_nine_minutes():
    assert sum(stage.limit for stage in gpu.plan(rehearse=False)) <= 530
    assert {stage.script for stage in gpu.plan(rehearse=False)} == {
        path.name for path in (BENCHMARKS / "stages").glob("*.py") if "serve(run)" in path.read_text(encoding="utf-8")
    }


def test_nothing_is_measured_without_a_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--output_dir", str(tmp_path)])
    assert gpu.main() == 2 and "--rehearse" in capsys.readouterr().err


@pytest.fixture
def light_python(tmp_path):
    """A Python that has what `make gpu` says it needs, and nothing else."""
    venv.create(tmp_path / "light", symlinks=True, with_pip=False)
    (packages,) = (tmp_path / "light" / "lib").glob("python*/site-packages")
    link(packages, [Requirement(name) for name in ("torch", "transformers", "accelerate", "pytest")])
    return str(tmp_path / "light" / "bin" / "python")


def test_the_tests_of_a_gpu_are_read_where_little_is_installed(tmp_path, light_python, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", light_python)
    folder = tmp_path / "results"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--rehearse", "--stages", "tests", "--output_dir", str(folder)])
    assert gpu.main() == 0, (folder / "gpu.log").read_text(encoding="utf-8")
    assert "PASS  stages and steps that failed: 0" in capsys.readouterr().out
    (result,) = (
        row["result"] for row in json.loads((folder / "gpu.json").read_text())["trials"] if "names" in row["result"]
    )
    assert result["outcomes"]["skipped"] >= 20 and result["outcomes"]["failed"] == 0
    assert {path.name for path in folder.iterdir()} == {"gpu.json", "gpu.md", "gpu.log"}, "there is nothing to draw"


def steps_of(model, length, seconds, **more):
    """Rows of a round of every variant."""
    shape = gpu.LARGE if model == "BART-large" else gpu.BASE
    about = {"device": "NVIDIA H100 80GB HBM3", "matmul_rate": 7e14, "loss": 10.0, "gradient_norm": 2.0}
    return [
        {
            "settings": {"stage": "speed", "variant": name, "length": length, "model": model, "shape": shape},
            "round": 0,
            "result": {"seconds": value, "peak_bytes": 2**31, **about, **more},
        }
        for name, value in seconds.items()
    ]


FAST = {"full": 0.25, "checkpointing": 0.4, "two_phase": 0.35, "published": 1.0, "cached": 0.3}


def test_shares_and_ratios_are_those_of_the_rows(tmp_path):
    rows = steps_of("BART-large", 65536, FAST)
    gpu_plots.draw(rows, tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").stat().st_size > 10_000
    text = gpu_report.table(rows)
    assert text.startswith("NVIDIA H100 80GB HBM3: bfloat16 matmuls at 700 TFLOP/s, measured; 989 published.")
    assert "| BART-large | 64K | **cached_ds** | 0.300 | 218,453 | 1.000 |" in text
    assert "| full backpropagation | 0.250 | 262,144 | 1.200 |" in text
    results = gpu_report.models(rows, "speed")["BART-large"]
    measured, published = (gpu_report.share(results, "cached", 65536, published=each) for each in (False, True))
    assert published / measured == pytest.approx(7e14 / 989e12)
    assert not broken(promises(rows))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seconds": {**FAST, "cached": 0.41}}, "BART-large, 64K: cached / checkpointing"),
        ({"seconds": {name: 10 * value for name, value in FAST.items()}}, "share of the measured matmul peak"),
    ],
)
def test_each_promise_of_speed_can_be_broken(change, what):
    assert any(what in words for words in broken(promises(steps_of("BART-large", 65536, **change))))


def test_a_peer_may_run_out_of_memory_and_a_wrong_text_may_not():
    rows = steps_of("BART-large", 65536, FAST)
    rows[0]["result"] = {"failed": gpu_report.NO_MEMORY}
    assert not broken(promises(rows)) and "| full backpropagation | out of memory | – |" in gpu_report.speed(rows)
    rows[-1]["result"] = {"failed": gpu_report.NO_MEMORY}
    assert broken(promises(rows)) == ["stages and steps that failed"]
    late = [{**row, "result": {"failed": gpu_report.NO_TIME}} for row in rows]
    assert gpu_report.failed(late) == late[-1:], "cached_ds is what is to be measured"
    assert gpu_report.notes(rows) == ["failed: speed cached 65536: out of memory"]
    what = {"stage": "generation", "model": "m", "length": 9, "beams": 4, "tokens": 4}
    rows = [{"settings": what, "result": {"seconds": 1.0, "peak_bytes": 1, "same_tokens": False}, "round": 0}]
    assert broken(promises(rows)) == ["generated texts that are not Hugging Face's"]


def test_growth_is_per_token_of_long_documents_only():
    rows = [
        {**row, "settings": {**row["settings"], "stage": "memory"}, "result": {"peak_bytes": 7000 * length + 2**28}}
        for length in (64, 65536, 524288)
        for row in steps_of("BART-base", length, {"cached": 1.0})
    ]
    assert gpu_report.growth(gpu_report.models(rows, "memory")["BART-base"], "cached") == pytest.approx(7000)
    assert broken(promises(rows)) == ["cached_ds grows by, bytes per token"]


def test_devices_have_the_peak_of_their_name():
    rates = {name: device.published_rate(name) for name in ("NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA A100-SXM4-80GB")}
    assert rates == {"NVIDIA H100 PCIe": 756e12, "NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": None}
