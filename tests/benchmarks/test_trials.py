"""Trials: fresh processes, their limits and failures, and the file that is resumed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from made_up import FIELDS, TINY

from harness import trials
from harness.machine import BENCHMARKS, Machine
from harness.trials import Store, Trial

MACHINE = Machine(cores=(0,), timeout=60)
PROGRAM = Path(__file__).parent / "programs" / "run_trial.py"


def test_a_trial_runs_in_a_fresh_process_and_reports_everything():
    settings = {"variant": "cached", "length": 61, "fields": FIELDS, "shape": TINY, "probe": "matmuls"}
    found = trials.run(Trial(settings), MACHINE)
    assert {"seconds", "peak_bytes", "model_bytes", "loss", "gradient_norm", "gradient_bytes"} <= found.keys(), found
    assert found["passes"] == 3 + 2  # of five windows, two at once; backward begins with the one whose graph is there
    assert found["windows_per_pass"] == 0, "nothing was left to the machine"
    assert found["encoder_forward"] + found["encoder_backward"] < found["seconds"]
    assert len(found["matmuls"]) == 2 and found["peak_bytes"] > found["gradient_bytes"] > 0
    assert "more than" in trials.run(Trial(settings), dataclasses.replace(MACHINE, timeout=0.5))["failed"]
    settings |= {"variant": "full", "fields": {}, "shape": {**TINY, "vocabulary": 10**8}}
    assert trials.run(Trial(settings), dataclasses.replace(MACHINE, memory_gib=3))["failed"] == "out of memory"


def test_processes_at_once_have_cores_of_their_own_while_there_are_enough():
    machine = Machine(threads=2, cores=(3, 5, 7, 8))
    assert [machine.share(number).cores for number in range(3)] == [(3, 5), (7, 8), (3, 5)]
    assert Machine(cores=(4, 7)).share(1) == Machine(cores=(7,))


def test_a_store_goes_on_where_it_stopped(tmp_path):
    path, settings = tmp_path / "x.json", {"variant": "full", "length": 1}
    store = Store(path, resume=True, about={})
    store.add(Trial(settings), {"seconds": 1.0})
    store.add(Trial({**settings, "length": 2}), {"failed": "out of memory"})
    assert store.find(Trial({**settings, "length": 2}, round=1)) == {"failed": "out of memory"}, "not tried again"
    again = Store(path, resume=True, about={})
    assert again.find(Trial(settings)) == {"seconds": 1.0} and again.find(Trial(settings, round=1)) is None
    assert again.find(Trial({**settings, "length": 2})) is None, "a failure is tried again by --resume"
    assert Store(path, resume=False, about={}).rows == []


def test_rows_of_a_plan_stand_in_its_order(tmp_path):
    one, two, other = (Trial({"length": length}) for length in (1, 2, 3))
    store = Store(tmp_path / "x.json", resume=False, about={})
    for trial in (two, other, one):
        store.add(trial, {"seconds": 1.0})
    assert [row["settings"] for row in store.rows_of([one, two, Trial({"length": 4})])] == [one.settings, two.settings]


def test_a_table_is_written_even_if_nothing_was_left_to_run(tmp_path):
    written, done, new = [], Trial({"length": 1}), Trial({"length": 2})
    (store := Store(tmp_path / "x.json", resume=True, about={})).add(done, {"seconds": 1.0})

    def go_on(*plan):
        trials.run_all(plan, Machine(), store, after_each=lambda: written.append(len(store.rows)), run=lambda *_: {})

    go_on(done)
    assert written == [1]
    go_on(done, new)
    assert written == [1, 1, 2]


def test_a_benchmark_that_is_killed_leaves_no_trial_behind(tmp_path):
    settings = {"variant": "full", "length": 100_000, "fields": {}, "shape": {}, "probe": "step"}
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    parent = subprocess.Popen([sys.executable, str(PROGRAM), json.dumps(settings)], cwd=tmp_path, env=environment)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + 30
    while not (found := children.read_text(encoding="ascii").split()):
        assert time.monotonic() < deadline, "no trial was started"
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    while Path(f"/proc/{found[0]}/cmdline").exists():
        assert time.monotonic() < deadline, "the trial lives on"
        time.sleep(0.1)
