"""Larger models: one cell for real, and the table and promises on rows that are made up."""

from __future__ import annotations

import dataclasses
import os
import sys

import larger
import pytest
from harness.cells import Machine
from harness.crew import Local
from lab.slow import slow_but
from subjects.engines import ALONE

TINY = {"vocabulary": 64, "width": 32, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "feed_forward": 64}
TINY |= {"window": 16, "target": 6}
MODEL = larger.Model(title="tiny", shape=TINY, layers=3, memory=5)
BYTES = {"parameters": 2**30, "gradients": 2**30, "optimizer": 2**31, "master": 0, "buckets": 7}


def test_the_shapes_are_beyond_bart_large():
    whole = [model.parameters(model.layers) for model in larger.MODELS]
    assert all(count > 406_291_456 for count in whole), "facebook/bart-large"
    assert all(16 * count > model.memory * 2**30 for count, model in zip(whole, larger.MODELS, strict=True))


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("zero_ops")
@pytest.mark.parametrize("variant", slow_but(["fsdp2"], larger.ENGINES))
def test_two_ranks_take_the_steps_of_one_process(variant):
    machine = Machine(cores=tuple(os.sched_getaffinity(0)))
    one, two = (
        Local().run(larger._cell(MODEL, name, ranks, memory=None), machine)
        for name, ranks in ((ALONE, 1), (variant, 2))
    )
    expected = one["ranks"][0]["losses"]
    assert expected[-1] < expected[0]
    for rank in two["ranks"]:
        assert rank["losses"] == pytest.approx(expected, rel=larger.TOLERANCE)
        assert rank["held"]["optimizer"] < 0.6 * one["ranks"][0]["held"]["optimizer"]


def made_up(cell, *, peak):
    settings = cell.settings
    if settings["memory"] and settings["variant"] == ALONE:
        return {"failed": "rank 0: out of memory"}
    rank = {"losses": [3.0, 2.5, 2.0], "held": BYTES, "peak_bytes": peak / settings["ranks"], "seconds": [1.0]}
    return {"ranks": [rank] * settings["ranks"], "seconds": 1.0}


def rows(peak=2**33):
    found = larger.plan(MODEL, [2, 4])
    return [{"settings": cell.settings, "result": made_up(cell, peak=peak)} for cell in found]


@pytest.fixture
def only_tiny(monkeypatch):
    monkeypatch.setattr(larger, "MODELS", (MODEL,))


@pytest.mark.usefixtures("only_tiny")
def test_the_table_says_what_was_measured():
    text = larger.table(rows())
    assert "| one process | 1 | no limit | 4.00 | 8.00 | 3.0000, 2.5000, 2.0000 |" in text
    assert "| one process | 1 | 5 | – | – | out of memory |" in text
    assert "| ZeRO-3, offload | 4 | 5 | 4.00 | 2.00 | 3.0000, 2.5000, 2.0000 |" in text


def broken(found):
    return [limit.what for limit in larger.limits(found) if not limit.passed]


@pytest.mark.usefixtures("only_tiny")
def test_each_promise_can_be_broken():
    assert len(larger.limits(rows())) == 2 + 2 * len(larger.ENGINES) and not broken(rows())
    found = rows()
    found[1] = found[1] | {"result": found[0]["result"]}
    assert broken(found) == ["tiny: one process with the limit trains"]
    found = rows()
    found[2] = found[2] | {"result": {"failed": "rank 1: out of memory"}}
    assert not broken(found), "two ranks may need more than the limit"
    found[4] = found[4] | {"result": {"failed": "rank 1: more than 3600 s"}}
    assert broken(found) == ["tiny: cells without a limit or on 4 ranks that failed"]
    found = rows()
    for rank in found[-1]["result"]["ranks"]:
        rank["peak_bytes"], rank["losses"] = 7 * 2**30, [3.0, 2.5, 2.1]
    assert [what.split(": ")[1].split(" on ")[0] for what in broken(found)] == [
        "relative difference of a loss to one process", "peak per rank",
    ]  # fmt: skip


@pytest.mark.usefixtures("only_tiny")
def test_the_limit_of_a_cell_is_that_of_its_model(tmp_path, monkeypatch):
    seen = []

    def run(self, cell, machine):  # noqa: ARG001
        seen.append(machine.memory_gib)
        return made_up(cell, peak=2**33)

    monkeypatch.setattr(Local, "run", run)
    monkeypatch.setattr(sys, "argv", ["larger.py", "--output_dir", str(tmp_path), "--ranks", "2", "4"])
    assert larger.main() == 0
    assert seen == [20, *[5] * 5]
    assert {path.name for path in tmp_path.iterdir()} == {"larger.md", "larger.json"}


@pytest.mark.usefixtures("only_tiny")
def test_a_run_that_goes_on_measures_what_failed_and_what_changed(tmp_path, monkeypatch, capsys):
    def go_on(peak):
        monkeypatch.setattr(Local, "run", lambda _, cell, __: made_up(cell, peak=peak))
        monkeypatch.setattr(sys, "argv", ["larger.py", "--output_dir", str(tmp_path), "--resume"])
        assert larger.main() == 0
        return capsys.readouterr().out

    first = go_on(2**33)
    assert go_on(2**32) == first, "the cell that failed, measured again, stands where it stood"
    monkeypatch.setattr(larger, "MODELS", (dataclasses.replace(MODEL, memory=4),))
    changed = go_on(2**32)
    assert "| one process | 1 | 4 | – | – | out of memory |" in changed
    assert "| FSDP2 | 4 | 4 | 4.00 | 1.00 |" in changed and "| 5 |" not in changed
