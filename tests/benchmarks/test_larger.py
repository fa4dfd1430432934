"""Larger models: one trial for real, and the table and promises on rows that are made up."""

from __future__ import annotations

import dataclasses
import os
import sys

import pytest
from made_up import broken, rows_of

import larger
from harness.machine import Machine
from harness.runners import LocalRunner
from subjects.trainers import ALONE

TINY = {"vocabulary": 64, "width": 32, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "feed_forward": 64}
TINY |= {"window": 16, "target": 6}
MODEL = larger.Model(title="tiny", shape=TINY, layers=3, memory=5)
BYTES = {"parameters": 2**30, "gradients": 2**30, "optimizer": 2**31, "master": 0, "buckets": 7}


def test_the_shapes_are_beyond_bart_large():
    whole = [larger.parameters(model, model.layers) for model in larger.MODELS]
    assert all(count > 406_291_456 for count in whole), "facebook/bart-large"
    assert all(16 * count > model.memory * 2**30 for count, model in zip(whole, larger.MODELS, strict=True))


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("zero_ops")
@pytest.mark.parametrize("variant", larger.ENGINE_TITLES)
def test_two_ranks_take_the_steps_of_one_process(variant):
    machine = Machine(cores=tuple(os.sched_getaffinity(0)))
    one, two = (
        LocalRunner().run(larger._trial(MODEL, name, ranks, memory=None), machine)
        for name, ranks in ((ALONE, 1), (variant, 2))
    )
    expected = one["ranks"][0]["losses"]
    assert expected[-1] < expected[0]
    for rank in two["ranks"]:
        assert rank["losses"] == pytest.approx(expected, rel=larger.TOLERANCE)
        assert rank["state_bytes"]["optimizer"] < 0.6 * one["ranks"][0]["state_bytes"]["optimizer"]


def result_of(settings, *, peak=2**33):
    """A made-up result: memory falls with the ranks, and one process with a limit fails."""
    if settings["memory"] and settings["variant"] == ALONE:
        return {"failed": "rank 0: out of memory"}
    rank = {"losses": [3.0, 2.5, 2.0], "state_bytes": BYTES, "peak_bytes": peak / settings["ranks"], "seconds": [1.0]}
    return {"ranks": [rank] * settings["ranks"], "seconds": 1.0}


def rows():
    return rows_of(larger.plan(MODEL, [2, 4]), result_of)


@pytest.fixture
def only_tiny(monkeypatch):
    monkeypatch.setattr(larger, "MODELS", (MODEL,))


@pytest.mark.usefixtures("only_tiny")
def test_the_table_says_what_was_measured():
    text = larger.table(rows())
    assert "| one process | 1 | no limit | 4.00 | 8.00 | 3.0000, 2.5000, 2.0000 |" in text
    assert "| one process | 1 | 5 | – | – | out of memory |" in text
    assert "| ZeRO-3, offload | 4 | 5 | 4.00 | 2.00 | 3.0000, 2.5000, 2.0000 |" in text


def failing(found):
    return broken(larger.promises(found))


@pytest.mark.usefixtures("only_tiny")
def test_each_promise_can_be_broken():
    assert len(larger.promises(rows())) == 2 + 2 * len(larger.ENGINE_TITLES) and not failing(rows())
    found = rows()
    found[1] = found[1] | {"result": found[0]["result"]}
    assert failing(found) == ["tiny: one process with the limit trains"]
    found = rows()
    found[2] = found[2] | {"result": {"failed": "rank 1: out of memory"}}
    assert not failing(found), "two ranks may need more than the limit"
    found[4] = found[4] | {"result": {"failed": "rank 1: more than 3600 s"}}
    assert failing(found) == ["tiny: trials without a limit or on 4 ranks that failed"]
    found = rows()
    for rank in found[-1]["result"]["ranks"]:
        rank["peak_bytes"], rank["losses"] = 7 * 2**30, [3.0, 2.5, 2.1]
    assert [what.split(": ")[1].split(" on ")[0] for what in failing(found)] == [
        "relative difference of a loss to one process", "peak per rank",
    ]  # fmt: skip


@pytest.mark.usefixtures("only_tiny")
def test_the_limit_of_a_trial_is_that_of_its_model(tmp_path, monkeypatch):
    seen = []

    def run(self, trial, machine):  # noqa: ARG001
        seen.append(machine.memory_gib)
        return result_of(trial.settings)

    monkeypatch.setattr(LocalRunner, "run", run)
    monkeypatch.setattr(sys, "argv", ["larger.py", "--output_dir", str(tmp_path), "--ranks", "2", "4"])
    assert larger.main() == 0
    assert seen == [20, *[5] * 5]
    assert {path.name for path in tmp_path.iterdir()} == {"larger.md", "larger.json"}


@pytest.mark.usefixtures("only_tiny")
def test_a_run_that_goes_on_measures_what_failed_and_what_changed(tmp_path, monkeypatch, capsys):
    def go_on(peak):
        monkeypatch.setattr(LocalRunner, "run", lambda _, trial, __: result_of(trial.settings, peak=peak))
        monkeypatch.setattr(sys, "argv", ["larger.py", "--output_dir", str(tmp_path), "--resume"])
        assert larger.main() == 0
        return capsys.readouterr().out

    first = go_on(2**33)
    assert go_on(2**32) == first, "the trial that failed, measured again, stands where it stood"
    monkeypatch.setattr(larger, "MODELS", (dataclasses.replace(MODEL, memory=4),))
    changed = go_on(2**32)
    assert "| one process | 1 | 4 | – | – | out of memory |" in changed
    assert "| FSDP2 | 4 | 4 | 4.00 | 1.00 |" in changed and "| 5 |" not in changed
