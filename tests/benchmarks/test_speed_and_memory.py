"""Speed, memory, longest: their tables, promises and plots on rows that are made up; the longest document for real."""

from __future__ import annotations

import argparse
import json
import sys

import pytest
import torch
from made_up import FIELDS, TINY, rows_of
from safetensors.torch import save_file

import longest
import memory
import speed
from reports import plots
from reports.results import Promise
from subjects.shape import Shape
from subjects.variants import NAMES


def arguments(**values):
    defaults = {"shape": {}, "cached_fields": {}, "variants": NAMES, "lengths": [4096, 16384], "rounds": [2, 1]}
    return argparse.Namespace(**defaults | values)


def speeds(settings):
    if settings["variant"] == "led":
        return {"failed": "out of memory"}
    seconds = settings["length"] / (100 if settings["variant"] == "cached" else 80)
    alone = {"forward": seconds / 5, "backward": seconds / 3, "rate": 1e11}
    inside = {"encoder_forward": seconds / 4, "encoder_backward": seconds / 2, "matmuls": [alone, alone]}
    return {"seconds": seconds, "cpu_seconds": seconds} | (inside if settings["probe"] == "matmuls" else {})


def slow_when_long(settings):
    return speeds(settings) | ({"seconds": 999.0} if settings["length"] == 16384 else {})


def test_speed_says_what_was_measured(tmp_path):
    plan = speed.plan(arguments(cached_fields={"windows_per_pass": 1}))  # the one whose graph is kept
    assert [trial.settings["variant"] for trial in plan[: len(NAMES)]] == list(NAMES), "interleaved"
    rows, slow = rows_of(plan, speeds), rows_of(plan, slow_when_long)
    text = speed.table(rows, shape=Shape())
    assert "| 4K | LED, HF gradient checkpointing | out of memory | – | – | – |" in text
    assert "| 16K | full backpropagation | 204.8 | 0.800 | 80 |" in text
    assert "| 16K | 122.9 | 118.2 | 96 % | 100 |" in text
    assert all(promise.passed for promise in speed.promises(rows))
    assert not all(promise.passed for promise in speed.promises(slow))
    assert not speed.disturbed(rows, threads=1)
    assert len(speed.disturbed(slow, threads=1)) == len(NAMES) - 1  # LED failed
    plots.speed(rows, tmp_path / "speed.png", shape=Shape(), model_seconds=speed.model_seconds)
    assert (tmp_path / "speed.png").stat().st_size > 10_000


def memories(settings):
    grows = {"cached": 6000, "cached_disk": 20}.get(settings["variant"], 40000)
    saved = 3072.0 if settings["variant"] == "cached" else 39936.0
    return (
        {"peak_bytes": grows * settings["length"] + 2**29, "cpu_seconds": 0.005 * settings["length"]}
        if settings["probe"] == "step"
        else {"saved_per_token": saved}
    )


def test_memory_says_what_was_measured(tmp_path):
    plan = memory.plan(arguments(lengths=[16384, 65536], rounds=1, peer_limit=None, saved_length=8192))
    rows = rows_of(plan, memories)
    text = memory.table(rows)
    assert "| full backpropagation | 1,137 | – | – | 5.00 |" in text
    assert "| **cached_ds** | 606 | 887 | 6,000 | 5.00 → 5.00 |" in text
    assert "| **cached_ds** | 3,072 | 3,072 | 3,072 |" in text
    assert all(promise.passed and promise.value is not None for promise in memory.promises(rows, shape=Shape()))
    assert "FAIL" in Promise("x", 2.0, 1.0).line() and "PASS" in Promise("x", 2.0, 1.0, at_least=True).line()
    memory.plot(rows, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 10_000


def run_longest(monkeypatch, folder, *more):
    monkeypatch.setattr(longest, "RUNS", {"one": FIELDS, "two": {"windows_per_pass": 1}})
    command = ["longest.py", "--tokens", "61", "--output_dir", str(folder), "--shape", json.dumps(TINY), *more]
    monkeypatch.setattr(sys, "argv", command)
    return longest.main()


def test_the_two_runs_of_the_longest_document_are_compared(tmp_path, capsys, monkeypatch):
    assert run_longest(monkeypatch, tmp_path) == 0, capsys.readouterr().out
    text, content = (tmp_path / "longest.md").read_text(encoding="utf-8"), (tmp_path / "longest.json").read_bytes()
    assert text.count("| one |") == 1 and "The gradients of the two runs differ by at most" in text
    assert len(json.loads(content)["trials"]) == 2
    monkeypatch.setattr(longest, "run_both", None)
    assert run_longest(monkeypatch, tmp_path, "--resume") == 0, "both runs are there"
    assert (tmp_path / "longest.md").read_text(encoding="utf-8") == text
    assert (tmp_path / "longest.json").read_bytes() == content


@pytest.mark.slow
def test_a_run_of_the_longest_document_that_fails_breaks_the_promises(tmp_path, capsys, monkeypatch):
    run = longest.trials.run

    def fail_second(trial, machine, **options):
        return {"failed": "out of memory"} if trial.settings["run"] == "two" else run(trial, machine, **options)

    with monkeypatch.context() as patch:
        patch.setattr(longest.trials, "run", fail_second)
        assert run_longest(monkeypatch, tmp_path, "--parallel") == 1
    shown = capsys.readouterr().out
    assert "| two | out of memory | – | – | – |" in shown and "differ by at most" not in shown
    assert shown.count("FAIL") == 2 and shown.count("PASS") == 1
    assert run_longest(monkeypatch, tmp_path, "--resume") == 0, "one run alone cannot be compared: both are new"


def test_gradients_that_differ_are_found(tmp_path):
    same, other = {"a": torch.ones(3), "b": torch.zeros(2)}, {"a": torch.tensor([1.0, 1.0, 1.1]), "b": torch.zeros(2)}
    save_file(same, tmp_path / "1"), save_file(other, tmp_path / "2")
    error, name = longest.worst_error(tmp_path / "1", tmp_path / "2")
    assert name == "a" and error == pytest.approx(0.1 / 3**0.5)
